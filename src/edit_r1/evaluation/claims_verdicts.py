"""What is claimed, what was measured, and whether it holds: one table for all claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edit_r1.evaluation.claims_table import NOISE, Gain, Row, chosen, difference, gain, table
from edit_r1.stages import SIZES


@dataclass(frozen=True)
class Claim:
    """That a gain is at least `least` points; 0 stands for any gain."""

    text: str
    gain: Gain
    least: float = 0.0

    @property
    def verdict(self) -> str:
        """A mean that is large enough holds only in the mean, if the 95% interval over seeds is not above 0."""
        if not self.gain.values:
            return "not measured"
        if self.gain.mean <= 0 or self.gain.mean < self.least:
            return "**no**"
        bounds = self.gain.interval
        return "yes" if bounds and bounds[0] > 0 else "in the mean"


def of_verifiers(rows: Sequence[Row]) -> list[Claim]:
    """Claims 1 to 3 of the paper, with the thresholds that the project has set itself."""
    direct = ("cold_start", "direct")
    claims = [
        Claim("1: principles and reasoning over the direct score", gain(rows, *direct, "tie_half"), 4),
        Claim("1: the same, held-out category", gain(rows, *direct, "category_tie_half", split="heldout"), 6),
        Claim("1: the same, held-out fault", gain(rows, *direct, "fault_tie_half", split="heldout"), 6),
    ]
    for size in SIZES:
        added, checks = (gain(rows, "gcpo", "cold_start", key, size=size) for key in ("tie_half", "check_accuracy"))
        claims += [
            Claim(f"2: GCPO over the cold start, size {size}", added, 3),
            Claim(f"2: the same, true checks, size {size}", checks),
        ]
    claims.append(Claim("2: this gain at size l over that at size s", _more(rows, "l", "s")))
    claims += [Claim(f"2: GCPO over {o}", gain(rows, "gcpo", o, "tie_half")) for o in ("bt_head", "rule_grpo", "dpo")]
    claims += [
        Claim(f"3: {arm} of size {large} over {small}", gain(rows, arm, arm, "tie_half", size=large, over_size=small))
        for arm in ("cold_start", "gcpo")
        for small, large in pairwise(SIZES)
    ]
    return claims


def _more(rows: Sequence[Row], large: str, small: str) -> Gain:
    """How much more GCPO adds at one size than at another, on the seeds that both have."""
    seeds = [
        {row["seed"] for row in chosen(rows, arm=arm, size=size, label_noise=NOISE)}
        for arm in ("gcpo", "cold_start")
        for size in (large, small)
    ]
    both = [row for row in rows if row["seed"] in set.intersection(*seeds)]
    gains = (gain(both, "gcpo", "cold_start", "tie_half", size=size).values for size in (large, small))
    return Gain(tuple(a - b for a, b in zip(*gains, strict=True)))


def of_editors(rows: Sequence[Row]) -> list[Claim]:
    """Claims 5 and 6: success of editors that different verifiers have trained."""
    return [
        Claim(
            f"{number}: an editor trained by {arm} over {other}",
            difference(chosen(rows, arm=arm), chosen(rows, arm=other), "oracle_success"),
        )
        for number, arm, other in (
            (5, "gcpo", "base"),
            (6, "gcpo", "cold_start"),
            (6, "cold_start", "direct"),
        )
    ]


def verdicts_table(claims: Sequence[Claim]) -> str:
    """A line for each claim; points, with a 95% interval over seeds (Student's)."""
    lines = [[c.text, f"{c.least:g}" if c.least else "more than 0", str(c.gain), c.verdict] for c in claims]
    return table(["claim", "at least", "measured", "holds"], lines)
