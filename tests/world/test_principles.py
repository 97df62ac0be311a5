"""Principles and their truth, on scenes made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edit_r1.world.instructions import parse_instruction
from edit_r1.world.oracle import Reading
from edit_r1.world.principles import WEIGHT, Claim, Finding, principles_for
from edit_r1.world.scene import Scene, Thing
from edit_r1.world.tasks import generator, sample_task

CIRCLE, LETTER = Thing("small", "plain", "red", "circle"), Thing("large", "striped", "blue", "H")
SCENE = Scene((CIRCLE, None, LETTER, None), "gray", "neutral", "flat")
GREEN = replace(CIRCLE, colour="green")
QUALITY = ["is it free of noise and blur ?", "is it free of grid and border ?"]


def claims(text: str) -> tuple[Claim, ...]:
    operation = parse_instruction(text, SCENE)
    assert operation is not None
    return principles_for(SCENE, operation)


def judged(text: str, shown: Scene, *defects: str) -> list[Finding]:
    return [claim.judge(SCENE, Reading(shown, frozenset(defects), 0.0)) for claim in claims(text)]


def truth(text: str, shown: Scene, *defects: str) -> list[bool]:
    return [finding.met for finding in judged(text, shown, *defects)]


def evidence(text: str, shown: Scene, *defects: str) -> list[str]:
    return [finding.evidence for finding in judged(text, shown, *defects)]


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        (
            "make the red circle green",
            [
                "is the top-left green now ?",
                "does the top-left keep its size material shape ?",
                "do top-right bottom-left bottom-right stay ?",
                "do background tone style stay ?",
            ],
        ),
        (
            "make the tone warm",
            [
                "is the tone warm now ?",
                "do top-left top-right bottom-left bottom-right stay ?",
                "do background style stay ?",
            ],
        ),
        (
            "move the red circle to the top-right",
            [
                "is the top-left empty now ?",
                "is the top-right small plain red circle now ?",
                "do bottom-left bottom-right stay ?",
                "do background tone style stay ?",
            ],
        ),
        (
            "remove the blue H and replace the red circle with a green X",
            [
                "is the bottom-left empty now ?",
                "is the top-left green X now ?",
                "does the top-left keep its size material ?",
                "do top-right bottom-right stay ?",
                "do background tone style stay ?",
            ],
        ),
    ],
)
def test_questions_by_hand(text: str, questions: list[str]) -> None:
    assert [claim.principle.question for claim in claims(text)] == questions + QUALITY


RECOLOUR = "make the red circle green"
DONE = SCENE.with_cell(0, GREEN)


@pytest.mark.parametrize(
    ("shown", "defects", "expected"),
    [
        (DONE, [], "yyyyyy"),
        (SCENE, [], "nyyyyy"),  # nothing was done
        (SCENE.with_cell(0, replace(CIRCLE, colour="purple")), [], "nyyyyy"),  # another colour
        (SCENE.with_cell(0, replace(GREEN, size="large")), [], "ynyyyy"),  # overshoot
        (SCENE.with_cell(2, replace(LETTER, colour="green")), [], "nynyyy"),  # wrong target
        (DONE.with_cell(2, None), [], "yynyyy"),  # collateral
        (DONE.with_cell(3, GREEN), [], "yynyyy"),  # hallucination
        (SCENE.with_cell(0, None), [], "nnyyyy"),  # the thing is gone
        (replace(DONE, tone="warm"), [], "yyynyy"),
        (replace(DONE, style="outlined"), [], "yyynyy"),
        (DONE, ["noise"], "yyyyny"),
        (DONE, ["border"], "yyyyyn"),
        (DONE, ["blur", "grid"], "yyyynn"),
        (Scene((None,) * 4, "black", "cold", "flat"), ["noise", "grid"], "nnnnnn"),
    ],
)
def test_truth_of_a_recolouring_by_hand(shown: Scene, defects: list[str], expected: str) -> None:
    assert truth(RECOLOUR, shown, *defects) == [letter == "y" for letter in expected]


def test_truth_of_a_move_by_hand() -> None:
    """A thing that was copied instead fills its place but does not leave the old one."""
    text = "move the red circle to the top-right"
    goal = SCENE.with_cell(0, None).with_cell(1, CIRCLE)
    assert truth(text, goal) == [True] * 6
    assert truth(text, goal.with_cell(0, CIRCLE)) == [False, True, True, True, True, True]
    assert truth(text, goal.with_cell(1, GREEN)) == [True, False, True, True, True, True]
    assert truth(text, SCENE) == [False, False, True, True, True, True]


def test_truth_of_adding_and_removing_by_hand() -> None:
    """Every attribute of an added thing is asked for; a remnant is no removal."""
    text = "add a large dotted green diamond in the top-right"
    wanted = Thing("large", "dotted", "green", "diamond")
    assert truth(text, SCENE.with_cell(1, wanted)) == [True] * 5
    assert truth(text, SCENE.with_cell(1, replace(wanted, material="plain"))) == [False, True, True, True, True]
    assert truth("remove the red circle", SCENE.with_cell(0, None)) == [True] * 5
    assert truth("remove the red circle", SCENE.with_cell(0, replace(CIRCLE, size="large")))[0] is False


def test_truth_of_a_frame_change_by_hand() -> None:
    text = "make the tone warm"
    warm = replace(SCENE, tone="warm")
    assert truth(text, warm) == [True] * 5
    assert truth(text, replace(SCENE, tone="cold")) == [False, True, True, True, True]
    assert truth(text, replace(warm, background="black")) == [True, True, False, True, True]
    assert truth(text, warm.with_cell(1, GREEN)) == [True, False, True, True, True]


def test_truth_of_a_compound_by_hand() -> None:
    """Half of it: the other half's principle alone is unmet."""
    text = "remove the blue H and make the background black"
    goal = replace(SCENE.with_cell(2, None), background="black")
    assert truth(text, goal) == [True] * 6
    assert truth(text, replace(SCENE, background="black")) == [False, True, True, True, True, True]
    assert truth(text, SCENE.with_cell(2, None)) == [True, False, True, True, True, True]


