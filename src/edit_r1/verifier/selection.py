"""Which of several texts on one edit is kept for the cold start: a deterministic rule (paper section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edit_r1.records import Check


class Judged(Protocol):
    """What is looked at in a text: the answer to each principle, and the final score. A `Verdict` is one."""

    @property
    def checks(self) -> tuple[Check, ...]:
        """One per principle, in the order of the principles."""
        ...

    @property
    def score(self) -> float:
        """The text's own score, in [0, 10]."""
        ...


def agreement(checks: Sequence[Check], gold: Sequence[bool]) -> float:
    """Share of checks that agree with gold."""
    return sum(check.met == met for check, met in zip(checks, gold, strict=True)) / len(gold)


def select(texts: Sequence[Judged], gold: Sequence[bool]) -> int:
    """Index of the text to keep: agreement with gold, then higher average, then higher score, then lower index."""

    def rank(index: int) -> tuple[float, float, float, int]:
        text = texts[index]
        average = sum(check.met for check in text.checks) / len(text.checks)
        return agreement(text.checks, gold), average, text.score, -index

    return max(range(len(texts)), key=rank)
