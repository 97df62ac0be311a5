"""What an editor's update minimises, per edit: GRPO's clipped objective, GRPO-Guard's, DiffusionNFT's. Pure functions.

Shapes: B edits, ... latent dimensions.
"""

from __future__ import annotations

from torch import Tensor

from edit_r1.flow.gaussian import Reduction, kl
from edit_r1.flow.kernels import Transition


def clipped_objective(log_ratio: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The clipped objective of one stochastic step as a loss (Flow-GRPO equation 5; paper section 4).

        -min(rho A, clip(rho, 1 - eps, 1 + eps) A),     rho = exp(log_ratio)

    Args:
        log_ratio: of the rollout's step, trained weights over those that made the rollout, [B]; with gradients.
        advantages: [B].
        clip: eps; it goes with the reduction of the log-probabilities (1e-4 for means).

    Returns:
        The loss [B], and where the clip binds [B]: there the edit has no gradient.
    """
    ratio = log_ratio.exp()
    plain = ratio * advantages
    bounded = ratio.clamp(1 - clip, 1 + clip) * advantages
    return -plain.minimum(bounded), bounded < plain


def guarded_log_ratio(log_ratio: Tensor, now: Transition, old_mean: Tensor, reduction: Reduction) -> Tensor:
    """The log-ratio of GRPO-Guard (arXiv 2510.22319): without its bias, and of one size in all steps.

    With x' = m_old + std e and D = m - m_old the log-ratio is <e, D> / std - |D|^2 / (2 std^2). Its second term is
    below 0 however good the update is, so a clip at 1 + eps seldom binds; its spread is that of D / std, so the clip
    binds in quiet steps alone. Guard adds the second term back and multiplies by std, which leaves <e, D>:

        std (log_ratio + |D|^2 / (2 std^2))

    Per edit (public code averages the added term over the batch). The loss of the step is then to be divided by its
    length d, which keeps the steps' gradients comparable.

    Args:
        log_ratio: [B], with `reduction`; with gradients.
        now: the transition under the trained weights, with gradients; its std is that of the rollout too.
        old_mean: its mean under the weights that made the rollout, [B, ...].
        reduction: of the log-ratio.
    """
    return now.std.flatten() * (log_ratio + kl(now.mean, old_mean, now.std, reduction))


def nft_loss(
    velocity: Tensor, old: Tensor, target: Tensor, sigma: Tensor, advantages: Tensor, *, beta: float, clip: float
) -> Tensor:
    """DiffusionNFT's objective at one noise level (arXiv 2509.16117, equations 5 to 8), per edit.

    The trained velocity v defines two policies around the one that sampled: v+ = v_old + beta (v - v_old), which
    should have made the image, and v- = v_old - beta (v - v_old), which should not. With r = 1/2 + A / (2 clip), the
    optimality:

        (r err(v+) + (1 - r) err(v-)) / beta

    where err compares the predicted image x - s v with the image, divided by its own mean absolute error (without
    gradients), which makes it s mean(e^2) / mean(|e|) of the velocity's error e. (The paper's reward is normalised in
    the group and clipped likewise; its factor of `clip` on the whole, which AdamW undoes, is left out.)

    Args:
        velocity: of the trained weights at x = (1 - s) image + s noise, [B, ...]; with gradients.
        old: of the weights that sampled the image, [B, ...].
        target: noise - image, [B, ...].
        sigma: s, [B].
        advantages: A, within +-clip, [B].
        beta: distance of the two policies from the old one.
        clip: of the advantages.
    """
    optimality = 0.5 + advantages / (2 * clip)
    step = beta * (velocity - old)
    better, worse = (_self_weighted(policy - target, sigma) for policy in (old + step, old - step))
    return (optimality * better + (1 - optimality) * worse) / beta


def _self_weighted(error: Tensor, sigma: Tensor) -> Tensor:
    flat = error.flatten(1)
    return sigma * flat.square().mean(1) / flat.detach().abs().mean(1).clamp(min=1e-5)
