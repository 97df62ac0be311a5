"""Every expected number is derived by hand in the docstring of its test; the bootstrap is checked against theory."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.evaluation.editor_metrics import EditOutcome, editor_metrics, edits_by_category
from edit_r1.evaluation.metrics import (
    Confusion,
    JudgedTrace,
    ScoredPair,
    check_accuracy,
    ci95,
    confusion,
    failure_counts,
    failure_rate,
    pairs_by_category,
    pairwise_accuracy,
    tie_half,
    tie_rate,
    verifier_metrics,
)
from edit_r1.records import Check, Choice, Failure, Principle, PrincipleCategory, Provenance, Verdict

PROVENANCE = Provenance("tiny", "0", "0", "{}", 64)
PAIRS = [
    ScoredPair(8.0, 3.0, "first", "a", "add"),  # right
    ScoredPair(2.0, 3.0, "second", "a", "add"),  # right
    ScoredPair(3.0, 8.0, "first", "b", "move"),  # wrong
    ScoredPair(5.0, 5.0, "first", "b", "move"),  # tie
    ScoredPair(5.0, 5.0 + 5e-10, "second", "c", "move"),  # a tie: the difference is below 1e-9
    ScoredPair(None, 5.0, "second", "c", "move"),  # unreadable: undecided, though the readable side was preferred
    ScoredPair(None, None, "first", "d", "tone"),  # unreadable
    ScoredPair(1.0, 9.0, "same", "d", "tone"),  # left out
]


def verdict(*checks: tuple[PrincipleCategory, bool]) -> Verdict:
    made = tuple(Check(Principle("is it so ?", category), met, "clean") for category, met in checks)
    return Verdict(made, 5.0, "", PROVENANCE)


def swapped(pair: ScoredPair) -> ScoredPair:
    other: dict[Choice, Choice] = {"first": "second", "second": "first", "same": "same"}
    return replace(pair, first=pair.second, second=pair.first, choice=other[pair.choice])


def test_pairs_by_hand() -> None:
    """Of seven pairs with a preference two are right, one is wrong, four are undecided: 2/7, (2 + 4/2)/7 and 4/7."""
    assert pairwise_accuracy(PAIRS) == 2 / 7
    assert tie_half(PAIRS) == 4 / 7
    assert tie_rate(PAIRS) == 4 / 7


def test_just_above_the_tie_counts_as_an_order() -> None:
    assert pairwise_accuracy([ScoredPair(2e-9, 0.0, "first", "a")]) == 1.0
    assert tie_half([ScoredPair(2e-9, 0.0, "second", "a")]) == 0.0


def test_pairs_by_category() -> None:
    """Of add both are right; of move one is wrong and three are undecided; of tone one is undecided, one left out."""
    assert pairs_by_category(PAIRS) == {
        "add": {"pairwise_accuracy": 1.0, "tie_half": 1.0, "pairs": 2},
        "move": {"pairwise_accuracy": 0.0, "tie_half": 0.375, "pairs": 4},
        "tone": {"pairwise_accuracy": 0.0, "tie_half": 0.5, "pairs": 1},
    }


def test_checks_and_failures_by_hand() -> None:
    """Readable: follow yes/true, keep yes/false, quality no/true, follow no/false, keep yes/true; three of five agree.

    The failure's truth is not looked at; three failures of five traces, two of them cut off.
    """
    traces = [
        JudgedTrace(verdict(("follow", True), ("keep", True), ("quality", False)), (True, False, True)),
        JudgedTrace(Failure("no_score", ""), (True,)),
        JudgedTrace(verdict(("follow", False), ("keep", True)), (False, True)),
        JudgedTrace(Failure("truncated", ""), ()),
        JudgedTrace(Failure("truncated", ""), ()),
    ]
    assert confusion(traces) == {
        "follow": Confusion(tp=1, tn=1),
        "keep": Confusion(tp=1, fp=1),
        "quality": Confusion(fn=1),
    }
    assert check_accuracy(traces) == 3 / 5
    assert confusion(traces)["keep"].accuracy == 0.5
    verdicts = [trace.verdict for trace in traces]
    assert failure_rate(verdicts) == 3 / 5
    assert failure_counts(verdicts) == {"truncated": 2, "no_score": 1}
    assert list(failure_counts(verdicts)) == ["truncated", "no_score"]


def test_nothing_readable_has_no_check_accuracy() -> None:
    traces = [JudgedTrace(Failure("empty", ""), (True,))] * 2
    metrics = verifier_metrics([ScoredPair(None, None, "first", "a")], traces, traces_per_edit=2)
    assert metrics.check_accuracy is None
    assert metrics.failure_rate == 1.0
    assert (metrics.pairwise_accuracy, metrics.tie_half, metrics.tie_rate) == (0.0, 0.5, 1.0)
    assert Confusion().accuracy is None


def test_more_truths_than_checks_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        confusion([JudgedTrace(verdict(("keep", True)), (True, True))])


@pytest.mark.parametrize("pairs", [[], [ScoredPair(1.0, 2.0, "same", "a")]])
def test_no_pairs_is_a_mistake(pairs: list[ScoredPair]) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        pairwise_accuracy(pairs)
    with pytest.raises(ValueError, match="no values"):
        ci95([], [])
    with pytest.raises(ValueError, match="no traces"):
        failure_rate([])


def test_verifier_metrics_and_their_json() -> None:
    traces = [JudgedTrace(verdict(("follow", True)), (True,)), JudgedTrace(Failure("empty", ""), (True,))]
    metrics = verifier_metrics(PAIRS, traces, traces_per_edit=4, seed=3)
    document = json.loads(json.dumps(metrics.to_json()))
    assert document == {
        "pairwise_accuracy": 2 / 7,
        "tie_half": 4 / 7,
        "ci95": list(ci95([True, True] + [False] * 5, ["a", "a", "b", "b", "c", "c", "d"], seed=3)),
        "pairs": 7,
        "traces": 4,
        "check_accuracy": 1.0,
        "failure_rate": 0.5,
        "tie_rate": 4 / 7,
    }


def test_editor_metrics_by_hand() -> None:
    """Four edits of three tasks: one succeeds; follow is met by three, keep by two, quality by three; mean reward 5.

    The copy meets what must be kept, and quality, but not what was asked. The third edit has no score.
    """
    edits = [
        EditOutcome((("follow", True), ("keep", True), ("quality", True)), False, 9.0, "a", "add"),
        EditOutcome((("follow", False), ("keep", True), ("quality", True)), True, 0.0, "a", "add"),
        EditOutcome((("follow", True), ("keep", True), ("keep", False), ("quality", True)), False, None, "b", "move"),
        EditOutcome((("follow", True), ("keep", False), ("quality", False)), False, 6.0, "c", "move"),
    ]
    metrics = editor_metrics(edits)
    document = json.loads(json.dumps(metrics.to_json()))
    assert document.pop("ci95") == list(ci95([True, False, False, False], ["a", "a", "b", "c"]))
    assert document == {
        "oracle_success": 0.25,
        "tasks": 3,
        "oracle_follow": 0.75,
        "oracle_keep": 0.5,
        "oracle_quality": 0.75,
        "reward": 5.0,
        "noop_rate": 0.25,
    }
    assert edits_by_category(edits) == {
        "add": {"oracle_success": 0.5, "tasks": 1},
        "move": {"oracle_success": 0.0, "tasks": 2},
    }
    assert editor_metrics(edits[2:3]).reward is None


def test_two_groups_give_the_exact_bootstrap_distribution() -> None:
    """Groups (1 right of 1) and (0 right of 3): a resample is 1, 1/4 or 0 with probability 1/4, 1/2, 1/4.

    So the 2.5 and 97.5 percentiles are 0 and 1; by rows, ignoring groups, 1 would have probability 1/256.
    """
    assert ci95([True, False, False, False], ["a", "b", "b", "b"]) == (0.0, 1.0)
    assert ci95([True, False, False, False], list("abcd"))[1] == 0.75


def test_without_shared_groups_it_is_the_binomial_interval() -> None:
    """400 independent rows, 240 right: 0.6 -+ 1.96 sqrt(0.6 * 0.4 / 400) = 0.6 -+ 0.048."""
    low, high = ci95([index < 240 for index in range(400)], [str(index) for index in range(400)])
    assert low == pytest.approx(0.552, abs=0.005)
    assert high == pytest.approx(0.648, abs=0.005)


def test_groups_of_equal_rows_widen_the_interval_as_theory_says() -> None:
    """100 groups of 4 equal rows carry 100 independent facts: half width 1.96 sqrt(0.24 / 100) = 0.096, not 0.048."""
    values = [index // 4 < 60 for index in range(400)]
    low, high = ci95(values, [str(index // 4) for index in range(400)])
    assert (high - low) / 2 == pytest.approx(0.096, abs=0.008)


def test_an_interval_in_several_chunks_equals_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = [index % 3 == 0 for index in range(90)], [str(index // 2) for index in range(90)]
    whole = ci95(values, groups, seed=1)
    monkeypatch.setattr("edit_r1.evaluation.metrics._CHUNK", 45 * 7)
    assert ci95(values, groups, seed=1) == whole


def test_equal_values_have_no_width() -> None:
    assert ci95([True] * 5, list("aabbc")) == (1.0, 1.0)


# Values on a coarse grid, so that ties are frequent; None is an unreadable side.
scores = st.one_of(st.none(), st.integers(0, 20).map(lambda half: half / 2), st.floats(0, 10))
choices = st.sampled_from(cast("list[Choice]", ["first", "second"]))
many_pairs = st.lists(st.builds(ScoredPair, scores, scores, choices, st.sampled_from("abcde")), min_size=1, max_size=40)


@given(many_pairs)
def test_swapping_first_and_second_changes_nothing(pairs: list[ScoredPair]) -> None:
    traces = [JudgedTrace(Failure("empty", ""), ())]
    mirrored = [swapped(pair) for pair in pairs]
    assert verifier_metrics(pairs, traces, traces_per_edit=1) == verifier_metrics(mirrored, traces, traces_per_edit=1)


@given(many_pairs)
def test_bounds_and_identities(pairs: list[ScoredPair]) -> None:
    metrics = verifier_metrics(pairs, [JudgedTrace(Failure("empty", ""), ())], traces_per_edit=1)
    assert 0 <= metrics.pairwise_accuracy <= metrics.tie_half <= 1
    assert metrics.tie_half == pytest.approx(metrics.pairwise_accuracy + metrics.tie_rate / 2)
    assert 0 <= metrics.ci95[0] <= metrics.pairwise_accuracy <= metrics.ci95[1] <= 1


@given(many_pairs)
def test_the_opposite_choices_give_the_complement(pairs: list[ScoredPair]) -> None:
    opposite = [replace(pair, choice="second" if pair.choice == "first" else "first") for pair in pairs]
    assert tie_half(pairs) + tie_half(opposite) == pytest.approx(1)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef")), min_size=1, max_size=60), st.integers(0, 9))
def test_intervals_hold_the_estimate_whatever_the_order(rows: list[tuple[bool, str]], seed: int) -> None:
    values, groups = [value for value, _ in rows], [group for _, group in rows]
    low, high = ci95(values, groups, seed=seed, resamples=200)
    assert 0 <= low <= np.mean(values) <= high <= 1
    assert ci95(values[::-1], groups[::-1], seed=seed, resamples=200) == (low, high)


@given(st.lists(st.tuples(st.sampled_from(["follow", "keep", "quality"]), st.booleans(), st.booleans()), min_size=1))
def test_confusion_counts_every_check_once(rows: list[tuple[PrincipleCategory, bool, bool]]) -> None:
    traces = [JudgedTrace(verdict((category, met)), (truth,)) for category, met, truth in rows]
    tables = confusion(traces)
    assert sum(table.total for table in tables.values()) == len(rows)
    assert check_accuracy(traces) == sum(met == truth for _, met, truth in rows) / len(rows)


def test_every_mixture_of_sides() -> None:
    """All 3 x 3 x 2 cases over the scores 1, 2, None: right only where the preferred side is readable and higher."""
    for first, second, choice in product([1.0, 2.0, None], [1.0, 2.0, None], cast("list[Choice]", ["first", "second"])):
        winner, loser = (first, second) if choice == "first" else (second, first)
        right = winner is not None and loser is not None and winner > loser
        undecided = winner is None or loser is None or winner == loser
        pair = [ScoredPair(first, second, choice, "a")]
        assert pairwise_accuracy(pair) == float(right)
        assert tie_rate(pair) == float(undecided)
