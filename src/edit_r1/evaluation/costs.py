"""What the written score counts: the points that an unmet check costs, by category of principles, and a copy earns.

A verifier's score is its own, "not just the mean" of its checks, and 0 for a copy of the source (paper section 1).
Over many traces these numbers say what it has learnt to punish, whoever taught it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from edit_r1.evaluation.metrics import PRINCIPLE_CATEGORIES, JudgedTrace
from edit_r1.records import PrincipleCategory, Verdict

Costs = dict[PrincipleCategory, float]


def score_costs(traces: Sequence[JudgedTrace]) -> Costs | None:
    """Points of 10 that each unmet check takes away: least squares of `score = a - sum of cost[c] * unmet[c]`.

    Copies are left out: what they earn does not depend on what is met. Where nobody knows which edits are copies, their
    zeros are charged to the checks that they fail.

    Returns:
        A cost for each category; None where the traces do not tell them apart: too few, or a category that is always
        met or has no check.
    """
    read = [trace.verdict for trace in traces if isinstance(trace.verdict, Verdict) and not trace.copy]
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


def copy_score(traces: Sequence[JudgedTrace]) -> float | None:
    """Mean score that the readable traces give to copies of the source; None where there is none."""
    scores = [trace.verdict.score for trace in traces if isinstance(trace.verdict, Verdict) and trace.copy]
    return fmean(scores) if scores else None
