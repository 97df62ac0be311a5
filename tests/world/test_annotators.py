"""Simulated annotators: what they dislike most, their margin, and their measured noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edit_r1.world.annotators import COST, SAME_MARGIN, prefer, utility
from edit_r1.world.instructions import parse_instruction
from edit_r1.world.oracle import Reading
from edit_r1.world.scene import Scene, Thing
from edit_r1.world.tasks import Truth, WorldTask, generator, sample_task

CIRCLE = Thing("small", "plain", "red", "circle")
SCENE = Scene((CIRCLE, None, Thing("large", "striped", "blue", "H"), None), "gray", "neutral", "flat")
DONE = SCENE.with_cell(0, replace(CIRCLE, colour="green"))


def task() -> WorldTask:
    operation = parse_instruction("make the red circle green", SCENE)
    assert operation is not None
    return WorldTask(SCENE, operation, "make the red circle green")


def likes(shown: Scene, *defects: str) -> float:
    return utility(task(), task().judge(Reading(shown, frozenset(defects), 0.0)))


def test_utility_by_hand() -> None:
    """One follow (4), three keep (2 each), two quality (1 each): 12 in all. One less the unmet share."""
    assert likes(DONE) == 1.0
    assert likes(DONE, "noise") == pytest.approx(1 - 1 / 12)
    assert likes(replace(DONE, tone="warm")) == pytest.approx(1 - 2 / 12)
    assert likes(SCENE.with_cell(0, replace(CIRCLE, colour="blue"))) == pytest.approx(1 - 4 / 12)
    assert likes(replace(DONE.with_cell(2, None), tone="warm"), "noise", "grid") == pytest.approx(1 - 6 / 12)


def test_an_untouched_copy_is_worth_nothing() -> None:
    """Whatever else it keeps; and also when its pixels are spoilt."""
    assert likes(SCENE) == 0.0
    assert likes(SCENE, "noise") == 0.0


def test_follow_costs_more_than_keep_and_keep_more_than_quality() -> None:
    """For any task, and by enough for a choice: a single unmet claim of each category."""
    assert COST["follow"] > COST["keep"] > COST["quality"] > 0
    rng = generator(0, "train")
    for _ in range(200):
        sampled = sample_task(rng, "train")
        reading = Reading(sampled.operation.apply(sampled.scene), frozenset(), 0.0)
        right = sampled.judge(reading)
        worth: dict[str, float] = {}
        for index, claim in enumerate(sampled.claims):
            findings = tuple(replace(f, met=f.met and i != index) for i, f in enumerate(right.findings))
            worth[claim.principle.category] = utility(sampled, Truth(findings, reading, noop=False))
        assert worth["follow"] + SAME_MARGIN < worth["keep"]
        assert worth["keep"] + SAME_MARGIN < worth["quality"]
        assert worth["quality"] + SAME_MARGIN < utility(sampled, right) == 1.0


@pytest.mark.parametrize("difference", [0.0, 0.02, 0.049, -0.049])
def test_within_the_margin_it_is_the_same(difference: float) -> None:
    rng = np.random.default_rng(0)
    assert {prefer(rng, 0.5, 0.5 + difference, noise=0.5) for _ in range(50)} == {"same"}


def test_without_noise_the_better_one_is_chosen() -> None:
    rng = np.random.default_rng(0)
    assert {prefer(rng, 0.5 + 0.051, 0.5, noise=0.0) for _ in range(50)} == {"first"}
    assert {prefer(rng, 0.5, 0.5 + 0.051, noise=0.0) for _ in range(50)} == {"second"}


@pytest.mark.parametrize("noise", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("better", ["first", "second"])
def test_measured_noise(noise: float, better: str) -> None:
    """Share of choices against the utility, within four standard errors of 10,000, whichever comes first."""
    rng = np.random.default_rng(1)
    first, second = (0.9, 0.4) if better == "first" else (0.4, 0.9)
    wrong = np.mean([prefer(rng, first, second, noise=noise) != better for _ in range(10_000)])
    assert wrong == pytest.approx(noise, abs=4 * np.sqrt(noise * (1 - noise) / 10_000))
