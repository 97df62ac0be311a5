"""The noise schedule: parity with diffusers and properties of the time shift."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_r1.flow.schedule import dynamic_mu, flow_sigmas

STEPS = st.integers(1, 200)
MU = st.floats(-3.0, 3.0)


@pytest.mark.parametrize(("shift", "mu"), [(1.0, None), (3.0, None), (0.4, None), (1.0, 0.5), (1.0, 1.15), (1.0, -0.7)])
def test_sigmas_equal_those_of_diffusers_bitwise(shift: float, mu: float | None) -> None:
    """FluxKontextPipeline calls set_timesteps(sigmas=linspace(1, 1/n, n), mu=mu); both settings of dynamic shifting."""
    for steps in (*range(1, 51), 100, 333, 1000):
        scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift, use_dynamic_shifting=mu is not None)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        assert torch.equal(flow_sigmas(steps, shift=shift, mu=mu), scheduler.sigmas)


@settings(deadline=None, max_examples=50)
@given(steps=STEPS, shift=st.floats(0.1, 20.0), mu=MU)
def test_sigmas_equal_those_of_diffusers_for_every_shift(steps: int, shift: float, mu: float) -> None:
    """With both given, diffusers' scheduler takes the one that use_dynamic_shifting names."""
    for dynamic in (False, True):
        scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift, use_dynamic_shifting=dynamic)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        ours = flow_sigmas(steps, mu=mu) if dynamic else flow_sigmas(steps, shift=shift)
        assert torch.equal(ours, scheduler.sigmas)


@settings(deadline=None, max_examples=30)
@given(steps=st.integers(2, 200), shift=st.floats(0.1, 20.0), mu=MU, terminal=st.floats(0.001, 0.5))
def test_stretched_sigmas_equal_those_of_diffusers(steps: int, shift: float, mu: float, terminal: float) -> None:
    for dynamic in (False, True):
        scheduler: Any = FlowMatchEulerDiscreteScheduler(
            shift=shift, use_dynamic_shifting=dynamic, shift_terminal=terminal
        )
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        time: dict[str, float] = {"mu": mu} if dynamic else {"shift": shift}
        assert torch.equal(flow_sigmas(steps, shift_terminal=terminal, **time), scheduler.sigmas)


def test_stretch_by_hand() -> None:
    """Levels 1, 3/4, 1/2, 1/4 are 0, 1/4, 1/2, 3/4 from 1; to end at 1/2 all are 2/3 of that: 0, 1/6, 1/3, 1/2."""
    expected = torch.tensor([1.0, 5 / 6, 2 / 3, 1 / 2, 0.0])
    torch.testing.assert_close(flow_sigmas(4, shift_terminal=0.5), expected)


def test_dynamic_mu_goes_through_its_two_anchors() -> None:
    """The line through (256, 0.5) and (4096, 1.15): halfway, at 2176 tokens, mu = 0.825; and it is not clamped.

    Another 3840 tokens add another 0.65: mu(7936) = 1.8. 4096 tokens are 1024 x 1024 pixels (factor 8, packed 2 x 2).
    """
    assert dynamic_mu(256) == pytest.approx(0.5)
    assert dynamic_mu(2176) == pytest.approx(0.825)
    assert dynamic_mu(4096) == pytest.approx(1.15)
    assert dynamic_mu(7936) == pytest.approx(1.8)
    assert dynamic_mu(100, base_tokens=0, max_tokens=200, base_shift=0.0, max_shift=1.0) == pytest.approx(0.5)


def test_four_even_levels() -> None:
    assert flow_sigmas(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_shift_by_hand() -> None:
    """Shift 3 at sigma = 1/2: 3/2 / (1 + 2/2) = 3/4."""
    assert flow_sigmas(2, shift=3.0).tolist() == [1.0, 0.75, 0.0]


@settings(deadline=None, max_examples=50)
@given(steps=STEPS, mu=MU)
def test_sigmas_fall_strictly_from_one_to_zero(steps: int, mu: float) -> None:
    for sigmas in (flow_sigmas(steps), flow_sigmas(steps, mu=mu), flow_sigmas(steps, shift=math.exp(mu))):
        assert sigmas.shape == (steps + 1,)
        assert sigmas.dtype == torch.float32
        assert sigmas[0].item() == pytest.approx(1.0, abs=2e-6)
        assert sigmas[-1] == 0.0
        assert bool((sigmas[:-1] > sigmas[1:]).all())


@settings(deadline=None, max_examples=50)
@given(steps=STEPS, mu=MU)
def test_dynamic_shift_is_the_static_shift_exp_mu(steps: int, mu: float) -> None:
    """With e = exp(mu): e / (e + 1/s - 1) = e s / (e s + 1 - s) = e s / (1 + (e - 1) s)."""
    torch.testing.assert_close(flow_sigmas(steps, mu=mu), flow_sigmas(steps, shift=math.exp(mu)), rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=50)
@given(steps=STEPS, first=st.floats(0.3, 3.0), second=st.floats(0.3, 3.0))
def test_shifts_compose_by_multiplication(steps: int, first: float, second: float) -> None:
    """In the odds s / (1 - s) the shift is a multiplication by e, so e1 after e2 is e1 e2."""
    once = flow_sigmas(steps, shift=second).double()
    twice = first * once / (1 + (first - 1) * once)
    torch.testing.assert_close(twice, flow_sigmas(steps, shift=first * second).double(), rtol=1e-5, atol=1e-7)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1"):
        flow_sigmas(0)
    with pytest.raises(ValueError, match="not both"):
        flow_sigmas(4, shift=2.0, mu=0.5)
    with pytest.raises(ValueError, match="shift must be above 0"):
        flow_sigmas(4, shift=0.0)
    for steps, terminal in ((4, 0.0), (4, 1.0), (1, 0.02)):
        with pytest.raises(ValueError, match="shift_terminal must be"):
            flow_sigmas(steps, shift_terminal=terminal)
    with pytest.raises(ValueError, match="too strong"):
        flow_sigmas(50, mu=40.0)
