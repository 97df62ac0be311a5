"""The rule that keeps one text of several, by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edit_r1.records import Check, Principle
from edit_r1.verifier.selection import agreement, select


@dataclass(frozen=True)
class Text:
    """The least that can be selected from; verdicts and the world's lessons have more."""

    checks: tuple[Check, ...]
    score: float


def text(met: str, score: float) -> Text:
    """A text whose checks are written as letters, y for met."""
    return Text(tuple(Check(Principle(str(i), "follow"), m == "y", "") for i, m in enumerate(met)), score)


GOLD = [True, True, False, False]


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        # 1. Agreement first: yynn agrees in 4 of 4, yyyy and nnnn in 2, yyyn in 3, whatever the average and the score.
        ([text("yyyy", 10.0), text("yynn", 0.0)], 1),
        ([text("nnnn", 0.0), text("yyyn", 10.0), text("yynn", 3.0)], 2),
        # 2. Of equal agreement (3 of 4), the higher average: yyyn has 3/4, ynnn 1/4.
        ([text("ynnn", 10.0), text("yyyn", 1.0)], 1),
        ([text("yyyn", 1.0), text("ynnn", 10.0)], 0),
        # 3. Of equal agreement and average, the higher score; yyyn and yyny agree in 3 of 4, and both have 3/4.
        ([text("yynn", 4.0), text("yynn", 6.5), text("yynn", 6.0)], 1),
        ([text("yyyn", 2.0), text("yyny", 2.5)], 1),
        # 4. Of equal all, the lower index.
        ([text("yynn", 5.0), text("yynn", 5.0)], 0),
        ([text("ynnn", 5.0), text("yyyn", 5.0), text("yyny", 5.0)], 1),
        # A single text is kept, however wrong.
        ([text("nnyy", 0.0)], 0),
    ],
)
def test_selection_rule(texts: list[Text], kept: int) -> None:
    """Gold is yynn. Each row can only be decided by the rule above it, for all earlier ones are tied."""
    assert select(texts, GOLD) == kept


def test_agreement_by_hand() -> None:
    """Gold is yynn: yynn agrees in 4 of 4 checks, yyyn in 3, nnyy in none."""
    assert agreement(text("yynn", 0).checks, GOLD) == 1.0
    assert agreement(text("yyyn", 0).checks, GOLD) == 0.75
    assert agreement(text("nnyy", 0).checks, GOLD) == 0.0
