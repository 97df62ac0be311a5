"""Do the chains have the right marginals? Checked where everything is known: Gaussian data.

Data N(m, c^2) per dimension, x_s = (1-s) x_0 + s x_1 with x_1 ~ N(0, 1), so x_s has mean M(s) = (1-s) m and variance
V(s) = (1-s)^2 c^2 + s^2. Regression of x_1 - x_0 on x_s gives the exact velocity, affine in x:

    v(x, s) = -m + (s - (1-s) c^2) / V(s) * (x - M(s)).

A kernel applied to it is an affine map x -> A x + B plus noise of variance S^2, so the chain stays Gaussian and its
moments follow mean -> A mean + B, variance -> A^2 variance + S^2, with no sampling. All in float64.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from edit_r1.flow.kernels import Kernel, flow_sde
from edit_r1.flow.sampling import sample
from edit_r1.flow.schedule import flow_sigmas

M, C = 0.7, 0.5


def exact_mean(s: Tensor) -> Tensor:
    return (1 - s) * M


def exact_variance(s: Tensor) -> Tensor:
    return (1 - s) ** 2 * C**2 + s**2


def velocity_of(x: Tensor, s: Tensor) -> Tensor:
    return -M + (s - (1 - s) * C**2) / exact_variance(s) * (x - exact_mean(s))


def even_levels(steps: int, start: float = 1.0) -> Tensor:
    return torch.linspace(start, 0.0, steps + 1, dtype=torch.float64)


def affine_parts(kernel: Kernel, sigmas: Tensor, a: float) -> tuple[Tensor, Tensor, Tensor]:
    """Read A, B, S of every step off the kernel itself, all steps as one batch: B = mean(0), A = mean(1) - mean(0)."""
    s, s_next = sigmas[:-1], sigmas[1:]
    zeros, ones = torch.zeros_like(s), torch.ones_like(s)
    at_zero = kernel(zeros, velocity_of(zeros, s), s, s_next, a, sigmas[1])
    at_one = kernel(ones, velocity_of(ones, s), s, s_next, a, sigmas[1])
    return at_one.mean - at_zero.mean, at_zero.mean, at_zero.std


def propagate(kernel: Kernel, sigmas: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """Return the chain's mean and variance after each step [T], started from the exact marginal at sigmas[0]."""
    mean, variance = float(exact_mean(sigmas[0])), float(exact_variance(sigmas[0]))
    means: list[float] = []
    variances: list[float] = []
    for gain, offset, std in zip(*(part.tolist() for part in affine_parts(kernel, sigmas, a)), strict=True):
        mean, variance = gain * mean + offset, gain**2 * variance + std**2
        means.append(mean)
        variances.append(variance)
    return torch.tensor(means, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64)


def orders(errors: list[float]) -> list[float]:
    """Return the observed order of convergence between successive doublings of the number of steps."""
    return [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]


@pytest.mark.parametrize("a", [0.3, 0.7, 1.2])
def test_flow_sde_is_euler_maruyama_of_the_reverse_sde_with_the_exact_score(a: float) -> None:
    """The reverse SDE with the flow's marginals is dx = (v - g^2 score / 2) ds + g dw.

    One step back by d has mean x - d v + d g^2 score / 2, with the Gaussian's own score -(x - M) / V, which the kernel
    never sees.
    """
    s, s_next = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.45, dtype=torch.float64)
    x = torch.linspace(-3, 3, 11, dtype=torch.float64).reshape(-1, 1)
    score = -(x - exact_mean(s)) / exact_variance(s)
    g_squared, d = a**2 * s / (1 - s), s - s_next
    transition = flow_sde(x, velocity_of(x, s), s, s_next, a, s)
    torch.testing.assert_close(transition.mean, x - d * velocity_of(x, s) + d * g_squared * score / 2)
    torch.testing.assert_close(transition.std.squeeze(), (g_squared * d).sqrt())


