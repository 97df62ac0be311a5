"""Aggregation: every number here can be derived on paper."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.errors import UserError
from edit_r1.records import Check, Principle, PrincipleCategory, Provenance, Verdict
from edit_r1.stages.data import Aggregation
from edit_r1.verifier.aggregation import (
    AGGREGATES,
    confident,
    expected,
    find_aggregate,
    min_geomean,
    model,
    reduce_scores,
    weighted,
)
from edit_r1.verifier.engines.base import Completion

PROVENANCE = Provenance("m", "r", "h", "{}", 64)
Row = tuple[PrincipleCategory, float, bool]


def verdict(*rows: Row, score: float = 6.0) -> Verdict:
    checks = tuple(
        Check(Principle(f"q{k}", category, weight), met, "") for k, (category, weight, met) in enumerate(rows)
    )
    return Verdict(checks, score, "", PROVENANCE)


MIXED = verdict(("follow", 3, True), ("follow", 1, False), ("keep", 2, True), ("keep", 2, False), ("quality", 1, True))


def probable(scores: dict[float, float] | None = None, log_prob: float | None = None) -> Completion:
    return Completion("", finished=True, score_probs=scores, log_prob=log_prob)


def test_model_is_the_traces_own_score() -> None:
    assert model(MIXED, probable()) == 6.0


def test_weighted() -> None:
    """Met weight 3 + 2 + 1 = 6 of 9."""
    assert weighted(MIXED, probable()) == pytest.approx(60 / 9)


def test_min_geomean() -> None:
    """Follow 3/4, keep 2/4, quality 1: 10 sqrt(min(3/4, 1/2) * 1) = 10 sqrt(1/2)."""
    assert min_geomean(MIXED, probable()) == pytest.approx(10 * math.sqrt(0.5))


def test_min_geomean_one_side_at_zero_is_zero() -> None:
    assert min_geomean(verdict(("follow", 1, False), ("keep", 1, True), ("quality", 1, True)), probable()) == 0
    assert min_geomean(verdict(("follow", 1, True), ("keep", 1, True), ("quality", 1, False)), probable()) == 0


def test_min_geomean_leaves_out_a_side_without_principles() -> None:
    """Without quality: 10 * min(1/2, 1). With quality alone: 10 * 1/4."""
    assert min_geomean(
        verdict(("follow", 1, True), ("follow", 1, False), ("keep", 1, True)), probable()
    ) == pytest.approx(5)
    assert min_geomean(verdict(("quality", 1, True), ("quality", 3, False)), probable()) == pytest.approx(2.5)


def test_no_checks_no_aggregate() -> None:
    for aggregate in (weighted, min_geomean):
        with pytest.raises(ValueError, match="no checks"):
            aggregate(verdict(), probable())
        with pytest.raises(ValueError, match="no checks"):
            aggregate(verdict(("follow", 0, True)), probable())
    with pytest.raises(ValueError, match="negative"):
        weighted(verdict(("follow", 1, True), ("keep", -1, True)), probable())


def test_expected() -> None:
    """0.1 * 4 + 0.4 * 8 over the 0.5 that lies within [0, 10]: 3.6 / 0.5."""
    assert expected(MIXED, probable({4.0: 0.1, 8.0: 0.4, 11.0: 0.5})) == pytest.approx(7.2)


def test_expected_without_probabilities_is_the_written_score() -> None:
    assert expected(MIXED, probable()) == expected(MIXED, probable({})) == expected(MIXED, probable({3.0: 0.0})) == 6.0
    assert expected(MIXED, probable({3.0: math.nan})) == 6.0


def test_confident() -> None:
    """6 * 0.25; a rounding error above a probability of 1 counts as 1."""
    assert confident(MIXED, probable(log_prob=math.log(0.25))) == pytest.approx(1.5)
    assert confident(MIXED, probable(log_prob=1e-6)) == 6.0


def test_confident_without_probabilities_is_no_guess() -> None:
    for unknown in (None, math.nan):
        with pytest.raises(UserError, match="no log-probabilities"):
            confident(MIXED, probable(log_prob=unknown))


def test_settings_know_every_aggregate() -> None:
    assert set(get_args(Aggregation)) == set(AGGREGATES)


CATEGORIES: tuple[PrincipleCategory, ...] = ("follow", "keep", "quality")
ROWS = st.lists(st.tuples(st.sampled_from(CATEGORIES), st.floats(0.01, 100), st.booleans()), min_size=1, max_size=8)


@given(
    ROWS, st.floats(0, 10), st.dictionaries(st.floats(0, 12), st.floats(0, 1), max_size=6), st.floats(max_value=0.01)
)
def test_every_aggregate_is_on_the_scale(
    rows: list[Row], score: float, probs: dict[float, float], log_prob: float
) -> None:
    for aggregate in AGGREGATES.values():
        assert 0.0 <= aggregate(verdict(*rows, score=score), probable(probs, log_prob)) <= 10.0


@given(ROWS, st.integers(0, 7))
def test_meeting_one_more_principle_never_costs(rows: list[Row], index: int) -> None:
    better = list(rows)
    category, weight, _ = rows[index % len(rows)]
    better[index % len(rows)] = (category, weight, True)
    for aggregate in (weighted, min_geomean):
        assert aggregate(verdict(*better), probable()) >= aggregate(verdict(*rows), probable()) - 1e-12


def test_unknown_aggregate() -> None:
    assert find_aggregate("weighted") is weighted
    with pytest.raises(UserError, match="'median': choose one of model, weighted, min_geomean, expected"):
        find_aggregate("median")


def test_reduce() -> None:
    """Scores 2, 4, 9: mean 5, squares 9 + 1 + 16 = 26, over n - 1 = 2: sqrt(13). The failure is only counted."""
    reduced = reduce_scores([2.0, None, 4.0, 9.0])
    assert (reduced.mean, reduced.failures) == (5.0, 1)
    assert reduced.spread == pytest.approx(math.sqrt(13))


def test_reduce_few() -> None:
    assert (reduce_scores([7.0]).mean, reduce_scores([7.0]).spread) == (7.0, None)
    nothing = reduce_scores([None, None])
    assert (nothing.mean, nothing.spread, nothing.failures) == (None, None, 2)
