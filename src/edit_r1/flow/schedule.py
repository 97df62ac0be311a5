"""Noise levels of rectified flow: from sigma = 1 (noise) down to sigma = 0 (image), diffusers' convention.

Shapes: T steps, so T + 1 noise levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def flow_sigmas(
    steps: int, *, shift: float = 1.0, mu: float | None = None, shift_terminal: float | None = None
) -> Tensor:
    """Return the noise levels of a sampling run, bitwise those of diffusers' `FlowMatchEulerDiscreteScheduler`.

    The even levels 1, 1 - 1/n, ..., 1/n (what `FluxKontextPipeline` hands to its scheduler) are moved towards noise by

        sigma -> e sigma / (1 + (e - 1) sigma)

    with e = `shift` (`use_dynamic_shifting=False`) or e = exp(`mu`) (`use_dynamic_shifting=True`); then a 0 is added.
    With `shift_terminal` (Qwen-Image) the distances to 1 are stretched before that, so that the last level is the one
    given. Written through 1/sigma - 1 for `mu`, as diffusers writes it, so that the roundings agree too.

    Args:
        steps: number of denoising steps n, at least 1.
        shift: static time shift, above 0; 1 leaves the levels even.
        mu: dynamic time shift in log units, usually from `dynamic_mu`; excludes `shift`.
        shift_terminal: the last level before 0, between 0 and 1; needs at least 2 steps. None leaves it where it is.

    Returns:
        float32 tensor [T + 1] on the CPU, strictly decreasing from 1 (with a static shift: 1 up to rounding) to 0.

    Raises:
        ValueError: on steps below 1, a shift that is not positive, both shifts at once, a `shift_terminal` out of range
            or with one step, or a shift so strong that neighbouring levels coincide in float32.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if mu is not None and shift != 1.0:
        raise ValueError(f"give shift or mu, not both (shift={shift}, mu={mu})")
    if not shift > 0.0:
        raise ValueError(f"shift must be above 0, got {shift}")
    if shift_terminal is not None and not (0.0 < shift_terminal < 1.0 and steps > 1):
        raise ValueError(f"shift_terminal must be between 0 and 1, and needs 2 steps: got {shift_terminal}, {steps}")
    even = (torch.arange(steps, 0, -1, dtype=torch.float64) / steps).to(torch.float32)
    if mu is None:
        shifted = (shift * even) / (1.0 + (shift - 1.0) * even)
    else:
        strength = torch.tensor(math.exp(mu), dtype=torch.float32)
        shifted = strength / (strength + (1.0 / even - 1.0))
    if shift_terminal is not None:
        stretch = (1.0 - shifted[-1]) / torch.tensor(1.0 - shift_terminal, dtype=torch.float32)
        shifted = 1.0 - (1.0 - shifted) / stretch
    sigmas = torch.cat([shifted, torch.zeros(1)])
    if not bool((sigmas[:-1] > sigmas[1:]).all()):
        raise ValueError(f"shift={shift}, mu={mu} is too strong: the noise levels of {steps} steps coincide")
    return sigmas


def dynamic_mu(
    tokens: int,
    *,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
) -> float:
    """Return the time shift of FLUX and Qwen-Image for `tokens` latent tokens: larger images get more noise.

    The straight line through (base_tokens, base_shift) and (max_tokens, max_shift), not clamped outside them. `tokens`
    counts the packed latents of the image being made, not the source's reference tokens. The defaults are FLUX.1's;
    pass a scheduler's own configuration values if they differ.

    Args:
        tokens: number of packed latent tokens.
        base_tokens: tokens at which the shift is `base_shift`.
        max_tokens: tokens at which the shift is `max_shift`.
        base_shift: log shift at `base_tokens`.
        max_shift: log shift at `max_tokens`.

    Returns:
        mu, to be given to `flow_sigmas`.
    """
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return tokens * slope + (base_shift - slope * base_tokens)
