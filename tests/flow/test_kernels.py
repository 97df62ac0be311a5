"""One step of each kernel: the table's formulas, limits, dtypes and per-sample noise levels."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edit_r1.flow.kernels import KERNELS, Transition, cps, dance_sde, flow_sde, ode, step
from edit_r1.flow.schedule import flow_sigmas

SEEDS = st.integers(0, 2**31)
LEVELS = st.tuples(st.floats(0.02, 0.98), st.floats(0.0, 0.98)).map(lambda u: (u[0], u[0] * u[1]))
NOISE = st.floats(0.05, 1.5)


def latents(seed: int, dtype: torch.dtype = torch.float64, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, velocity = torch.randn(2, batch, 4, 5, generator=generator, dtype=torch.float64).to(dtype)
    return x, velocity


def level(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_flow_sde_by_hand() -> None:
    """At s = 1/2, s' = 1/4, a = 1: g = 1, d = 1/4, g^2 d / (2s) = 1/4, v's factor d (1 + g^2 (1-s) / (2s)) = 1/4 * 3/2.

    With x = 2, v = 1: mean = 2 * 3/4 - 3/8 = 9/8 and std = sqrt(1/4) = 1/2.
    """
    x, velocity = torch.full((1, 1), 2.0), torch.full((1, 1), 1.0)
    transition = flow_sde(x, velocity, level(0.5), level(0.25), 1.0, level(0.75))
    assert transition.mean.item() == 1.125
    assert transition.std.item() == 0.5


def test_flow_sde_at_pure_noise_by_hand() -> None:
    """At s = 1, s' = sigma_max = 3/4, a = 1: g^2 = 1 / (1 - 3/4) = 4, d = 1/4; x's factor 1 - 4/8 = 1/2, v's factor d.

    With x = 2, v = 1: mean = 1 - 1/4 = 3/4 and std = 2 * 1/2 = 1.
    """
    x, velocity = torch.full((1, 1), 2.0), torch.full((1, 1), 1.0)
    transition = flow_sde(x, velocity, level(1.0), level(0.75), 1.0, level(0.75))
    assert transition.mean.item() == 0.75
    assert transition.std.item() == 1.0


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, levels=LEVELS, a=NOISE)
def test_flow_sde_is_the_published_formula(seed: int, levels: tuple[float, float], a: float) -> None:
    """Scalar arithmetic with g itself, as in the Flow-GRPO paper."""
    s, s_next = levels
    x, velocity = latents(seed)
    g, d = a * math.sqrt(s / (1 - s)), s - s_next
    transition = flow_sde(x, velocity, level(s), level(s_next), a, level(0.99))
    mean = x * (1 - g**2 * d / (2 * s)) - velocity * d * (1 + g**2 * (1 - s) / (2 * s))
    torch.testing.assert_close(transition.mean, mean, rtol=1e-10, atol=1e-10)
    assert transition.std.item() == pytest.approx(g * math.sqrt(d), rel=1e-10)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, levels=LEVELS)
def test_zero_noise_is_euler_bitwise(seed: int, levels: tuple[float, float]) -> None:
    """At a = 0 both factors are exactly 1 and the std exactly 0, so the sample is x - v d whatever the noise."""
    x, velocity = latents(seed, torch.float32)
    s, s_next = (level(value).float() for value in levels)
    transition = flow_sde(x, velocity, s, s_next, 0.0, s)
    euler = x - velocity * (s - s_next)
    assert torch.equal(ode(x, velocity, s, s_next, 0.7, s).mean, euler)
    assert torch.equal(transition.mean, euler)
    assert torch.equal(step(transition, torch.randn_like(x)), euler)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, levels=LEVELS, a=NOISE)
def test_flow_sde_approaches_the_ode_quadratically(seed: int, levels: tuple[float, float], a: float) -> None:
    """mean_sde - mean_ode = -a^2 d (x + (1-s) v) / (2 (1-s)) and std is linear in a.

    Halving a therefore divides the first by 4 and the second by 2, exactly but for rounding.
    """
    x, velocity = latents(seed)
    s, s_next = level(levels[0]), level(levels[1])
    euler = ode(x, velocity, s, s_next, a, s).mean
    full, half = (flow_sde(x, velocity, s, s_next, noise, s) for noise in (a, a / 2))
    torch.testing.assert_close(full.mean - euler, 4 * (half.mean - euler), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(full.std, 2 * half.std, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("mu", [None, 0.8])
def test_ode_step_equals_the_step_of_diffusers_bitwise(mu: float | None) -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=mu is not None)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 7, 7), mu=mu)
    sigmas = flow_sigmas(7, mu=mu)
    x, velocity = latents(0, torch.float32)
    ours = theirs = x
    for i, timestep in enumerate(scheduler.timesteps):
        theirs = scheduler.step(velocity * theirs, timestep, theirs, return_dict=False)[0]
        ours = ode(ours, velocity * ours, sigmas[i], sigmas[i + 1], 0.0, sigmas[1]).mean
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", KERNELS)
def test_low_precision_inputs_are_worked_on_in_float32(name: str) -> None:
    """Model outputs in bfloat16 give bitwise what their float32 copies give."""
    kernel = KERNELS[name]
    x, velocity = latents(1, torch.bfloat16)
    sigmas = flow_sigmas(6, mu=0.6)
    for i in range(6):
        low = kernel(x, velocity, sigmas[i], sigmas[i + 1], 0.7, sigmas[1])
        high = kernel(x.float(), velocity.float(), sigmas[i], sigmas[i + 1], 0.7, sigmas[1])
        assert low.mean.dtype == low.std.dtype == torch.float32
        assert torch.equal(low.mean, high.mean)
        assert torch.equal(low.std, high.std)


@pytest.mark.parametrize("name", KERNELS)
def test_one_noise_level_per_sample_equals_one_sample_at_a_time(name: str) -> None:
    """A training batch may mix steps, s = 1 among them; every row is bitwise what a batch at its level alone gives."""
    kernel, sigmas = KERNELS[name], flow_sigmas(6, mu=0.6)
    x, velocity = latents(2, torch.float32, batch=6)
    mixed = kernel(x, velocity, sigmas[:-1], sigmas[1:], 0.9, sigmas[1])
    for i in range(6):
        alone = kernel(x[i : i + 1], velocity[i : i + 1], sigmas[i], sigmas[i + 1], 0.9, sigmas[1])
        assert torch.equal(mixed.mean[i : i + 1], alone.mean)
        assert torch.equal(mixed.std[i : i + 1], alone.std)


@pytest.mark.parametrize("steps", [1, 2, 6, 28])
def test_every_step_of_a_schedule_is_finite(steps: int) -> None:
    """The singular ends: s = 1 in 1 - s, s' = 0; one step has sigma_max = 0, which is 1 - s = 1 inside g."""
    sigmas = flow_sigmas(steps)
    x, velocity = latents(3, torch.float32, batch=steps)
    transition = flow_sde(x, velocity, sigmas[:-1], sigmas[1:], 1.0, sigmas[1])
    assert bool(transition.mean.isfinite().all())
    assert bool((transition.std > 0).all())
    assert bool(transition.std.isfinite().all())