@pytest.mark.parametrize("start", [1.0, 0.8])
@pytest.mark.parametrize("a", [0.0, 0.7, 1.2])
def test_the_mean_is_preserved_exactly_at_every_step(a: float, start: float) -> None:
    """At x = M(s): v = -m, so the score term x + (1-s) v vanishes and x - d v = (1-s) m + d m = (1-s') m."""
    sigmas = even_levels(40, start)
    means, _ = propagate(flow_sde, sigmas, a)
    torch.testing.assert_close(means, exact_mean(sigmas[1:]), rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("a", [0.0, 0.3, 0.7, 1.2])
def test_flow_sde_preserves_every_marginal_at_first_order(a: float) -> None:
    """From s = 0.8 the SDE is smooth: Euler-Maruyama's weak error is O(d), so doubling the steps halves it.

    The error is the largest over the steps of |variance of the chain - V(s)|: every marginal, not only the last.
    """
    errors = [
        float((propagate(flow_sde, sigmas, a)[1] - exact_variance(sigmas[1:])).abs().max())
        for sigmas in (even_levels(steps, 0.8) for steps in (256, 512, 1024))
    ]
    assert errors[-1] < 2e-3
    assert orders(errors) == pytest.approx([1.0, 1.0], abs=0.03)


@pytest.mark.parametrize("a", [0.5, 0.7, 1.0])
@pytest.mark.parametrize("steps", [6, 28, 1000])
def test_the_first_step_from_pure_noise_has_a_bias_that_does_not_shrink(a: float, steps: int) -> None:
    """At s = 1, d = 1 - sigma_max makes q d = a^2 / 2 and std = a, whatever d.

    There v = x - m, so the variance becomes (1 - a^2/2 - d)^2 + a^2 = (1-d)^2 + a^2 d + a^4/4, which is
    V(1-d) + a^4/4 + a^2 d - c^2 d^2.
    """
    sigmas, d = even_levels(steps), 1 / steps
    excess = propagate(flow_sde, sigmas, a)[1][0] - exact_variance(sigmas[1])
    assert float(excess) == pytest.approx(a**4 / 4 + a**2 * d - C**2 * d**2, abs=1e-12)


@pytest.mark.parametrize("a", [0.3, 0.5, 0.7, 1.2])
def test_that_bias_is_forgotten_at_order_a_squared(a: float) -> None:
    """Near s = 1, at s = 1 - k/n, the contraction is A_k = 1 - a^2 / (2k) + O(1/n).

    The product over k of A_k^2 is of order n^(-a^2), so the first step's bias fades at that order: the chain from pure
    noise converges at order min(1, a^2), not at order 1.
    """
    left = [float(affine_parts(flow_sde, even_levels(n), a)[0][1:].square().prod()) for n in (1024, 2048, 4096)]
    assert orders(left) == pytest.approx([a**2, a**2], abs=0.02)


@pytest.mark.parametrize("a", [0.3, 0.7, 1.2])
def test_flow_sde_from_pure_noise_ends_near_the_data(a: float) -> None:
    """The last variance is within 1% of c^2 = 1/4 for 1000 steps, the slow order of small a included."""
    _, variances = propagate(flow_sde, even_levels(1000), a)
    assert float(variances[-1]) == pytest.approx(C**2, rel=0.01)


def test_ode_converges_to_the_exact_flow_at_first_order() -> None:
    """Along the exact flow (x - M(s)) / sqrt(V(s)) is constant, so from s = 1 the point x ends at m + c x."""
    x = torch.tensor([[-2.0], [0.0], [1.5]], dtype=torch.float64)
    errors: list[float] = []
    for steps in (128, 256, 512):
        end = sample(velocity_of, x, even_levels(steps)).latents[-1]
        errors.append(float((end - (M + C * x)).abs().max()))
    assert orders(errors) == pytest.approx([1.0, 1.0], abs=0.03)


def test_ode_of_a_single_point_is_exact_in_any_number_of_steps() -> None:
    """If the data are one point m, v(x, s) = (x - m) / s and paths are straight: Euler lands on m, bar rounding."""
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(-1, 1)
    for steps in (1, 3, 10):
        end = sample(lambda x, s: (x - M) / s, x, flow_sigmas(steps, mu=0.5).double()).latents[-1]
        torch.testing.assert_close(end, torch.full_like(x, M), rtol=0.0, atol=1e-13)


def test_sampled_moments_agree_with_the_marginals() -> None:
    """Monte Carlo in float32, N = 100,000 samples, 50 steps from the exact marginal at s = 0.8, a = 0.7.

    Standard errors: sqrt(V / N) of the mean and V sqrt(2 / N) of the variance; five of each are allowed, around the
    chain's own moments, and 3% of the variance around the data's (the chain's bias at 50 steps included).
    """
    count, sigmas, a = 100_000, even_levels(50, 0.8), 0.7
    generator = torch.Generator().manual_seed(0)
    x = exact_mean(sigmas[0]) + exact_variance(sigmas[0]).sqrt() * torch.randn(
        count, 1, generator=generator, dtype=torch.float64
    )
    end = sample(velocity_of, x.float(), sigmas.float(), flow_sde, a, generator).latents[-1].double()
    means, variances = propagate(flow_sde, sigmas, a)
    variance = float(variances[-1])
    assert end.mean().item() == pytest.approx(float(means[-1]), abs=5 * math.sqrt(variance / count))
    assert end.var().item() == pytest.approx(variance, abs=5 * variance * math.sqrt(2 / count))
    assert end.mean().item() == pytest.approx(M, abs=0.01)
    assert end.var().item() == pytest.approx(C**2, rel=0.03)
