"""How many pairs of a world the oracle's checks order as the simulated annotators did, by the weights of the checks.

    python -m benchmarks.rules runs/claims/worlds/seed0 [more worlds]

It is the ceiling of a verifier that sees everything and sums it up by such a rule. `equal` is the rule of the simulated
teachers, from whom the cold start learns to score; the annotators have weights of their own, and dislike copies.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edit_r1.data.gold import truth_of
from edit_r1.data.store import JudgedPair, read_pairs
from edit_r1.evaluation.metrics import tie_half
from edit_r1.evaluation.verifier import scored_pair
from edit_r1.records import Edit
from edit_r1.stages import TEST_PAIRS
from edit_r1.world.annotators import COST
from edit_r1.world.principles import WEIGHT

RULES = {"equal": dict.fromkeys(WEIGHT, 1.0), "weighted": WEIGHT, "annotators": COST}


def score(edit: Edit, truth: str, weights: dict[str, float]) -> float:
    """Weighted share of the principles that are met in truth."""
    findings = truth_of(edit, truth).findings
    each = [weights[principle.category] for principle in edit.task.principles]
    return sum(w for w, finding in zip(each, findings, strict=True) if finding.met) / sum(each)


def ordered(pairs: list[JudgedPair], weights: dict[str, float]) -> float:
    """Share of the pairs in the preferred order, ties half."""
    return tie_half(
        [
            scored_pair(
                pair,
                score(pair.preference.first, pair.first_truth, weights),
                score(pair.preference.second, pair.second_truth, weights),
            )
            for pair in pairs
        ]
    )


def main(worlds: list[str]) -> None:
    """Print a line for each world."""
    sys.stdout.write(f"{'world':32s} {'pairs':>6s} " + " ".join(f"{name:>10s}" for name in RULES) + "\n")
    for world in worlds:
        pairs = list(read_pairs(Path(world) / TEST_PAIRS))
        found = " ".join(f"{ordered(pairs, weights):10.1%}" for weights in RULES.values())
        sys.stdout.write(f"{world:32s} {len(pairs):6d} {found}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
