"""The rows of `edit-r1 evaluate claims` and `editor-claims` as tables for people: means over seeds, gains, intervals.

A gain is a difference between two arms on the same pairs of the same seed; its 95% interval is Student's, over seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from edit_r1.evaluation.metrics import PRINCIPLE_CATEGORIES
from edit_r1.stages import ARMS, SIZES

Row = Mapping[str, Any]

NOISE = 0.1
"""Label noise of the rows that are compared; the others are in a table of their own."""
VERIFIERS = ("gcpo", "cold_start", "direct")
"""Arms of the claims about editors that differ by the verifier that rewards."""
SETTINGS = ("gcpo", "score", "clip", "flow_sde", "dance_sde", "all_steps", "first_half", "sliding", "random", "guard")
"""Those that differ by objective, kernel or window; the first is the default."""
RISEN = 0.01
"""Of 1: a reward that gained less has not risen, and no share of it can be confirmed."""
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t at 97.5%, by degrees of freedom; more of them have a little less than the last."""


@dataclass(frozen=True)
class Gain:
    """Differences of an arm over another, in points, one per seed that both have."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% interval of the mean; None with fewer than two seeds."""
        if len(self.values) < 2:
            return None
        half = _T95[min(len(self.values) - 1, max(_T95))] * statistics.stdev(self.values) / len(self.values) ** 0.5
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        if not self.values:
            return "–"
        each = ", ".join(f"{value:+.1f}" for value in self.values)
        bounds = self.interval
        return (
            f"{self.mean:+.1f} ({each})" if bounds is None else f"{self.mean:+.1f} [{bounds[0]:+.1f}, {bounds[1]:+.1f}]"
        )


def chosen(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def difference(rows: Sequence[Row], others: Sequence[Row], key: str) -> Gain:
    """How far rows are above others in `key`, in points, on the seeds that both have."""
    both = [{row["seed"]: row[key] for row in each} for each in (rows, others)]
    pairs = [(both[0][seed], both[1][seed]) for seed in sorted(both[0].keys() & both[1].keys())]
    return Gain(tuple(100 * (a - b) for a, b in pairs if a is not None and b is not None))


def gain(
    rows: Sequence[Row], arm: str, over: str, key: str, *, size: str = "m", over_size: str = "", split: str = "test"
) -> Gain:
    """How far the verifiers `arm` are above `over`, of the same size where no other is given."""
    own, other = (
        chosen(rows, arm=name, size=of, split=split, label_noise=NOISE)
        for name, of in ((arm, size), (over, over_size or size))
    )
    return difference(own, other, key)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def percent(rows: Sequence[Row], key: str) -> str:
    """Mean over seeds, with the smallest and the largest where there are several."""
    values = [100 * row[key] for row in rows if row[key] is not None]
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.1f}%"
    return mean if len(values) < 2 else f"{mean} ({min(values):.1f}–{max(values):.1f})"


def arms_table(rows: Sequence[Row]) -> str:
    """Every arm and size: accuracy by the score and by the weighted share of met checks, true checks, cost."""
    lines: list[list[str]] = []
    for size, arm in product(SIZES, ARMS):
        if test := chosen(rows, arm=arm, size=size, split="test", label_noise=NOISE):
            flops, written = (statistics.fmean(row[key] for row in test) for key in ("train_flops", "trace_tokens"))
            keys = ("pairwise_accuracy", "tie_half", "weighted_tie_half", "check_accuracy")
            shown = [percent(test, key) for key in keys]
            lines.append([size, arm, str(len(test)), *shown, f"{written:.0f}", f"{flops / 1e12:.1f}"])
    head = ["size", "arm", "seeds", "accuracy", "ties half", "ties half, by checks", "true checks", "tokens", "TFLOP"]
    return table(head, lines)


def costs_table(rows: Sequence[Row]) -> str:
    """What an unmet check of each category costs in the written score and a copy earns: means over seeds, in points."""
    lines: list[list[str]] = []
    for size, arm in product(SIZES, ARMS):
        found = chosen(rows, arm=arm, size=size, split="test", label_noise=NOISE)
        if costs := [row["costs"] for row in found if row["costs"] is not None]:
            means = [statistics.fmean(one[name] for one in costs) for name in PRINCIPLE_CATEGORIES]
            relative = " : ".join(f"{mean / means[-1]:.1f}" for mean in means)
            copies = [row["copy_score"] for row in found if row["copy_score"] is not None]
            earned = f"{statistics.fmean(copies):.2f}" if copies else "–"
            lines.append([size, arm, str(len(costs)), *(f"{mean:.2f}" for mean in means), relative, earned])
    return table(["size", "arm", "seeds", *PRINCIPLE_CATEGORIES, "relative to quality", "a copy earns"], lines)


_KINDS = {
    "tie_half": "ties half", "category_tie_half": "the category", "pairing_tie_half": "the pairing",
    "fault_tie_half": "the fault", "check_accuracy": "checks",
}  # fmt: skip
"""Numbers of the split `heldout`, and what they are of."""


def heldout_table(rows: Sequence[Row]) -> str:
    """Every arm and size on held-out kinds: all of them, and each by itself."""
    lines: list[list[str]] = []
    for size, arm in product(SIZES, ARMS):
        if found := chosen(rows, arm=arm, size=size, split="heldout", label_noise=NOISE):
            lines.append([size, arm, str(len(found)), *(percent(found, key) for key in _KINDS)])
    return table(["size", "arm", "seeds", *_KINDS.values()], lines)


