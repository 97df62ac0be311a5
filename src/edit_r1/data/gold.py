"""Truth beside judgements: what the oracle says of each principle, and how often a verifier's checks agree with it."""

from __future__ import annotations

from collections.abc import Sequence

from edit_r1.records import Edit, Failure
from edit_r1.verifier.verifier import Judgement
from edit_r1.world.tasks import Truth, reading_from_json, world_task


def truth_of(edit: Edit, truth: str) -> Truth:
    """The oracle's word on an edit of the built-in world, from the reading stored beside it."""
    return world_task(edit.task).judge(reading_from_json(truth))


def gold_checks(edit: Edit, truth: str) -> list[bool]:
    """Whether each principle of the edit's task is met."""
    return [finding.met for finding in truth_of(edit, truth).findings]


def check_agreement(judgements: Sequence[Judgement], gold: Sequence[Sequence[bool]]) -> float:
    """Share of the checks of all readable traces that agree with gold; NaN when no trace is readable."""
    pairs = [
        (check.met, met)
        for judgement, truths in zip(judgements, gold, strict=True)
        for verdict in judgement.verdicts
        if not isinstance(verdict, Failure)
        for check, met in zip(verdict.checks, truths, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else float("nan")
