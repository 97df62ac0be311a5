"""Best of N in closed form, against every subset and by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_r1.evaluation.subsets import any_success, best, choice_probabilities, chosen_success, no_choice

SCORES = st.one_of(st.none(), st.sampled_from([0.0, 4.5, 5.0, 10.0]))  # few values, so that many tie


@st.composite
def judged(draw: st.DrawFn) -> tuple[list[float | None], list[bool], int]:
    """Scores and successes of up to seven candidates, and a number of them to choose from."""
    rows = draw(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=7))
    return [score for score, _ in rows], [right for _, right in rows], draw(st.integers(1, len(rows)))


def shared(scores: Sequence[float | None], values: Sequence[float], subset: Sequence[int]) -> float:
    """The mean value of a subset's best, which share the choice; 0 where none is readable."""
    top = max((score for i in subset if (score := scores[i]) is not None), default=None)
    winners = [values[i] for i in subset if scores[i] is not None and scores[i] == top]
    return sum(winners) / len(winners) if winners else 0.0


@settings(max_examples=300, deadline=None)
@given(judged())
def test_estimators_are_means_over_every_subset(case: tuple[list[float | None], list[bool], int]) -> None:
    scores, successes, size = case
    subsets = list(combinations(range(len(scores)), size))

    def mean(value: Callable[[Sequence[int]], float]) -> float:
        return sum(map(value, subsets)) / len(subsets)

    right = [float(success) for success in successes]
    assert chosen_success(scores, successes, size) == pytest.approx(mean(lambda s: shared(scores, right, s)))
    assert any_success(successes, size) == pytest.approx(mean(lambda s: float(any(successes[i] for i in s))))
    assert no_choice(scores, size) == pytest.approx(mean(lambda s: float(all(scores[i] is None for i in s))))
    found = choice_probabilities(scores, size)
    for index in range(len(scores)):
        own = [float(i == index) for i in range(len(scores))]
        assert found[index] == pytest.approx(mean(lambda s, own=own: shared(scores, own, s)))
    assert found.sum() == pytest.approx(1 - no_choice(scores, size))


@settings(max_examples=100, deadline=None)
@given(judged())
def test_bounds_and_ends(case: tuple[list[float | None], list[bool], int]) -> None:
    """No choice beats the oracle's; N = 1 is chance; all n of them leave only the ties to chance.

    With all candidates readable and scores that are the truth itself, the choice is the oracle's.
    """
    scores, successes, size = case
    assert chosen_success(scores, successes, size) <= any_success(successes, size) + 1e-12
    readable = [success and score is not None for score, success in zip(scores, successes, strict=True)]
    assert chosen_success(scores, successes, 1) == pytest.approx(np.mean(readable))
    assert chosen_success([float(s) for s in successes], successes, size) == pytest.approx(any_success(successes, size))


def test_probabilities_of_ranks_by_hand() -> None:
    """Of 4 candidates 2 are drawn, 6 subsets: the best is in 3, the second the best of 2, the third of 1.

    If the first two tie, they share 3 + 2 of 6. Without the best (unreadable), the others win 3, 2 and 1 of 6: the pair
    with the unreadable one falls to its partner.
    """
    assert choice_probabilities([9.0, 7.0, 4.0, 1.0], 2) == pytest.approx(np.array([3, 2, 1, 0]) / 6)
    assert choice_probabilities([7.0, 7.0, 4.0, 1.0], 2) == pytest.approx(np.array([2.5, 2.5, 1, 0]) / 6)
    assert choice_probabilities([None, 7.0, 4.0, 1.0], 2) == pytest.approx(np.array([0, 3, 2, 1]) / 6)
    ranks = [comb(10 - rank, 3) / comb(10, 4) for rank in range(1, 11)]
    assert choice_probabilities(list(range(10, 0, -1)), 4) == pytest.approx(ranks)


def test_the_choice_is_the_first_of_the_best_and_never_a_failure() -> None:
    assert best([None, 3.0, 8.0, 8.0 + 1e-12, None]) == 2
    assert best([None, 0.0]) == 1
    assert best([None, None]) is None
    assert best([]) is None


@pytest.mark.parametrize("size", [0, 3])
def test_no_choice_among_more_than_there_are(size: int) -> None:
    for call in (
        lambda: choice_probabilities([1.0, 2.0], size),
        lambda: any_success([True, False], size),
        lambda: no_choice([1.0, None], size),
    ):
        with pytest.raises(ValueError, match=f"among {size} of 2"):
            call()
    with pytest.raises(ValueError, match="2 scores and 1 successes"):
        chosen_success([1.0, 2.0], [True], 1)
