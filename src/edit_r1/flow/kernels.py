"""Transition kernels: how one denoising step from sigma to sigma_next is distributed, given the model's velocity.

A kernel is a pure function of the signature `Kernel` that returns the mean and standard deviation of a Gaussian; add
one by writing one more function and its line in `KERNELS`. Notation: s = sigma, s' = sigma_next, d = s - s' > 0 the
step, v the velocity, a the noise level. Shapes: B batch, ... latent dimensions.

Arithmetic is done in float32 whatever the model's dtype (float64 stays float64, which the tests use).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PURE_NOISE = 1.0 - 1e-5
"""Noise levels above this count as s = 1: a shifted schedule starts within float32 rounding of 1, not always at 1."""


@dataclass(frozen=True)
class Transition:
    """A Gaussian step N(mean, std^2 I): `mean` [B, ...]; `std` [1 or B, 1, ...] broadcasts against it and may be 0."""

    mean: Tensor
    std: Tensor


class Kernel(Protocol):
    """The signature shared by all kernels; see `flow_sde` for the arguments."""

    def __call__(
        self, x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, noise_level: float, sigma_max: Tensor
    ) -> Transition:
        """Return the distribution of the latents at `sigma_next`, given `x` at `sigma`."""
        ...


def ode(
    x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, noise_level: float, sigma_max: Tensor
) -> Transition:
    """Return the Euler step of the probability-flow ODE dx = v ds: mean x - v d, std 0.

    Arguments as `flow_sde`; `noise_level` and `sigma_max` are not used. The mean is bitwise the step of diffusers'
    `FlowMatchEulerDiscreteScheduler` in float32.
    """
    x, velocity, sigma, sigma_next, _ = _working(x, velocity, sigma, sigma_next, sigma_max)
    return Transition(mean=x - velocity * (sigma - sigma_next), std=torch.zeros_like(sigma))


def flow_sde(
    x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, noise_level: float, sigma_max: Tensor
) -> Transition:
    """Return the Euler-Maruyama step of Flow-GRPO's SDE (arXiv 2505.05470), whose marginals are those of the ODE.

    With g = a sqrt(s / (1 - s)):

        mean = x (1 - g^2 d / (2 s)) - v d (1 + g^2 (1 - s) / (2 s)),        std = g sqrt(d)

    where at s = 1 alone (above `PURE_NOISE`) the singular 1 - s inside g becomes 1 - sigma_max. Here g^2 / (2 s) is
    written q = a^2 / (2 (1 - s)), the same without dividing by s. noise_level 0 gives the mean of `ode` bitwise.

    Two things to know when choosing the stochastic steps. The last one (s' = 0) leaves noise of std a s / sqrt(1 - s)
    in the image. The first one, from s = 1, has q d = a^2 / 2 and std a however many steps there are: it raises the
    variance by about a^4 / 4, and the chain from s = 1 converges only at order min(1, a^2) in the step size. From any
    s < 1 the order is 1. See `docs/flow.md`.

    Args:
        x: latents at `sigma`, [B, ...], any floating dtype.
        velocity: the model's velocity at (x, sigma), the shape of `x`.
        sigma: current noise level in (0, 1], a scalar tensor or one per sample [B].
        sigma_next: next noise level in [0, sigma), shaped as `sigma`.
        noise_level: a, at least 0 (0.7 to 1 in published recipes).
        sigma_max: the largest noise level below 1 in the schedule, sigmas[1]; a scalar tensor.

    Returns:
        The transition, in float32 (float64 if an input is).

    Raises:
        ValueError: if `noise_level` is negative or a noise level is neither scalar nor one per sample.
    """
    if not noise_level >= 0.0:
        raise ValueError(f"noise_level must be at least 0, got {noise_level}")
    x, velocity, sigma, sigma_next, sigma_max = _working(x, velocity, sigma, sigma_next, sigma_max)
    step_size = sigma - sigma_next
    image_share = 1.0 - torch.where(sigma > PURE_NOISE, sigma_max, sigma)
    q = noise_level**2 / (2.0 * image_share)
    mean = x * (1.0 - q * step_size) - velocity * (step_size * (1.0 + q * (1.0 - sigma)))
    return Transition(mean=mean, std=noise_level * torch.sqrt(sigma / image_share * step_size))


def cps(
    x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, noise_level: float, sigma_max: Tensor
) -> Transition:
    """Return the step of coefficients-preserving sampling (Flow-CPS, arXiv 2509.05952).

    A share of the noise that the model sees in `x` gives way to fresh noise, and no noise is added to it. With the
    model's image x - s v and noise e = x + (1 - s) v:

        mean = (1 - s') (x - s v) + s' cos(a pi / 2) e,        std = s' sin(a pi / 2)

    so that the squares of the noise's coefficients add up to s'^2, in few steps as in many, from s = 1 as from any
    other level. (An Euler-Maruyama step of `flow_sde` adds more noise than it takes away where steps are long.) Written
    as x - v d + s' (cos(a pi / 2) - 1) e, the mean at noise_level 0 is that of `ode` bitwise.

    Arguments and errors as `flow_sde`; `noise_level` is in [0, 1], `sigma_max` is not used, and the last step (s' = 0)
    is deterministic.
    """
    if not 0.0 <= noise_level <= 1.0:
        raise ValueError(f"noise_level must be in [0, 1], got {noise_level}")
    x, velocity, sigma, sigma_next, _ = _working(x, velocity, sigma, sigma_next, sigma_max)
    angle = 0.5 * math.pi * noise_level
    noise = x + (1.0 - sigma) * velocity
    mean = x - velocity * (sigma - sigma_next) + sigma_next * (math.cos(angle) - 1.0) * noise
    return Transition(mean=mean, std=sigma_next * math.sin(angle))


def dance_sde(
    x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, noise_level: float, sigma_max: Tensor
) -> Transition:
    """Return the Euler-Maruyama step of DanceGRPO's SDE (arXiv 2505.07818), whose diffusion is constant: g = a.

    With the model's noise e = x + (1 - s) v:

        mean = x - v d - a^2 d e / (2 s),        std = a sqrt(d)

    It is the equation of `flow_sde` with another g: the same marginals in short steps, and nothing singular at s = 1.
    The score is -e / s; DanceGRPO writes it as -(x - (1 - s) x0) / s^2 with x0 = x - s v, which is the same. Without
    noise it is `ode` bitwise. The last step (s' = 0) leaves noise of std a sqrt(s) in the image: leave it out of the
    window if the reward is sensitive to noise.

    Arguments and errors as `flow_sde`; `sigma_max` is not used.
    """
    if not noise_level >= 0.0:
        raise ValueError(f"noise_level must be at least 0, got {noise_level}")
    x, velocity, sigma, sigma_next, _ = _working(x, velocity, sigma, sigma_next, sigma_max)
    step_size = sigma - sigma_next
    noise = x + (1.0 - sigma) * velocity
    mean = x - velocity * step_size - noise * (0.5 * noise_level**2 * step_size / sigma)
    return Transition(mean=mean, std=noise_level * torch.sqrt(step_size))


KERNELS: dict[str, Kernel] = {"ode": ode, "flow_sde": flow_sde, "cps": cps, "dance_sde": dance_sde}
"""The kernels by the name that configurations use."""


def step(transition: Transition, noise: Tensor) -> Tensor:
    """Return the sample mean + std * noise, [B, ...]; `noise` is standard normal, drawn by the caller."""
    return transition.mean + transition.std * noise.to(transition.mean.dtype)


def _working(
    x: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, sigma_max: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Bring all tensors to the working dtype and to the device of `x`, and noise levels to [1 or B, 1, ...]."""
    if x.shape != velocity.shape:
        raise ValueError(f"velocity has shape {tuple(velocity.shape)}, the latents {tuple(x.shape)}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, velocity.dtype), torch.float32)
    levels = [_per_sample(level, x).to(device=x.device, dtype=dtype) for level in (sigma, sigma_next, sigma_max)]
    return x.to(dtype), velocity.to(dtype), levels[0], levels[1], levels[2]


def _per_sample(level: Tensor, x: Tensor) -> Tensor:
    """Reshape a scalar or [B] noise level so that it broadcasts against the latents [B, ...]."""
    if level.ndim > 1 or (level.ndim == 1 and level.shape[0] != x.shape[0]):
        raise ValueError(f"noise level of shape {tuple(level.shape)} for {x.shape[0]} samples: give one, or one each")
    return level.reshape(-1, *([1] * (x.ndim - 1)))