def gains_table(rows: Sequence[Row]) -> str:
    """What each claim is about: gains on test, and on held-out kinds."""
    comparisons = [("cold_start", other, "m") for other in ("direct", "think", "verify")]
    comparisons += [("gcpo", "cold_start", size) for size in SIZES]
    comparisons += [("gcpo", other, "m") for other in ("rule_grpo", "dpo", "bt_head")]
    lines: list[list[str]] = []
    for arm, over, size in comparisons:
        shown = [gain(rows, arm, over, key, size=size) for key in ("tie_half", "check_accuracy")]
        shown += [gain(rows, arm, over, key, size=size, split="heldout") for key in _KINDS]
        lines.append([size, f"{arm} over {over}", *map(str, shown)])
    held = [f"held out: {what}" for what in _KINDS.values()]
    return table(["size", "gain", "ties half", "checks", *held], lines)


def noise_table(rows: Sequence[Row]) -> str:
    """GCPO against the share of wrong training labels, on the seeds that have all of these shares.

    A judge that is right in a share a of clean pairs agrees with labels of noise p in a (1 - p) + (1 - a) p of them;
    the ceiling of that is 1 - p, for a = 1.
    """
    every = chosen(rows, arm="gcpo", size="m", split="test")
    by_noise = {noise: chosen(every, label_noise=noise) for noise in sorted({row["label_noise"] for row in every})}
    seeds = [{row["seed"] for row in found} for found in by_noise.values()]
    shared = set.intersection(*seeds) if seeds else set[int]()
    lines: list[list[str]] = []
    for noise, of_noise in by_noise.items():
        if found := [row for row in of_noise if row["seed"] in shared]:
            agreed = statistics.fmean(r["tie_half"] * (1 - noise) + (1 - r["tie_half"]) * noise for r in found)
            shown = [percent(found, key) for key in ("pairwise_accuracy", "tie_half", "check_accuracy")]
            lines.append(
                [f"{100 * noise:.0f}%", str(len(found)), *shown, f"{100 * agreed:.1f}%", f"{100 * (1 - noise):.0f}%"]
            )
    head = ["wrong labels", "seeds", "accuracy", "ties half", "checks", "agreement with such labels", "its ceiling"]
    return table(head, lines)


def _confirmed(rows: Sequence[Row]) -> str:
    """The mean gain of success over that of a reward that rose; a mean of ratios would hang on the smallest rise."""
    rise = statistics.fmean(row["reward_gain"] for row in rows) if rows else 0.0
    return f"{statistics.fmean(row['success_gain'] for row in rows) / rise:.0%}" if rise >= RISEN else "–"


def editors_table(rows: Sequence[Row]) -> str:
    """Every arm of the claims about editors: truth, reward, what of its gain is confirmed, cost, alarms."""
    lines: list[list[str]] = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        found = chosen(rows, arm=arm)
        gains = Gain(tuple(100 * row["success_gain"] for row in found))
        rewards = [row["reward"] for row in found if row["reward"] is not None]
        confirmed = _confirmed([row for row in found if row["reward_gain"] is not None])
        alarms = ", ".join(str(row.get("first_alarm") or "–") for row in found)
        cost = [f"{statistics.fmean(row[key] for row in found):.0f}" for key in ("images", "seconds")]
        lines.append(
            [
                arm,
                str(len(found)),
                *(percent(found, f"oracle_{key}") for key in ("success", "keep", "quality")),
                f"{statistics.fmean(rewards):.2f}" if rewards else "–",
                "–" if arm == "base" else str(gains),
                confirmed,
                *cost,
                "–" if arm == "base" else alarms,
            ]
        )
    head = ["arm", "seeds", "success", "keep", "quality", "reward", "gain", "confirmed", "images", "seconds", "alarm"]
    return table(head, lines)


Curve = dict[int, tuple[float, float]]
"""Seconds and success on the probe, by images."""


def shared_curves(rows: Sequence[Row], arms: Sequence[str]) -> tuple[list[int], dict[str, Curve]]:
    """The seeds that all of the arms have which have any, and each arm's curve: means over them, at shared points."""
    found = {arm: {row["seed"]: row["curve"] for row in chosen(rows, arm=arm)} for arm in arms}
    found = {arm: curves for arm, curves in found.items() if curves}
    seeds = sorted(set.intersection(*(set(curves) for curves in found.values()))) if found else []
    points = {
        (arm, seed): {int(images): (seconds, success) for images, seconds, success in found[arm][seed]}
        for arm in found
        for seed in seeds
    }
    counts = sorted(set.intersection(*(set(one) for one in points.values()))) if points else []
    means = {
        arm: {
            n: (
                statistics.fmean(points[arm, s][n][0] for s in seeds),
                statistics.fmean(points[arm, s][n][1] for s in seeds),
            )
            for n in counts
        }
        for arm in found
        if seeds
    }
    return seeds, means


def curves_table(rows: Sequence[Row], arms: Sequence[str]) -> str:
    """Success on the probe as training goes on, of the seeds that all these arms have: mean over them.

    By images, with the seconds until then; and after the seconds that the fastest arm takes in all, on the straight
    line between two probes.
    """
    seeds, curves = shared_curves(rows, arms)
    counts = list(next(iter(curves.values()), {}))
    if not counts:
        return "(no seed that all arms have yet)"
    budget = min(curve[counts[-1]][0] for curve in curves.values())
    lines: list[list[str]] = []
    for arm, curve in curves.items():
        cells = [f"{100 * success:.0f}% ({seconds:.0f} s)" for seconds, success in curve.values()]
        times, values = zip(*curve.values(), strict=True)
        lines.append([arm, *cells, f"{100 * np.interp(budget, times, values):.0f}%"])
    shown = ", ".join(map(str, seeds))
    return f"Seeds: {shown}.\n\n" + table(["arm", *(f"{n} images" for n in counts), f"after {budget:.0f} s"], lines)
