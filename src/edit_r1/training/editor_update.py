"""One update of an editor: gradients of the objective over a whole rollout, then one step of the optimiser.

Shapes: B edits, K stochastic steps (or noise levels, for DiffusionNFT).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edit_r1.editors.base import Editor
from edit_r1.flow.gaussian import kl, log_prob
from edit_r1.flow.sampling import VelocityFn
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.editor_objectives import clipped_objective, guarded_log_ratio, nft_loss
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.training.editor_rollout import Part, step_transition, velocity_fn
from edit_r1.training.processes import gathered


@dataclass(frozen=True)
class Term:
    """What one stochastic step of a micro batch adds to the loss, per edit [B].

    `loss` with gradients; `kl` to the base, with gradients (None if it is not asked for); `nats`, the same as a sum
    over latent dimensions; `clipped`, where the clip binds; `shift`, |rho - 1|.
    """

    loss: Tensor
    kl: Tensor | None
    nats: Tensor
    clipped: Tensor
    shift: Tensor


def update(
    editor: Editor,
    policy: EditorPolicy,
    parts: Sequence[Part],
    advantages_B: Tensor,
    readable_B: Tensor,
    config: EditorGrpoConfig,
) -> dict[str, float]:
    """One step of the optimiser; gradients are accumulated over micro batches and steps, and over processes.

    loss = mean over readable edits and steps of (objective + beta KL to the frozen base), with `config.reduction`.

    Args:
        editor: adapted by `policy`.
        policy: what is trained.
        parts: this process's rows of the rollout.
        advantages_B: theirs.
        readable_B: whether they have a reward; the others are in no mean.
        config: of the run.

    Returns:
        `loss`; `kl`, per step: nats summed over latent dimensions whatever the reduction, or the mean squared
        difference of velocities (0 when beta is 0, for it is not computed then); `clip_share` and `ratio_shift` (mean
        |rho - 1|) of rows and steps, 0 for `nft`; `grad_norm`, before clipping. The same on every process.

    Raises:
        FloatingPointError: the loss or the gradient is not finite; the weights are as before.
    """
    device = parts[0].trajectory.latents.device
    terms_per_row = config.nft_levels if config.objective == "nft" else len(parts[0].trajectory.steps)
    count = max(1, int(gathered(readable_B.sum().to(device)[None]).sum())) * terms_per_row
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    first = 0
    for part in parts:
        rows = slice(first, first + len(part))
        advantages, mask = advantages_B[rows].to(device), readable_B[rows].to(device)
        for term in _terms(editor, policy, part, advantages, config):
            losses = term.loss if term.kl is None else term.loss + config.beta * term.kl
            loss = (losses * mask).sum() / count
            loss.backward()
            measured = (losses.detach(), term.nats, term.clipped, term.shift)
            sums += torch.stack([(value.double() * mask).sum() for value in measured])
        first = rows.stop
    means = (gathered(sums[None]).sum(0) / count).tolist()
    metrics: dict[str, float] = dict(zip(("loss", "kl", "clip_share", "ratio_shift"), means, strict=True))
    metrics["grad_norm"] = policy.gradient_norm(config.max_grad_norm)
    if not all(value - value == 0 for value in metrics.values()):
        policy.discard()
        raise FloatingPointError(f"loss {metrics['loss']:.3g}, gradient norm {metrics['grad_norm']:.3g}")
    policy.step()
    return metrics


def _terms(
    editor: Editor, policy: EditorPolicy, part: Part, advantages_B: Tensor, config: EditorGrpoConfig
) -> Iterator[Term]:
    return (_nft_terms if config.objective == "nft" else _policy_gradient_terms)(
        editor, policy, part, advantages_B, config
    )


def _policy_gradient_terms(
    editor: Editor, policy: EditorPolicy, part: Part, advantages_B: Tensor, config: EditorGrpoConfig
) -> Iterator[Term]:
    """Flow-GRPO's objective, or GRPO-Guard's, of every stochastic step."""
    trajectory, velocity = part.trajectory, velocity_fn(editor, part.conditioning, config)
    for k, index in enumerate(trajectory.steps):
        x, sigma = trajectory.latents[index], trajectory.sigmas[index]
        base = _base_velocity(policy, velocity, x, sigma, config)
        predicted = velocity(x, sigma)
        now = step_transition(predicted, trajectory, index, config)
        log_probs = log_prob(trajectory.latents[index + 1], now, config.reduction)
        log_ratio = log_probs - trajectory.log_probs[k]
        weight = 1.0
        if config.objective == "guard":
            log_ratio = guarded_log_ratio(log_ratio, now, trajectory.means[k], config.reduction)
            weight = 1.0 / float(sigma - trajectory.sigmas[index + 1])
        loss, clipped = clipped_objective(log_ratio, advantages_B, config.clip)
        penalty, nats = None, torch.zeros_like(log_probs)
        if base is not None:
            if config.kl == "velocity":
                penalty = _velocity_gap(predicted, base)
                nats = penalty.detach()
            else:
                mean = step_transition(base, trajectory, index, config).mean
                penalty = kl(now.mean, mean, now.std, config.reduction)
                nats = kl(now.mean.detach(), mean, now.std, "sum")
        yield Term(weight * loss, penalty, nats, clipped, log_ratio.detach().expm1().abs())


def _nft_terms(
    editor: Editor, policy: EditorPolicy, part: Part, advantages_B: Tensor, config: EditorGrpoConfig
) -> Iterator[Term]:
    """DiffusionNFT's objective at every noise level that the rollout was put back to."""
    velocity = velocity_fn(editor, part.conditioning, config)
    for practice in part.practice:
        base = _base_velocity(policy, velocity, practice.x, practice.sigma, config)
        predicted = velocity(practice.x, practice.sigma)
        loss = nft_loss(
            predicted.float(),
            practice.old,
            practice.target,
            practice.sigma,
            advantages_B,
            beta=config.nft_beta,
            clip=config.advantage_clip,
        )
        none = torch.zeros_like(loss.detach())
        penalty = None if base is None else _velocity_gap(predicted, base)
        yield Term(loss, penalty, none if penalty is None else penalty.detach(), none, none)


def _base_velocity(
    policy: EditorPolicy, velocity: VelocityFn, x: Tensor, sigma: Tensor, config: EditorGrpoConfig
) -> Tensor | None:
    """The frozen base's velocity, if it is needed; asked for first, for no graph outlives an exchange of weights."""
    if not config.beta:
        return None
    with policy.reference():
        return velocity(x, sigma)


def _velocity_gap(velocity: Tensor, base: Tensor) -> Tensor:
    return (velocity.float() - base.float()).square().flatten(1).mean(1)
