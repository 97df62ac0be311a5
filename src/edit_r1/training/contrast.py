"""Rewards of traces from preference pairs, as pure functions of scores (paper section 3, and what it is compared with).

Shapes: P pairs, N traces; [P, 2, N] holds the winner's traces before the loser's. NaN marks a Failure.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDING = 1e-4
"""Of a point: differences of scores and margins with decimals miss what they are by less in float32."""


def contrast(scores_P2N: Tensor, margin: float = 0.0, tie_credit: float = 0.0) -> Tensor:
    """Inter-group rewards (paper section 3): [P, 2, N] scores, winner first, to [P, 2, N] rewards in [0, 1].

    r^w_j = share of the loser's readable traces that winner trace j scores strictly above; r^l_j = share of the
    winner's readable traces that score strictly above loser trace j. A Failure earns 0 and is not counted among its
    opponents' N, and without a readable opponent a trace earns 0. (Ours: the paper does not say.)

    Args:
        scores_P2N: scores in [0, 10], NaN for a Failure.
        margin: a comparison is won by more than so many points; the paper has 0.
        tie_credit: what a comparison within the margin earns on both sides; the paper has 0, half a win is 0.5.
    """
    winner, loser = scores_P2N[:, 0], scores_P2N[:, 1]
    gap = winner[:, :, None] - loser[:, None, :]  # [P, N winner, N loser]; NaN fails every comparison below
    won = (gap > margin + _ROUNDING) + tie_credit * (gap.abs() <= margin + _ROUNDING)
    readable_winner, readable_loser = (~winner.isnan()).sum(1), (~loser.isnan()).sum(1)
    reward_winner = won.sum(2) / readable_loser.clamp(min=1)[:, None]
    reward_loser = won.sum(1) / readable_winner.clamp(min=1)[:, None]
    return torch.stack([reward_winner, reward_loser], 1)


def pointwise(scores_P2N: Tensor) -> Tensor:
    """Rewards of a rule that sees one trace at a time: [P, 2, N] scores to rewards in [0, 1].

    A winner's trace earns its score / 10, a loser's 1 - score / 10, a Failure 0. This is what GRPO on rule rewards
    makes of a pair; GCPO is compared with it.
    """
    share = scores_P2N / 10
    return torch.stack([share[:, 0], 1 - share[:, 1]], 1).nan_to_num(0.0)


def centred(rewards_P2N: Tensor) -> Tensor:
    """Intra-group advantages (paper section 3): rewards less the mean of their own group; no standard deviation.

    TRL's `scale_rewards="none"` computes the same; a test holds the two together.
    """
    return rewards_P2N - rewards_P2N.mean(-1, keepdim=True)


def group_metrics(scores_P2N: Tensor, rewards_P2N: Tensor) -> dict[str, float]:
    """What a batch tells: accuracy of trace means on its own (noisy) labels, ties, failures, share with signal."""
    means = scores_P2N.nanmean(-1)
    margin = means[:, 0] - means[:, 1]
    known = ~margin.isnan()
    spread = rewards_P2N.amax(-1) - rewards_P2N.amin(-1)
    return {
        "pair_accuracy": ((margin > _ROUNDING) & known).float().mean().item(),
        "pair_ties": (~known | (margin.abs() <= _ROUNDING)).float().mean().item(),
        "failure_rate": scores_P2N.isnan().float().mean().item(),
        "signal_share": (spread.amax(1) > _ROUNDING).float().mean().item(),
    }
