"""The objectives of an editor's update, by hand and against autograd."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from edit_r1.flow.gaussian import log_prob
from edit_r1.flow.kernels import Transition
from edit_r1.training.editor_objectives import clipped_objective, guarded_log_ratio, nft_loss


def test_clipped_objective_by_hand() -> None:
    """Clip 0.2. A = 1: rho 1.5 gives min(1.5, 1.2), rho 0.5 min(0.5, 0.8). A = -1: min(-1.5, -1.2), min(-0.5, -0.8)."""
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5])
    log_probs = ratio.log().requires_grad_()
    losses, bound = clipped_objective(log_probs, torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2)
    torch.testing.assert_close(losses, torch.tensor([-1.2, -0.5, 1.5, 0.8]))
    assert bound.tolist() == [True, False, False, True]
    losses.sum().backward()
    # d(-rho A)/d log p = -rho A where the clip does not bind, else 0.
    torch.testing.assert_close(log_probs.grad, torch.tensor([0.0, -0.5, 1.5, 0.0]))


def test_objective_at_ratio_one_is_the_policy_gradient() -> None:
    log_probs = torch.tensor([-1.3, 0.4], requires_grad=True)
    losses, bound = clipped_objective(log_probs - log_probs.detach(), torch.tensor([2.0, -0.5]), 1e-4)
    losses.sum().backward()
    assert losses.tolist() == [-2.0, 0.5]
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [-2.0, 0.5]
    assert not bound.any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_guarded_log_ratio_is_noise_times_shift(reduction: Literal["mean", "sum"]) -> None:
    """X' = m_old + std e gives <e, m - m_old>: no bias, and no std in it. Per sample, each with its own shift."""
    drawn = torch.Generator().manual_seed(0)
    old, noise = torch.randn(2, 3, 5, 4, generator=drawn, dtype=torch.float64)
    shift = torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64)[:, None, None] * torch.randn(3, 5, 4, generator=drawn)
    for std in (0.05, 0.7):
        spread = torch.full((1, 1, 1), std, dtype=torch.float64)
        reached = old + spread * noise
        now = Transition(old + shift, spread)
        ratio = log_prob(reached, now, reduction) - log_prob(reached, Transition(old, spread), reduction)
        expected = (noise * shift).flatten(1)
        expected = expected.mean(1) if reduction == "mean" else expected.sum(1)
        torch.testing.assert_close(guarded_log_ratio(ratio, now, old, reduction), expected)


def test_nft_at_the_old_policy_by_hand() -> None:
    """With v = v_old both policies are v_old, so the loss is s mean(e^2) / mean(|e|) / beta whatever the advantage.

    e = (1, -3): mean(e^2) = 5, mean(|e|) = 2; s = 1/2, beta = 2 give 5/8. Its gradient: each of the two errors has
    s 2 e_i / (D mean|e|) = e_i / 4 times +-beta, with weights r and 1 - r, over beta: (2 r - 1) e_i / 4.
    A = clip / 2 gives r = 3/4: e_i / 8, towards the target. A = 0 gives none, A = -clip twice that, away from it.
    """
    target = torch.tensor([[2.0, 1.0]]).expand(3, 2)
    old = target + torch.tensor([[1.0, -3.0]])
    velocity = old.clone().requires_grad_()
    losses = nft_loss(velocity, old, target, torch.full((3,), 0.5), torch.tensor([2.5, 0.0, -5.0]), beta=2.0, clip=5.0)
    torch.testing.assert_close(losses, torch.full((3,), 0.625))
    losses.sum().backward()
    torch.testing.assert_close(
        velocity.grad, torch.tensor([[0.125, -0.375], [0.0, 0.0], [-0.25, 0.75]]), rtol=1e-5, atol=1e-6
    )


def test_nft_with_the_best_reward_is_flow_matching() -> None:
    """R = 1 and beta = 1 leave err(v) alone: smallest, and 0, where v is the target."""
    target = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    best = torch.full((2,), 5.0)
    losses = [
        nft_loss(target + gap, torch.zeros_like(target), target, torch.ones(2), best, beta=1.0, clip=5.0).sum()
        for gap in (0.0, 0.1, 1.0)
    ]
    assert losses[0] == 0.0
    assert losses[0] < losses[1] < losses[2]