def test_style_cannot_be_seen_without_things() -> None:
    """The oracle reads `flat` where nothing is drawn; that is no change of style."""
    outlined = Scene((CIRCLE, None, None, None), "gray", "neutral", "outlined")
    operation = parse_instruction("remove the red circle", outlined)
    assert operation is not None
    empty = Reading(Scene((None,) * 4, "gray", "neutral", "flat"), frozenset(), 0.0)
    assert all(claim.judge(outlined, empty).met for claim in principles_for(outlined, operation))


def test_evidence_by_hand() -> None:
    shown = replace(SCENE.with_cell(0, replace(GREEN, size="large")).with_cell(2, None), tone="cold")
    assert evidence(RECOLOUR, shown, "grid", "noise") == [
        "top-left red > green want green",
        "size small > large changed material plain > plain shape circle > circle",
        "top-right none > none "
        "bottom-left large > none changed striped > none changed blue > none changed H > none changed "
        "bottom-right none > none",
        "background gray > gray tone neutral > cold changed style flat > flat",
        "noise",
        "grid",
    ]
    assert evidence(RECOLOUR, SCENE.with_cell(0, None))[:2] == ["top-left red > none want green missed", "none"]
    assert evidence(RECOLOUR, DONE)[-2:] == ["clean", "clean"]


def test_every_task_has_all_three_categories_in_order() -> None:
    rng = generator(0, "train")
    counts: set[int] = set()
    for _ in range(500):
        task = sample_task(rng, "train")
        categories = [claim.principle.category for claim in task.claims]
        assert categories == sorted(categories, key=("follow", "keep", "quality").index)
        assert set(categories) == {"follow", "keep", "quality"}
        assert [claim.principle.weight for claim in task.claims] == [WEIGHT[category] for category in categories]
        questions = [claim.principle.question for claim in task.claims]
        assert len(set(questions)) == len(questions)
        counts.add(len(questions))
    assert counts <= {5, 6, 7, 8}


def test_all_claims_are_met_only_by_the_goal() -> None:
    """The claims of a task leave no freedom: any other scene with things breaks one."""
    rng = generator(1, "train")
    other = np.random.default_rng(1)
    for _ in range(300):
        task = sample_task(rng, "train")
        goal = task.operation.apply(task.scene)
        assert task.judge(Reading(goal, frozenset(), 0.0)).success
        index = int(other.integers(4))
        wrong = goal.with_cell(index, CIRCLE if goal.cells[index] != CIRCLE else GREEN)
        assert not task.judge(Reading(wrong, frozenset(), 0.0)).success
        tone = "warm" if goal.tone != "warm" else "cold"
        assert not task.judge(Reading(replace(goal, tone=tone), frozenset(), 0.0)).success
