"""Best of N, exactly: what a choice among N candidates gives on average, from n >= N candidates that were judged once.

N candidates drawn afresh from an editor are distributed as a random N-subset of n that were drawn before. So the mean
over all C(n, N) subsets is an unbiased estimate for every N at once (a U-statistic), and of less variance than the
first N alone. It has a closed form; no subset is ever drawn. For the upper bound it is pass@k of Chen et al. (arXiv
2107.03374, section 2.1).

Shapes: n candidates of one task. A score of None is a verdict that cannot be read: it is never chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from edit_r1.evaluation.metrics import TIE

Scores = Sequence[float | None]


def best(scores: Scores) -> int | None:
    """Index of the highest score; the first of those that tie with it, and None when no score is readable."""
    top = max((score for score in scores if score is not None), default=None)
    if top is None:
        return None
    return next(index for index, score in enumerate(scores) if score is not None and top - score < TIE)


def choice_probabilities(scores: Scores, size: int) -> NDArray[np.float64]:
    """How likely each candidate is the choice among `size` random ones of them: [n], of sum `1 - no_choice`.

    With b candidates above it, and t that tie with it (itself included), a candidate's level is the best of a subset
    when no member is above and not all are below:

        P(level) = (C(n - b, N) - C(n - b - t, N)) / C(n, N)

    The t members share that equally, for a tie is broken by position and positions are exchangeable. Without ties it
    is C(n - r, N - 1) / C(n, N) for the r-th best.

    Raises:
        ValueError: `size` is not within 1..n.
    """
    count = len(scores)
    subsets = _subsets(count, size)
    readable = [score for score in scores if score is not None]
    probabilities = np.zeros(count)
    for index, score in enumerate(scores):
        if score is not None:
            above = sum(other - score >= TIE for other in readable)
            level = sum(abs(other - score) < TIE for other in readable)
            ways = comb(count - above, size) - comb(count - above - level, size)
            probabilities[index] = ways / (level * subsets)
    return probabilities


def no_choice(scores: Scores, size: int) -> float:
    """How likely none of `size` random candidates is readable: C(f, N) / C(n, N) with f that are not."""
    unreadable = sum(score is None for score in scores)
    return comb(unreadable, size) / _subsets(len(scores), size)


def chosen_success(scores: Scores, successes: Sequence[bool], size: int) -> float:
    """How likely the highest-scored of `size` random candidates is right; where there is no choice, nothing is.

    Raises:
        ValueError: `size` is not within 1..n, or there are not as many successes as scores.
    """
    if len(scores) != len(successes):
        raise ValueError(f"{len(scores)} scores and {len(successes)} successes")
    return float(choice_probabilities(scores, size) @ np.asarray(successes, dtype=np.float64))


def any_success(successes: Sequence[bool], size: int) -> float:
    """How likely at least one of `size` random candidates is right: 1 - C(n - c, N) / C(n, N) with c that are.

    Raises:
        ValueError: `size` is not within 1..n.
    """
    wrong = len(successes) - sum(successes)
    return 1 - comb(wrong, size) / _subsets(len(successes), size)


def _subsets(count: int, size: int) -> int:
    if not 1 <= size <= count:
        raise ValueError(f"no choice among {size} of {count} candidates")
    return comb(count, size)
