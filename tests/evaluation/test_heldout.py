"""Held-out pairs by what is held out in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PIL import Image

from edit_r1.data.store import JudgedPair
from edit_r1.evaluation.heldout import heldout_kinds
from edit_r1.evaluation.verifier import scored_pair
from edit_r1.records import Edit, EditTask, Preference


def pair(category: str, first: str, second: str, choice: Any = "first") -> JudgedPair:
    """A pair whose candidates have these faults."""
    image = Image.new("RGB", (4, 4))
    task = EditTask(image, "make it so", category)
    return JudgedPair(Preference(task, Edit(task, image, first, 0), Edit(task, image, second, 0), choice, "script"))


def test_pairs_are_told_apart_by_category_and_fault() -> None:
    """Scores 2 and 1 say `first`; the fault is told apart where one edit has it alone, or beside another fault."""
    pairs = [
        pair("material", "right", "blur"),  # right
        pair("material", "right", "overshoot", "second"),  # wrong
        pair("colour", "overshoot+blur", "right", "second"),  # wrong
        pair("colour", "overshoot", "overshoot+blur"),  # right; both have it
        pair("colour", "right", "no_op", "same"),  # nobody's preference
    ]
    scored = [scored_pair(each, 2.0, 1.0) for each in pairs]
    assert heldout_kinds(pairs, scored) == {
        "category_tie_half": 0.5,
        "pairing_tie_half": 0.5,
        "fault_tie_half": 0.0,
    }
    tied = [replace(score, first=1.0) for score in scored]
    assert heldout_kinds(pairs, tied)["fault_tie_half"] == 0.5
    assert heldout_kinds(pairs[:1], scored[:1]) == {
        "category_tie_half": 1.0,
        "pairing_tie_half": None,
        "fault_tie_half": None,
    }
