"""Held-out pairs of the built-in world, by what is held out in them: a category, a pairing, a fault."""

from __future__ import annotations

from collections.abc import Sequence

from edit_r1.data.store import JudgedPair
from edit_r1.evaluation.metrics import ScoredPair, tie_half
from edit_r1.records import Edit
from edit_r1.world.faults import HELDOUT_FAULT
from edit_r1.world.instructions import HELDOUT_CATEGORY


def heldout_kinds(pairs: Sequence[JudgedPair], scored: Sequence[ScoredPair]) -> dict[str, float | None]:
    """The share of pairs in the preferred order, ties half, of each kind; None where there is no such pair.

    Returns:
        `category_tie_half`: of tasks of the held-out category. `pairing_tie_half`: of all others, which show the
        held-out pairing. `fault_tie_half`: of the pairs, of both, in which one of the edits has the held-out fault.
    """
    decided = [(pair, score) for pair, score in zip(pairs, scored, strict=True) if score.choice != "same"]
    kinds = {
        "category": [score for _, score in decided if score.category == HELDOUT_CATEGORY],
        "pairing": [score for _, score in decided if score.category != HELDOUT_CATEGORY],
        "fault": [s for p, s in decided if _has_fault(p.preference.first) != _has_fault(p.preference.second)],
    }
    return {f"{name}_tie_half": tie_half(found) if found else None for name, found in kinds.items()}


def _has_fault(edit: Edit) -> bool:
    return HELDOUT_FAULT in edit.editor.split("+")  # drawn candidates are named by their faults
