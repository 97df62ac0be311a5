"""From a verdict to one number in [0, 10], and from several traces to mean and spread.

The paper calls the reward a "weighted aggregate" of the checks but gives no weights; the number it uses is the model's
own score (section 1). That is `model`, the default. The others are ours, for comparison and for verifiers whose own
score is poor.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edit_r1.errors import UserError
from edit_r1.records import PrincipleCategory, Verdict
from edit_r1.verifier.engines.base import Completion

Aggregate = Callable[[Verdict, Completion], float]
"""From a verdict, and the completion that it was read from, to a score in [0, 10]."""


def share_met(verdict: Verdict, category: PrincipleCategory | None = None) -> float:
    """Weighted share of met checks in [0, 1], of one category or of all.

    Raises:
        ValueError: there is no such check, or only checks of weight 0, or a weight is negative or not finite.
    """
    checks = [check for check in verdict.checks if category is None or check.principle.category == category]
    if any(not math.isfinite(check.principle.weight) or check.principle.weight < 0 for check in checks):
        raise ValueError("a principle's weight is negative or not finite")
    total = math.fsum(check.principle.weight for check in checks)
    if total <= 0:
        raise ValueError("the verdict has no checks of positive weight")
    return min(1.0, math.fsum(check.principle.weight for check in checks if check.met) / total)


def model(verdict: Verdict, completion: Completion) -> float:
    """The trace's own score, as in the paper."""
    return verdict.score


def weighted(verdict: Verdict, completion: Completion) -> float:
    """10 * sum of the weights of met principles / sum of all weights.

    Raises:
        ValueError: the verdict has no checks, or only checks of weight 0.
    """
    return 10.0 * share_met(verdict)


def min_geomean(verdict: Verdict, completion: Completion) -> float:
    """10 * sqrt(min(follow, keep) * quality), where each is the weighted share of met principles of its category.

    In the spirit of EditScore's sqrt(min SC * min PQ): following and keeping are the two semantic scores, of which the
    worse counts; quality is the perceptual one; the geometric mean lets neither make up for a zero of the other.
    A side without principles is left out: without quality it is 10 * min(follow, keep), with quality alone that.

    Raises:
        ValueError: the verdict has no checks of positive weight.
    """
    present = {check.principle.category for check in verdict.checks if check.principle.weight > 0}
    semantic = [share_met(verdict, name) for name in ("follow", "keep") if name in present]
    sides = [min(semantic)] if semantic else []
    if "quality" in present:
        sides.append(share_met(verdict, "quality"))
    if not sides:
        raise ValueError("the verdict has no checks of positive weight")
    return 10.0 * math.prod(sides) ** (1.0 / len(sides))


def expected(verdict: Verdict, completion: Completion) -> float:
    """Expectation of the score over the probabilities of the score tokens, given the reasoning of this trace.

    Probabilities outside [0, 10] are left out and the rest is divided by its sum. Without probabilities (the engine
    does not give them) it is the trace's own score: one draw from that distribution, so an unbiased estimate of it.
    """
    inside = {value: p for value, p in (completion.score_probs or {}).items() if 0.0 <= value <= 10.0 and p > 0.0}
    total = math.fsum(inside.values())
    if not math.isfinite(total) or total <= 0.0:
        return verdict.score
    mean = math.fsum(value * p for value, p in inside.items()) / total
    return min(10.0, max(0.0, mean))


def confident(verdict: Verdict, completion: Completion) -> float:
    """The trace's own score times the probability of the trace, at temperature 1: a score discounted by doubt.

    It is what the expectation over all traces has from this one alone. Pictures in which the verifier is not sure what
    it sees earn less than clear ones with the same score. For traces of a fixed form, where every word is evidence;
    in free prose the choice of words makes any trace improbable.

    Raises:
        UserError: the engine does not give probabilities.
    """
    if completion.log_prob is None or math.isnan(completion.log_prob):
        raise UserError(
            "the verifier's engine gives no log-probabilities, which the aggregation 'confident' needs; "
            "choose another one, such as 'model'"
        )
    return verdict.score * math.exp(min(0.0, completion.log_prob))


AGGREGATES: dict[str, Aggregate] = {
    "model": model,
    "weighted": weighted,
    "min_geomean": min_geomean,
    "expected": expected,
    "confident": confident,
}
PROBABILISTIC = ("expected", "confident")
"""Aggregations that need an engine which was asked for probabilities."""


def find_aggregate(name: str) -> Aggregate:
    """The aggregation of that name; `UserError` with the list of names otherwise."""
    if name not in AGGREGATES:
        raise UserError(f"no aggregation is called {name!r}: choose one of {', '.join(AGGREGATES)}")
    return AGGREGATES[name]


@dataclass(frozen=True)
class Reduced:
    """Several traces of one edit in numbers.

    Attributes:
        mean: mean score over the readable traces, in [0, 10]; None when none is readable.
        spread: their sample standard deviation (n - 1); None with fewer than two.
        failures: how many were not readable.
    """

    mean: float | None
    spread: float | None
    failures: int


def reduce_scores(scores: Sequence[float | None]) -> Reduced:
    """Mean and spread of the scores that are there; None marks an unreadable trace and is only counted."""
    readable = [score for score in scores if score is not None]
    mean = min(max(readable), max(min(readable), statistics.fmean(readable))) if readable else None
    spread = statistics.stdev(readable) if len(readable) > 1 else None
    return Reduced(mean=mean, spread=spread, failures=len(scores) - len(readable))
