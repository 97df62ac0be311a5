"""From rewards to advantages, within groups (paper section 4). Pure functions.

Shapes: C components of the reward, P tasks, G edits of each (a group). NaN: a verdict that could not be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "global", "mean"]


@dataclass(frozen=True)
class Advantages:
    """`values` [P, G]; `readable` [P, G], the members that count; `signal` [P], whether a group's rewards differ."""

    values: Tensor
    readable: Tensor
    signal: Tensor


def advantages(
    rewards_CPG: Tensor,
    weights: Sequence[float] = (1.0,),
    *,
    scale: Scale = "group",
    clip: float = 5.0,
    eps: float = 1e-4,
) -> Advantages:
    """Centre rewards within their groups, divide them by a standard deviation, and add the components up.

        A = clip(sum_c w_c (r_c - mean_c) / (std_c + eps), -clip, clip)

    With one component and the scale "group" it is the paper's (section 4). Several components (follow, keep, quality)
    are normalised each by itself, so that one that varies little is not drowned by one that varies much.

    A member that cannot be read in one component is in no mean and no std of it and gets 0 from it; it is `readable` if
    it can be read in any. Groups with fewer than two readable members, or with equal rewards, get exactly 0. (The paper
    does not say.) A standard deviation is that of the population. Float64 inside; float32 out.

    Args:
        rewards_CPG: in any one unit; `eps` is in it too.
        weights: one for each component.
        scale: std of the group; of all readable rewards of the step ("global"); or "mean": centred only.
        clip: the largest absolute advantage.
        eps: added to the standard deviation.
    """
    total = torch.zeros(rewards_CPG.shape[1:], dtype=torch.float64)
    signal = torch.zeros(rewards_CPG.shape[1], dtype=torch.bool)
    for weight, rewards_PG in zip(weights, rewards_CPG, strict=True):
        values, differs = _normalised(rewards_PG, scale, eps)
        total += weight * values
        signal |= differs & (weight > 0)
    return Advantages(total.clamp(-clip, clip).float(), ~rewards_CPG.isnan().all(0), signal)


def _normalised(rewards_PG: Tensor, scale: Scale, eps: float) -> tuple[Tensor, Tensor]:
    """Advantages of one component, and whether each group's rewards differ at all."""
    readable = ~rewards_PG.isnan()
    count = readable.sum(1, keepdim=True).clamp(min=1)
    rewards = torch.where(readable, rewards_PG.double(), 0.0)
    centred = torch.where(readable, rewards - rewards.sum(1, keepdim=True) / count, 0.0)
    if scale == "group":
        values = centred / ((centred.square().sum(1, keepdim=True) / count).sqrt() + eps)
    elif scale == "global":
        everyone = rewards_PG[readable].double()
        values = centred / ((everyone.std(correction=0) if len(everyone) else 0.0) + eps)
    else:
        values = centred
    low = torch.where(readable, rewards_PG, torch.inf).amin(1)
    high = torch.where(readable, rewards_PG, -torch.inf).amax(1)
    differs = high > low
    return torch.where(differs[:, None], values, 0.0), differs
