"""What a score counts, by hand and for scores that are made of known costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.evaluation.costs import copy_score, score_costs
from edit_r1.evaluation.metrics import JudgedTrace
from edit_r1.records import Check, Failure, Principle, PrincipleCategory, Provenance, Verdict

ORDER: tuple[PrincipleCategory, ...] = ("follow", "keep", "quality")


def trace(unmet: tuple[int, int, int], score: float, *, copy: bool = False) -> JudgedTrace:
    """Two checks of each category, of which so many are unmet."""
    checks = [
        Check(Principle(f"{name} {k} ?", name), k >= count, "")
        for name, count in zip(ORDER, unmet, strict=True)
        for k in range(2)
    ]
    return JudgedTrace(Verdict(tuple(checks), score, "", Provenance("", "", "", "", 0)), None, copy=copy)


UNREADABLE = JudgedTrace(Failure("empty", ""), None, copy=True)
EVERY = [(f, k, q) for f in range(3) for k in range(3) for q in range(3)]


@given(st.tuples(*[st.floats(-4, 4)] * 3), st.floats(0, 10))
def test_known_costs_are_found_again(costs: tuple[float, float, float], full: float) -> None:
    """Scores that are linear in the counts give their own coefficients; a Failure says nothing, nor does a copy."""
    traces = [trace(u, full - sum(c * n for c, n in zip(costs, u, strict=True))) for u in EVERY]
    found = score_costs([*traces, UNREADABLE, trace((1, 0, 0), 0.0, copy=True)])
    assert found is not None
    assert [found[name] for name in ORDER] == pytest.approx(costs, abs=1e-6)


def test_by_hand() -> None:
    """All met 9; one follow unmet 5 and 6, one keep 8, one quality 7.5: 9 less the mean of each."""
    traces = [
        trace(u, s) for u, s in (((0, 0, 0), 9), ((1, 0, 0), 5), ((1, 0, 0), 6), ((0, 1, 0), 8), ((0, 0, 1), 7.5))
    ]
    assert score_costs(traces) == pytest.approx({"follow": 3.5, "keep": 1.0, "quality": 1.5})


def test_what_cannot_be_told_apart_is_none() -> None:
    """Quality always met; follow and keep unmet together; and nothing readable at all."""
    assert score_costs([trace((f, k, 0), 5) for f in range(3) for k in range(3)]) is None
    assert score_costs([trace((n, n, q), 5) for n in range(3) for q in range(3)]) is None
    assert score_costs([UNREADABLE]) is None


def test_what_a_copy_earns() -> None:
    """The mean over copies that could be read: (2 + 5) / 2; without any there is no number."""
    others = [trace((0, 0, 0), 9), UNREADABLE]
    assert copy_score([*others, trace((1, 0, 0), 2, copy=True), trace((1, 0, 0), 5, copy=True)]) == 3.5
    assert copy_score(others) is None
