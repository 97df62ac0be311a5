"""What the written score counts: the points that an unmet check costs, by category of principles.

A verifier's score is its own, "not just the mean" of its checks (paper section 1). Fitted over many traces, the costs
say in three numbers what it has learnt to punish, whoever taught it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edit_r1.evaluation.metrics import PRINCIPLE_CATEGORIES
from edit_r1.records import Failure, PrincipleCategory, Verdict

Costs = dict[PrincipleCategory, float]


def score_costs(verdicts: Iterable[Verdict | Failure]) -> Costs | None:
    """Points of 10 that each unmet check takes away: least squares of `score = a - sum of cost[c] * unmet[c]`.

    Returns:
        A cost for each category; None where the traces do not tell them apart: too few, or a category that is always
        met or has no check. What is not linear in the counts is charged to the checks that come with it: leave copies
        out, which earn nothing whatever is met (paper section 1).
    """
    read = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
    rows = [
        [1.0, *(-sum(not c.met for c in v.checks if c.principle.category == name) for name in PRINCIPLE_CATEGORIES)]
        for v in read
    ]
    if not rows:
        return None
    found, _, rank, _ = np.linalg.lstsq(np.array(rows), np.array([v.score for v in read]), rcond=None)
    if rank < len(found):
        return None
    return {name: float(cost) for name, cost in zip(PRINCIPLE_CATEGORIES, found[1:], strict=True)}
