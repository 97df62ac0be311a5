"""Log-probability and KL against torch.distributions, and the identities that bind them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from edit_r1.flow.gaussian import Reduction, kl, log_prob
from edit_r1.flow.kernels import Transition, flow_sde

SEEDS = st.integers(0, 2**31)
STD = st.floats(0.01, 10.0)
REDUCTIONS: tuple[Reduction, Reduction] = ("mean", "sum")


def draw(seed: int, count: int = 3) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 2, 3, 4, generator=generator, dtype=torch.float64))


def reduce(values: Tensor, reduction: Reduction) -> Tensor:
    return values.mean(dim=(1, 2)) if reduction == "mean" else values.sum(dim=(1, 2))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, std=STD)
def test_log_prob_is_that_of_torch(reduction: Reduction, seed: int, std: float) -> None:
    x, mean, _ = draw(seed)
    stds = torch.tensor([std, 2 * std], dtype=torch.float64).reshape(2, 1, 1)
    expected = reduce(Normal(mean, stds).log_prob(x), reduction)
    torch.testing.assert_close(log_prob(x, Transition(mean, stds), reduction), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, std=STD)
def test_kl_is_that_of_torch(reduction: Reduction, seed: int, std: float) -> None:
    a, b, _ = draw(seed)
    stds = torch.tensor([std, 2 * std], dtype=torch.float64).reshape(2, 1, 1)
    expected = reduce(kl_divergence(Normal(a, stds), Normal(b, stds)), reduction)
    torch.testing.assert_close(kl(a, b, stds, reduction), expected, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, std=STD)
def test_kl_is_symmetric_and_zero_only_for_equal_means(seed: int, std: float) -> None:
    a, b, _ = draw(seed)
    stds = torch.tensor(std, dtype=torch.float64)
    assert torch.equal(kl(a, b, stds), kl(b, a, stds))
    assert bool((kl(a, b, stds) > 0).all())
    assert torch.equal(kl(a, a, stds), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, std=STD)
def test_kl_is_the_log_ratio_at_the_mean(reduction: Reduction, seed: int, std: float) -> None:
    """KL = E_a[log p_a - log p_b]; with equal stds the log ratio is affine in x, so its mean is its value at mean_a."""
    a, b, _ = draw(seed)
    stds = torch.full((1, 1, 1), std, dtype=torch.float64)
    ratio = log_prob(a, Transition(a, stds), reduction) - log_prob(a, Transition(b, stds), reduction)
    torch.testing.assert_close(kl(a, b, stds, reduction), ratio, rtol=1e-8, atol=1e-8)


def test_mean_is_the_likelihood_ratio_to_the_power_one_over_d() -> None:
    """D = 12 latent dimensions: exp(difference of means)^12 = exp(difference of sums)."""
    x, a, b = draw(0)
    stds = torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    ratios = {
        reduction: (log_prob(x, Transition(a, stds), reduction) - log_prob(x, Transition(b, stds), reduction)).exp()
        for reduction in REDUCTIONS
    }
    torch.testing.assert_close(ratios["mean"] ** 12, ratios["sum"])


def test_density_by_hand() -> None:
    """Standard normal at 1, two dimensions: each -1/2 - log(2 pi) / 2."""
    transition = Transition(torch.zeros(1, 2), torch.ones(1, 1))
    each = -0.5 - 0.5 * math.log(2 * math.pi)
    assert log_prob(torch.ones(1, 2), transition, "mean").item() == pytest.approx(each)
    assert log_prob(torch.ones(1, 2), transition, "sum").item() == pytest.approx(2 * each)


def test_gradient_with_respect_to_the_velocity() -> None:
    """Closed form: d log p / dv = (x' - mean) / std^2 * d mean / dv, and d mean / dv = -d (1 + a^2 / 2) for 0 < s < 1.

    For (1 - s) q = a^2 / 2. The mean over D = 12 dimensions divides it by 12.
    """
    x, velocity, x_next = draw(1)
    velocity.requires_grad_(True)
    s, s_next, a = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.35, dtype=torch.float64), 0.8
    transition = flow_sde(x, velocity, s, s_next, a, s)
    (gradient,) = torch.autograd.grad(log_prob(x_next, transition).sum(), velocity)
    slope = -(0.6 - 0.35) * (1 + a**2 / 2)
    expected = (x_next - transition.mean) / transition.std.square() * slope / 12
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-10, atol=1e-12)


def test_a_deterministic_step_has_no_density() -> None:
    x, mean, _ = draw(2)
    with pytest.raises(ValueError, match="deterministic"):
        log_prob(x, Transition(mean, torch.zeros(1, 1, 1)))
    with pytest.raises(ValueError, match="deterministic"):
        kl(x, mean, torch.zeros(1, 1, 1))


def test_unknown_reduction_is_named() -> None:
    x, mean, _ = draw(3)
    with pytest.raises(ValueError, match="'median'"):
        kl(x, mean, torch.ones(1), "median")  # type: ignore[arg-type]
