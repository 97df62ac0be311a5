"""Numbers of a verifier: pure functions of scores, verdicts and truths; and the interval that all evaluations give.

A pair that the scores do not order (they tie, or one side has no readable trace) is wrong in `pairwise_accuracy` and
half right in `tie_half`; the paper does not say how ties count, so both are given. Intervals come from a bootstrap over
groups (pairs or edits of one task), because what shares a task is not independent.

Shapes: P pairs, M groups, R resamples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edit_r1.records import Choice, Failure, FailureKind, PrincipleCategory, Verdict

TIE = 1e-9
"""Scores nearer than this are a tie."""
RESAMPLES = 2000
PRINCIPLE_CATEGORIES: tuple[PrincipleCategory, ...] = ("follow", "keep", "quality")

_CHUNK = 4_000_000  # counts held at once while resampling: 32 MB
RowT = TypeVar("RowT", bound="HasCategory")


class HasCategory(Protocol):
    """What belongs to a category of tasks."""

    @property
    def category(self) -> str:
        """Its name."""
        ...


@dataclass(frozen=True)
class ScoredPair:
    """A preference and the scores of its two edits.

    Attributes:
        first: score of the first edit, usually the mean over its readable traces; None (or NaN) when none is readable.
        second: the same of the second edit.
        choice: what the annotator preferred. "same" pairs are left out everywhere, as in the paper (section 3).
        group: what the bootstrap keeps together: the task, or its source.
        category: the task's category.
    """

    first: float | None
    second: float | None
    choice: Choice
    group: str
    category: str = ""


@dataclass(frozen=True)
class JudgedTrace:
    """One trace of a verifier and the true answer to each of its principles, in the order of `verdict.checks`.

    `truth` is None where nobody knows: such checks are not counted. `sampled`: the edit is an editor's own, not drawn.
    `copy`: it shows the source's scene again, as far as anybody knows.
    """

    verdict: Verdict | Failure
    truth: tuple[bool, ...] | None
    sampled: bool = False
    copy: bool = False


@dataclass(frozen=True)
class Confusion:
    """Counts of checks against the truth; positive means "met": `fp` is a fault that the verifier did not see."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @property
    def total(self) -> int:
        """All checks."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def accuracy(self) -> float | None:
        """Share of checks that are true; None without checks."""
        return (self.tp + self.tn) / self.total if self.total else None

    @property
    def faults_seen(self) -> float | None:
        """Share of the faults that the verifier sees; None without faults."""
        return self.tn / (self.tn + self.fp) if self.tn + self.fp else None

    def __add__(self, other: Confusion) -> Confusion:
        """Both together."""
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    def to_json(self) -> dict[str, int]:
        """The four counts."""
        return asdict(self)


@dataclass(frozen=True)
class VerifierMetrics:
    """How well a verifier judges; all shares in [0, 1].

    Attributes:
        pairwise_accuracy: share of pairs that the scores order as the annotator did; an undecided pair is wrong.
        tie_half: the same, with undecided pairs half right; `pairwise_accuracy + tie_rate / 2`.
        ci95: 95% interval of `pairwise_accuracy`.
        pairs: how many pairs, without those judged "same".
        traces: sampled traces per edit, whose mean is the score.
        check_accuracy: share of checks of readable traces that agree with the truth; None where none counts.
        failure_rate: share of traces that cannot be read.
        tie_rate: share of undecided pairs: equal scores, or no score on one side.
    """

    pairwise_accuracy: float
    tie_half: float
    ci95: tuple[float, float]
    pairs: int
    traces: int
    check_accuracy: float | None
    failure_rate: float
    tie_rate: float

    def to_json(self) -> dict[str, Any]:
        """`V` of report.json."""
        return asdict(self) | {"ci95": list(self.ci95)}


def pairwise_accuracy(pairs: Sequence[ScoredPair]) -> float:
    """Share of pairs ordered as the annotator did; undecided ones are wrong. Raises `ValueError` without pairs."""
    return float(np.mean(_outcomes(pairs) == 1.0))


def tie_half(pairs: Sequence[ScoredPair]) -> float:
    """The same, but undecided pairs count half. Raises `ValueError` without pairs."""
    return float(np.mean(_outcomes(pairs)))


def tie_rate(pairs: Sequence[ScoredPair]) -> float:
    """Share of pairs that the scores do not order. Raises `ValueError` without pairs."""
    return float(np.mean(_outcomes(pairs) == 0.5))


def ci95(
    values: Sequence[bool] | NDArray[np.floating], groups: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95% percentile interval of the mean of `values`, by resampling whole groups with replacement.

    Percentiles of a skewed resampling may just miss the estimate: the interval is widened to hold it. When all values
    are equal it has no width, however few they are.

    Args:
        values: one number per pair or edit, [P].
        groups: the group of each, [P]; the order of the rows does not matter.
        seed: of the resampling.
        resamples: how many times M groups are drawn.

    Raises:
        ValueError: no values.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.size == 0:
        raise ValueError("an interval of no values")
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    sums, sizes = np.bincount(index, weights=rows), np.bincount(index).astype(np.float64)  # [M]
    count = len(sizes)
    rng = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    step = max(1, _CHUNK // count)
    for start in range(0, resamples, step):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(step, resamples - start))  # [R, M]
        means.append((drawn @ sums) / (drawn @ sizes))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    estimate = float(sums.sum() / sizes.sum())
    return min(float(low), estimate), max(float(high), estimate)


def check_accuracy(traces: Iterable[JudgedTrace]) -> float | None:
    """Share of checks of readable traces that agree with the truth; None when there is no such check."""
    tables = confusion(traces).values()
    total = sum(table.total for table in tables)
    return sum(table.tp + table.tn for table in tables) / total if total else None


def confusion(traces: Iterable[JudgedTrace]) -> dict[PrincipleCategory, Confusion]:
    """Checks of readable traces against the truth, for every category of principles.

    Raises:
        ValueError: a trace has another number of checks than of truths.
    """
    counts: Counter[tuple[PrincipleCategory, bool, bool]] = Counter()
    for trace in traces:
        if isinstance(trace.verdict, Failure) or trace.truth is None:
            continue
        for check, truth in zip(trace.verdict.checks, trace.truth, strict=True):
            counts[check.principle.category, check.met, truth] += 1
    return {
        category: Confusion(
            tp=counts[category, True, True],
            fp=counts[category, True, False],
            fn=counts[category, False, True],
            tn=counts[category, False, False],
        )
        for category in PRINCIPLE_CATEGORIES
    }


def failure_rate(verdicts: Sequence[Verdict | Failure]) -> float:
    """Share of traces that cannot be read. Raises `ValueError` without traces."""
    if not verdicts:
        raise ValueError("a failure rate of no traces")
    return sum(isinstance(verdict, Failure) for verdict in verdicts) / len(verdicts)


def failure_counts(verdicts: Iterable[Verdict | Failure]) -> dict[FailureKind, int]:
    """How many traces failed in which way, the most frequent kind first."""
    counts: Counter[FailureKind] = Counter(verdict.kind for verdict in verdicts if isinstance(verdict, Failure))
    return dict(counts.most_common())


def verifier_metrics(
    pairs: Sequence[ScoredPair], traces: Sequence[JudgedTrace], *, traces_per_edit: int, seed: int = 0
) -> VerifierMetrics:
    """All numbers of a verifier.

    Args:
        pairs: held-out preferences with the verifier's scores.
        traces: every trace of every edit of the pairs.
        traces_per_edit: how many traces made a score; recorded. 0 for a judge that writes none.
        seed: of the bootstrap.

    Raises:
        ValueError: no pairs, or no traces where there should be.
    """
    kept = _decided(pairs)
    outcomes = _outcomes(kept)
    return VerifierMetrics(
        pairwise_accuracy=pairwise_accuracy(kept),
        tie_half=tie_half(kept),
        ci95=ci95(outcomes == 1.0, [pair.group for pair in kept], seed=seed),
        pairs=len(kept),
        traces=traces_per_edit,
        check_accuracy=check_accuracy(traces),
        failure_rate=failure_rate([trace.verdict for trace in traces]) if traces_per_edit else 0.0,
        tie_rate=tie_rate(kept),
    )


def pairs_by_category(pairs: Sequence[ScoredPair]) -> dict[str, dict[str, float]]:
    """`pairwise_accuracy`, `tie_half` and number of `pairs` of every task category, in alphabetical order."""

    def numbers(rows: Sequence[ScoredPair]) -> dict[str, float]:
        return {"pairwise_accuracy": pairwise_accuracy(rows), "tie_half": tie_half(rows), "pairs": len(rows)}

    return by_category(_decided(pairs), numbers)


def by_category(
    rows: Sequence[RowT], numbers: Callable[[Sequence[RowT]], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """`numbers` of the rows of each category, in alphabetical order."""
    grouped: defaultdict[str, list[RowT]] = defaultdict(list)
    for row in rows:
        grouped[row.category].append(row)
    return {category: numbers(grouped[category]) for category in sorted(grouped)}


def _decided(pairs: Sequence[ScoredPair]) -> list[ScoredPair]:
    """Pairs that the annotator ordered."""
    return [pair for pair in pairs if pair.choice != "same"]


def _outcomes(pairs: Sequence[ScoredPair]) -> NDArray[np.float64]:
    """1 where the scores agree with the choice, 0 where they do not, 0.5 where they do not order the pair: [P]."""
    kept = _decided(pairs)
    if not kept:
        raise ValueError("no pairs with a preference")
    # None becomes NaN, and no comparison with NaN holds: such a pair is undecided.
    scores = np.array([[pair.first, pair.second] for pair in kept], dtype=np.float64)
    difference = scores[:, 0] - scores[:, 1]
    margin = np.where([pair.choice == "first" for pair in kept], difference, -difference)
    return np.select([margin >= TIE, margin <= -TIE], [1.0, 0.0], default=0.5)
