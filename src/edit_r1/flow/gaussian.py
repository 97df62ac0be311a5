"""Log-probability and KL of Gaussian transitions, per sample over all latent dimensions.

Shapes: B batch, ... latent dimensions, D their number. Every function names its reduction over D:

- `"sum"` is the true quantity.
- `"mean"` divides it by D, the field's default. A ratio exp(log_prob_new - log_prob_old) of means is the true
  likelihood ratio to the power 1/D, which is why clip ranges of 1e-4 go with it.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from edit_r1.flow.kernels import Transition

Reduction = Literal["mean", "sum"]


def log_prob(x_next: Tensor, transition: Transition, reduction: Reduction = "mean") -> Tensor:
    """Return the log-density of `x_next` under the transition, reduced over the latent dimensions.

    Per dimension -(x - mean)^2 / (2 std^2) - log std - log(2 pi) / 2.
    Recomputing with bitwise the same latents and velocity, in tensors of the same shape on the same device, gives
    bitwise the same number: keep the latents of a rollout in the transition's dtype. Gradients flow through the
    transition and, unless it is detached, through `x_next`.

    Args:
        x_next: the latents that were sampled, [B, ...].
        transition: their distribution; std above 0.
        reduction: "mean" or "sum" over the latent dimensions, see the module.

    Returns:
        [B], in the dtype of the transition.

    Raises:
        ValueError: if a std is not above 0 (a deterministic step has no density) or the reduction is unknown.
    """
    _require_noise(transition.std)
    z = (x_next.to(transition.mean.dtype) - transition.mean) / transition.std
    return _reduce(-0.5 * z.square() - transition.std.log() - 0.5 * math.log(2.0 * math.pi), reduction)


def kl(mean_a: Tensor, mean_b: Tensor, std: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return KL(N(mean_a, std^2) || N(mean_b, std^2)), reduced over the latent dimensions; symmetric in a and b.

    Per dimension (mean_a - mean_b)^2 / (2 std^2), exactly. `std` is that of the transition, step size included
    (flow_grpo divides by g^2 without it).

    Args:
        mean_a: [B, ...].
        mean_b: [B, ...].
        std: the shared standard deviation, above 0, broadcast against the means.
        reduction: "mean" or "sum" over the latent dimensions, see the module.

    Returns:
        [B], at least 0.

    Raises:
        ValueError: if a std is not above 0 or the reduction is unknown.
    """
    _require_noise(std)
    return _reduce(0.5 * ((mean_a - mean_b) / std).square(), reduction)


def _require_noise(std: Tensor) -> None:
    if not bool((std > 0.0).all()):
        raise ValueError("a transition with std 0 is deterministic: it has no log-probability and no KL")


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    flat = values.reshape(values.shape[0], -1)
    if reduction == "mean":
        return flat.mean(dim=1)
    if reduction == "sum":
        return flat.sum(dim=1)
    raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
