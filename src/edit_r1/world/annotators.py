"""Simulated annotators: preferences from the oracle's truth, with stated weights, noise and a "same" margin.

Say "simulated" wherever a number rests on them.
"""

from __future__ import annotations

from numpy.random import Generator

from edit_r1.records import Choice
from edit_r1.world.tasks import Truth, WorldTask

COST = {"follow": 4.0, "keep": 2.0, "quality": 1.0}
"""What an unmet principle costs, by category. Ours: the paper's annotators judged fidelity and overall quality."""
SAME_MARGIN = 0.05


def utility(task: WorldTask, truth: Truth) -> float:
    """How much an annotator likes an edit, in [0, 1]: one less the weighted share of unmet principles; 0 for a copy."""
    if truth.noop:
        return 0.0
    costs = [COST[claim.principle.category] for claim in task.claims]
    unmet = sum(cost for cost, finding in zip(costs, truth.findings, strict=True) if not finding.met)
    return 1.0 - unmet / sum(costs)


def prefer(rng: Generator, first: float, second: float, *, noise: float) -> Choice:
    """The choice between two utilities: "same" within the margin, and with probability `noise` the other one."""
    if abs(first - second) <= SAME_MARGIN:
        return "same"
    better = first > second
    return "first" if better != (rng.random() < noise) else "second"
