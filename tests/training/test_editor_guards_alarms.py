"""When the guards against reward hacking alarm: by hand, and on pictures of the built-in world."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edit_r1.records import Edit
from edit_r1.stages import GuardsConfig
from edit_r1.training.editor_guards import alarms, image_metrics
from edit_r1.training.editor_tasks import edit_metrics
from edit_r1.world.faults import candidate
from edit_r1.world.render import to_image
from edit_r1.world.tasks import WorldTask, generator, sample_task

NAN = float("nan")

BASE: dict[str, float | None] = {
    "probe_reward": 6.0,
    "probe_noop_rate": 0.1,
    "probe_oracle_success": 0.5,
    "probe_guard_diversity": 0.05,
    "probe_guard_high_frequency": 0.08,
    "probe_guard_edges": 0.12,
    "probe_guard_drift": 0.03,
}
LIMITS = GuardsConfig(noop_rate=0.4, diversity=0.5, high_frequency=1.5, blur=0.5, edges=1.5, drift=1.5, gap=0.2)
RAISED = {  # a limit: its metric, a value that is just allowed, one that is not, and what the sentence says of it
    "noop_rate": ("noop_rate", 0.399, 0.401, ("0.401", "0.4", "0.1")),
    "diversity": ("guard_diversity", 0.0251, 0.0249, ("0.0249", "0.5", "0.05")),
    "high_frequency": ("guard_high_frequency", 0.1199, 0.1201, ("0.12", "1.5", "0.08")),
    "blur": ("guard_high_frequency", 0.0401, 0.0399, ("0.0399", "0.5", "0.08")),
    "edges": ("guard_edges", 0.1799, 0.1801, ("0.18", "1.5", "0.12")),
    "drift": ("guard_drift", 0.0449, 0.0451, ("0.0451", "1.5", "0.03")),
    "gap": ("reward", 7.99, 8.01, ("8.01", "6", "0.5", "0.2", "oracle_success")),
}


def test_every_limit_has_its_alarm() -> None:
    assert set(RAISED) == set(GuardsConfig.model_fields) - {"stop"}
    assert alarms(BASE, BASE, LIMITS) == {}


@pytest.mark.parametrize("name", RAISED)
def test_an_alarm_at_its_limit(name: str) -> None:
    """On one side of the limit nothing, on the other one sentence under the limit's name; no limit, no alarm."""
    metric, allowed, beyond, words = RAISED[name]
    assert alarms(BASE | {f"probe_{metric}": allowed}, BASE, LIMITS) == {}
    now = BASE | {f"probe_{metric}": beyond}
    found = alarms(now, BASE, LIMITS)
    assert set(found) == {name}
    assert set(words) <= set(re.split(r"[ ,()]+", found[name]))
    assert alarms(now, BASE, LIMITS.model_copy(update={name: None})) == {}


def test_a_recipe_turns_guards_off() -> None:
    """TOML has no None: limits that nothing can pass do the same."""
    rises = dict.fromkeys(("high_frequency", "edges", "drift", "gap"), 1e9)
    limits = GuardsConfig(noop_rate=1, diversity=0, blur=0, **rises)
    for worst in (1.0, 0.0):
        now = dict.fromkeys(BASE, worst) | {"probe_reward": 10.0}
        assert len(alarms(now, BASE, LIMITS)) >= 3
        assert alarms(now, BASE, limits) == {}


@pytest.mark.parametrize("unknown", [NAN, None, math.inf, "missing"])
def test_what_was_not_measured_never_alarms(unknown: Any) -> None:
    """Neither as the number of now nor as that of the base."""
    for metric, _, beyond, _ in RAISED.values():
        name = f"probe_{metric}"
        with_unknown = {key: value for key, value in BASE.items() if key != name}
        with_unknown |= {} if unknown == "missing" else {name: unknown}
        assert alarms(with_unknown, BASE, LIMITS) == {}
        assert alarms(BASE | {name: beyond}, with_unknown, LIMITS) == {}
    assert alarms({}, {}, LIMITS) == {}