@settings(deadline=None, max_examples=100)
@given(steps=st.integers(2, 50), shift=st.floats(0.1, 10.0), a=NOISE)
def test_the_first_std_is_the_noise_level_for_every_shift(steps: int, shift: float, a: float) -> None:
    """From s = 1, std^2 = a^2 s d / (1 - sigma_max) = a^2, for d = 1 - sigma_max.

    A static shift can leave sigmas[0] one float32 rounding off 1 (shift 0.4 gives 1.0000001); an exact test for 1 would
    then divide by 1e-7 and give a std of thousands, or NaN.
    """
    sigmas = flow_sigmas(steps, shift=shift)
    x, velocity = latents(5, torch.float32)
    transition = flow_sde(x, velocity, sigmas[0], sigmas[1], a, sigmas[1])
    assert transition.std.item() == pytest.approx(a, rel=1e-3)
    euler = x - velocity * (sigmas[0] - sigmas[1])
    torch.testing.assert_close(transition.mean, euler - x * a**2 / 2, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, levels=LEVELS, a=st.floats(0.0, 1.0))
def test_cps_keeps_the_coefficients(seed: int, levels: tuple[float, float], a: float) -> None:
    """For x = (1 - s) x0 + s e and the velocity e - x0 that made it, the model's image is x0 and its noise is e.

    The step then has mean (1 - s') x0 + s' cos(a pi / 2) e and std s' sin(a pi / 2): the image's coefficient is 1 - s',
    and the squares of the two noises' coefficients add up to s'^2, for every a and every length of the step.
    """
    s, s_next = levels
    image, noise = latents(seed)
    x = (1 - s) * image + s * noise
    transition = cps(x, noise - image, level(s), level(s_next), a, level(0.99))
    kept = s_next * math.cos(a * math.pi / 2)
    torch.testing.assert_close(transition.mean, (1 - s_next) * image + kept * noise)
    assert transition.std.item() ** 2 + kept**2 == pytest.approx(s_next**2)


