"""One sampler for rollouts and evaluation: noise to image, with the log-probability of every stochastic step.

Shapes: T steps, K of them stochastic, B batch, ... latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edit_r1.flow.gaussian import Reduction, log_prob
from edit_r1.flow.kernels import Kernel, Transition, ode, step

VelocityFn = Callable[[Tensor, Tensor], Tensor]
"""(latents [B, ...] in float32, sigma as a scalar tensor) -> velocity [B, ...] in any dtype."""

Randomness = torch.Generator | Sequence[torch.Generator]
"""Where noise comes from: one generator for a batch; or one per sample, and then the batch does not matter."""


@dataclass(frozen=True)
class Trajectory:
    """What a rollout leaves behind, enough to recompute every transition.

    `latents` [T + 1, B, ...] from noise to image; `sigmas` [T + 1]; `steps` the K indices of stochastic steps,
    ascending; `log_probs` [K, B], row k for the step from latents[steps[k]] to latents[steps[k] + 1]; `means`
    [K, B, ...], the means that those steps were drawn around.
    """

    latents: Tensor
    sigmas: Tensor
    steps: tuple[int, ...]
    log_probs: Tensor
    means: Tensor


def transition_at(
    kernel: Kernel, x: Tensor, velocity: Tensor, sigmas: Tensor, index: int | Tensor, noise_level: float
) -> Transition:
    """Return the transition of step `index` of the schedule: one index for all samples, or integers [B].

    Rollout and training both come here, so that they agree on sigma_next and on sigma_max = sigmas[1].
    """
    return kernel(x, velocity, sigmas[index], sigmas[index + 1], noise_level, sigmas[1])


@torch.no_grad()
def sample(
    velocity_fn: VelocityFn,
    x: Tensor,
    sigmas: Tensor,
    kernel: Kernel = ode,
    noise_level: float = 0.0,
    generator: Randomness | None = None,
    *,
    sde_steps: Collection[int] | None = None,
    reduction: Reduction = "mean",
) -> Trajectory:
    """Sample from `x` at sigmas[0] down to sigmas[-1], without gradients; training recomputes its log-probabilities.

    Args:
        velocity_fn: the model, guidance and conditions included.
        x: starting latents [B, ...]; kept in float32 (or float64) between steps.
        sigmas: noise levels [T + 1], strictly decreasing, from `flow_sigmas`.
        kernel: kernel of the stochastic steps; all other steps are `ode`.
        noise_level: the kernel's a; 0 makes every step deterministic.
        generator: source of the steps' noise, needed if a step is stochastic: one, or one per sample; a CPU generator
            serves every device.
        sde_steps: indices of the stochastic steps, e.g. `range(1, 4)`; None means every step.
        reduction: of the log-probabilities, see `gaussian`.

    Returns:
        The trajectory; deterministic steps have no row in `log_probs`.

    Raises:
        ValueError: on a schedule that does not decrease, a step out of range or a missing generator.
    """
    total = sigmas.shape[0] - 1
    steps = _stochastic_steps(sigmas, () if kernel is ode or noise_level == 0.0 else sde_steps)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    latents, log_probs, means = [x], [x.new_zeros(0, x.shape[0])], [x.new_zeros(0, *x.shape)]
    for i in range(total):
        velocity = velocity_fn(x, sigmas[i])
        transition = transition_at(kernel if i in steps else ode, x, velocity, sigmas, i, noise_level)
        x = transition.mean
        if i in steps:
            x = step(transition, _noise_like(x, generator))
            log_probs.append(log_prob(x, transition, reduction)[None])
            means.append(transition.mean[None])
        latents.append(x)
    return Trajectory(torch.stack(latents), sigmas, steps, torch.cat(log_probs), torch.cat(means))


def _stochastic_steps(sigmas: Tensor, sde_steps: Collection[int] | None) -> tuple[int, ...]:
    total = sigmas.shape[0] - 1
    if total < 1 or not bool((sigmas[:-1] > sigmas[1:]).all()):
        raise ValueError("sigmas must be strictly decreasing and hold at least two levels")
    steps = tuple(range(total)) if sde_steps is None else tuple(sorted(set(sde_steps)))
    if steps and not (steps[0] >= 0 and steps[-1] < total):
        raise ValueError(f"sde_steps {steps} are not all within the {total} steps of the schedule")
    return steps


def _noise_like(x: Tensor, generator: Randomness | None) -> Tensor:
    if generator is None:
        raise ValueError("a stochastic step needs a generator; pass one, or kernel=ode")
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    rows = [
        torch.randn(row.shape, generator=g, device=g.device, dtype=x.dtype) for row, g in zip(x, generator, strict=True)
    ]
    return torch.stack(rows).to(x.device)