def test_a_base_that_copies_alarms_only_when_it_copies_more() -> None:
    base = BASE | {"probe_noop_rate": 0.6}
    assert alarms(base | {"probe_noop_rate": 0.5}, base, LIMITS) == {}
    assert set(alarms(base | {"probe_noop_rate": 0.7}, base, LIMITS)) == {"noop_rate"}


def test_a_base_of_zero_counts_as_one_grey_level() -> None:
    """1.5 / 255 = 0.00588."""
    base = BASE | {"probe_guard_drift": 0.0, "probe_guard_diversity": 0.0}
    assert alarms(base | {"probe_guard_drift": 0.0058}, base, LIMITS) == {}
    assert set(alarms(base | {"probe_guard_drift": 0.006}, base, LIMITS)) == {"drift"}


def test_the_oracle_is_the_judge_where_it_was_asked() -> None:
    """The reward rises by 0.3: with a judge that rises as much no gap; but the oracle, if there, decides."""
    base = {"probe_reward": 5.0, "probe_judge": 0.5}
    now = {"probe_reward": 8.0, "probe_judge": 0.8}
    assert alarms(now, base, LIMITS) == {}
    assert set(alarms(now | {"probe_judge": 0.5}, base, LIMITS)) == {"gap"}
    oracle = {"probe_oracle_success": 0.4}
    assert "oracle_success" in alarms(now | oracle, base | oracle, LIMITS)["gap"]
    assert alarms(now | oracle, base | {"probe_oracle_success": NAN}, LIMITS) == {}  # the judge is asked instead
    assert alarms({"probe_reward": 8.0}, {"probe_reward": 5.0}, LIMITS) == {}


@pytest.fixture(scope="module")
def world() -> list[WorldTask]:
    rng = generator(0, "val")
    return [sample_task(rng, "val") for _ in range(24)]


def made(tasks: Sequence[WorldTask], *faults: str, size: int = 1) -> list[Edit]:
    """An edit with these faults of every task, `size` of each."""
    rng = np.random.default_rng(0)
    edits: list[Edit] = []
    for task in tasks:
        record = task.record()
        for _ in range(size):
            image = to_image(candidate(rng, task.scene, task.operation, faults).image)
            edits.append(Edit(record, image, "drawn", 0))
    return edits


def probed(edits: Sequence[Edit], size: int = 1) -> dict[str, float]:
    return {f"probe_{name}": value for name, value in image_metrics(edits, size).items()}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("noise", {"high_frequency", "edges", "drift"}),
        ("grid", {"high_frequency", "edges", "drift"}),
        ("blur", {"blur"}),
        ("hallucinated", {"drift"}),
    ],
)
def test_defects_of_the_world_raise_the_alarm_that_fits(world: list[WorldTask], fault: str, expected: set[str]) -> None:
    """By the default limits; the right edits raise none."""
    base = probed(made(world))
    assert alarms(base, base, GuardsConfig()) == {}
    assert set(alarms(probed(made(world, fault)), base, GuardsConfig())) >= expected


def test_copies_of_the_world_are_counted(world: list[WorldTask]) -> None:
    """Every copy shows the source's scene, and no right edit does."""
    base, now = (
        {f"probe_{key}": value for key, value in edit_metrics(made(world[:8], *faults)).items()}
        for faults in ((), ("no_op",))
    )
    assert set(alarms(now, base, GuardsConfig())) == {"noop_rate"}


def test_a_collapsed_policy_loses_its_diversity(world: list[WorldTask]) -> None:
    """Groups of noisy edits against groups of right ones, which are all equal."""
    base, now = probed(made(world, "noise", size=3), 3), probed(made(world, size=3), 3)
    assert now["probe_guard_diversity"] == 0
    assert "diversity" in alarms(now, base, GuardsConfig())
    assert "diversity" not in alarms(base, base, GuardsConfig())
