"""Small parts that the pretraining loops share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of parameters, warmed up as min(decay, (1 + n) / (10 + n))."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.shadow = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the parameters after update number `step` (from 0)."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        for shadow, parameter in zip(self.shadow, self.parameters, strict=True):
            shadow.lerp_(parameter, rate)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the parameters; a second call undoes the first."""
        for shadow, parameter in zip(self.shadow, self.parameters, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(shadow)
            shadow.copy_(held)


def learning_rate(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Factor on the peak rate: linear warm-up, constant, then a cosine to 1% over the last `decay_share`."""
    begin = steps * (1 - decay_share)
    done = max(0.0, (step - begin) / max(1.0, steps - begin))
    return min(1.0, (step + 1) / max(1, warmup)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    """One step with gradients clipped to norm 1; returns the norm before."""
    optimizer.zero_grad()
    loss.backward()
    parameters: Iterator[Tensor] = (p for group in optimizer.param_groups for p in group["params"])
    norm = nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return float(norm)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate
