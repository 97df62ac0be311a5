"""What a verifier would give that sees everything and sums it up by a rule: pairs in the annotators' order, and costs.

    python -m benchmarks.rules runs/claims/worlds/seed0 [more worlds]

`teachers`: all checks alike, and 0 for a copy: what the cold start is taught. `annotators`: with their costs, and 0 for
a copy. `weighted`: the aggregation of that name. Costs: points that an unmet check takes away, copies left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edit_r1.data.gold import truth_of
from edit_r1.data.store import JudgedPair, read_pairs
from edit_r1.evaluation.costs import score_costs
from edit_r1.evaluation.metrics import JudgedTrace, tie_half
from edit_r1.evaluation.verifier import scored_pair
from edit_r1.records import Check, Edit, Provenance, Verdict
from edit_r1.stages import TEST_PAIRS
from edit_r1.verifier.aggregation import share_met
from edit_r1.world.annotators import COST
from edit_r1.world.principles import WEIGHT


@dataclass(frozen=True)
class Rule:
    """Weights of the checks by category, and whether a copy is worth nothing."""

    weights: Mapping[str, float]
    refuses_copies: bool = True

    def judge(self, edit: Edit, truth: str) -> tuple[Verdict, bool]:
        """The true checks with the rule's score, and whether the edit is a copy."""
        found = truth_of(edit, truth)
        checks = tuple(
            Check(replace(principle, weight=self.weights[principle.category]), finding.met, "")
            for principle, finding in zip(edit.task.principles, found.findings, strict=True)
        )
        verdict = Verdict(checks, 0.0, "", Provenance("the oracle", "", "", "", 0))
        refused = found.noop and self.refuses_copies
        return verdict if refused else replace(verdict, score=10 * share_met(verdict)), found.noop


RULES = {
    "teachers": Rule(dict.fromkeys(WEIGHT, 1.0)),
    "annotators": Rule(COST),
    "weighted": Rule(WEIGHT, refuses_copies=False),
}


def measure(rule: Rule, pairs: Sequence[JudgedPair]) -> str:
    """Share of the pairs in the preferred order, ties half, and the costs."""
    judged = [
        (rule.judge(p.preference.first, p.first_truth), rule.judge(p.preference.second, p.second_truth)) for p in pairs
    ]
    ordered = tie_half([scored_pair(p, a.score, b.score) for p, ((a, _), (b, _)) in zip(pairs, judged, strict=True)])
    costs = score_costs([JudgedTrace(verdict, None, copy=copy) for both in judged for verdict, copy in both])
    shown = "unknown" if costs is None else ", ".join(f"{name} {cost:.2f}" for name, cost in costs.items())
    return f"{ordered:7.1%}   {shown}"


def main(worlds: Sequence[str]) -> None:
    """Print a line for each world and rule."""
    for world in worlds:
        pairs = list(read_pairs(Path(world) / TEST_PAIRS))
        for name, rule in RULES.items():
            sys.stdout.write(f"{world}  {name:10s} {measure(rule, pairs)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