def test_in_few_steps_flow_sde_adds_noise_and_cps_does_not() -> None:
    """A model that knows image and noise, from s = 0.888 to 0.760 (step 1 of 6 at shift 1.58), a = 0.9.

    flow_sde: q = 0.81 / (2 * 0.112) = 3.62, so e keeps 0.888 (1 - 0.463) - 0.128 (1 + 0.405) = 0.297 and std is 0.907:
    together 0.954, where 0.760 belongs. cps: 0.760 by construction.
    """
    s, s_next = level(0.888), level(0.760)
    noise = torch.ones(1, 1, dtype=torch.float64)
    totals: dict[str, float] = {}
    for name in ("flow_sde", "cps"):
        transition = KERNELS[name](0.888 * noise, noise, s, s_next, 0.9, s)  # the image is 0
        totals[name] = math.hypot(transition.mean.item(), transition.std.item())
    assert totals["flow_sde"] == pytest.approx(0.954, abs=2e-3)
    assert totals["cps"] == pytest.approx(0.760, abs=1e-12)


def test_dance_sde_by_hand() -> None:
    """At s = 1/2, s' = 1/4, a = 1/2: e = x + v / 2, d = 1/4, so mean = x - v / 4 - (1/4)(1/4) e and std = 1/4.

    With x = 2, v = 1: e = 5/2 and mean = 2 - 1/4 - 5/32 = 51/32.
    """
    x, velocity = torch.full((1, 1), 2.0), torch.full((1, 1), 1.0)
    transition = dance_sde(x, velocity, level(0.5), level(0.25), 0.5, level(0.75))
    assert transition.mean.item() == 51 / 32
    assert transition.std.item() == 0.25


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, levels=LEVELS, a=NOISE)
def test_dance_sde_is_the_published_formula_and_flow_sde_with_another_noise(
    seed: int, levels: tuple[float, float], a: float
) -> None:
    """DanceGRPO's score form; and g = a_flow sqrt(s / (1 - s)) = a for a_flow = a sqrt((1 - s) / s)."""
    s, s_next = levels
    x, velocity = latents(seed)
    found = dance_sde(x, velocity, level(s), level(s_next), a, level(0.99))
    score = -(x - (1 - s) * (x - s * velocity)) / s**2
    mean = x - (s - s_next) * velocity + 0.5 * a**2 * (s - s_next) * score
    torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-9)
    same = flow_sde(x, velocity, level(s), level(s_next), a * math.sqrt((1 - s) / s), level(0.99))
    torch.testing.assert_close(found.mean, same.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.std, same.std, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_without_noise_is_the_ode_bitwise(name: str) -> None:
    x, velocity = latents(7, torch.float32)
    s, s_next = level(0.8).float(), level(0.5).float()
    assert torch.equal(KERNELS[name](x, velocity, s, s_next, 0.0, s).mean, ode(x, velocity, s, s_next, 0.0, s).mean)


def test_step_adds_scaled_noise() -> None:
    transition = Transition(mean=torch.tensor([[1.0, 2.0]]), std=torch.tensor([[0.5]]))
    assert step(transition, torch.tensor([[2.0, -4.0]])).tolist() == [[2.0, 0.0]]


def test_bad_input_is_named() -> None:
    x, velocity = latents(4)
    with pytest.raises(ValueError, match="noise_level"):
        flow_sde(x, velocity, level(0.5), level(0.4), -0.1, level(0.9))
    with pytest.raises(ValueError, match="noise_level"):
        cps(x, velocity, level(0.5), level(0.4), 1.1, level(0.9))
    with pytest.raises(ValueError, match="noise level of shape"):
        flow_sde(x, velocity, torch.full((2,), 0.5), level(0.4), 0.5, level(0.9))
    with pytest.raises(ValueError, match="velocity has shape"):
        ode(x, velocity[:, :2], level(0.5), level(0.4), 0.0, level(0.9))
