"""The sampler: what it records is what a later pass recomputes, bit by bit."""

import math

import pytest
import torch
from torch import Tensor, nn

from edit_r1.flow.gaussian import Reduction, log_prob
from edit_r1.flow.kernels import flow_sde, ode, step
from edit_r1.flow.sampling import Trajectory, VelocityFn, sample, transition_at
from edit_r1.flow.schedule import flow_sigmas

A = 0.8
SIGMAS = flow_sigmas(6, mu=0.6)


def network(dtype: torch.dtype) -> VelocityFn:
    """Return a small fixed velocity network that casts its input to its own dtype, as an editor does."""
    generator = torch.Generator().manual_seed(1)
    layers = nn.Sequential(nn.Linear(9, 32), nn.SiLU(), nn.Linear(32, 8)).to(dtype)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        time = sigma.to(dtype).expand(*x.shape[:-1], 1)
        return layers(torch.cat([x.to(dtype), time], dim=-1))

    return velocity


def start(batch: int = 4) -> Tensor:
    return torch.randn(batch, 5, 8, generator=torch.Generator().manual_seed(2))


def rollout(velocity: VelocityFn, reduction: Reduction = "mean", sde_steps: range | None = None) -> Trajectory:
    generator = torch.Generator().manual_seed(3)
    return sample(velocity, start(), SIGMAS, flow_sde, A, generator, sde_steps=sde_steps, reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_log_probs_equal_the_rollouts_bitwise(dtype: torch.dtype, reduction: Reduction) -> None:
    """With unchanged weights every ratio is exactly 1, gradients on or off: the first update sees no clipping noise."""
    velocity = network(dtype)
    trajectory = rollout(velocity, reduction)
    assert trajectory.steps == (0, 1, 2, 3, 4, 5)
    assert trajectory.latents.dtype == torch.float32
    for row, i in enumerate(trajectory.steps):
        x, x_next = trajectory.latents[i], trajectory.latents[i + 1]
        transition = transition_at(flow_sde, x, velocity(x, SIGMAS[i]), trajectory.sigmas, i, A)
        again = log_prob(x_next, transition, reduction)
        assert again.requires_grad
        assert not trajectory.log_probs.requires_grad
        assert torch.equal(again, trajectory.log_probs[row])
        assert torch.equal((again - trajectory.log_probs[row]).exp(), torch.ones(4))


def test_recomputing_a_batch_of_mixed_steps_agrees() -> None:
    """Rows of one training batch from different steps: same velocity, same log-probability, bitwise."""
    velocity = network(torch.float32)
    trajectory = rollout(velocity)
    index = torch.tensor([0, 5, 2, 3])
    rows = torch.arange(4)
    x, x_next = trajectory.latents[index, rows], trajectory.latents[index + 1, rows]
    whole = torch.stack([velocity(trajectory.latents[i], SIGMAS[i]) for i in range(6)])
    transition = transition_at(flow_sde, x, whole[index, rows], SIGMAS, index, A)
    assert torch.equal(log_prob(x_next, transition), trajectory.log_probs[index, rows])


def test_noise_is_drawn_once_per_stochastic_step_and_used_in_full_precision() -> None:
    """Replaying the generator gives every step: x' = mean + std z, of log-density -z^2/2 - log std - log(2 pi)/2."""
    velocity, window = network(torch.float32), range(1, 4)
    trajectory = rollout(velocity, sde_steps=window)
    generator = torch.Generator().manual_seed(3)
    for row, i in enumerate(window):
        x, z = trajectory.latents[i], torch.randn(4, 5, 8, generator=generator)
        transition = transition_at(flow_sde, x, velocity(x, SIGMAS[i]), SIGMAS, i, A)
        assert torch.equal(trajectory.latents[i + 1], step(transition, z))
        expected = (-z.square() / 2).mean(dim=(1, 2)) - transition.std.log().squeeze() - math.log(2 * math.pi) / 2
        torch.testing.assert_close(trajectory.log_probs[row], expected)


def test_only_the_window_is_stochastic() -> None:
    """Outside the window every step is Euler's; inside it none is, and only those have a log-probability."""
    velocity = network(torch.float32)
    trajectory = rollout(velocity, sde_steps=range(1, 3))
    assert trajectory.steps == (1, 2)
    assert trajectory.log_probs.shape == (2, 4)
    for i in range(6):
        x = trajectory.latents[i]
        euler = x - velocity(x, SIGMAS[i]) * (SIGMAS[i] - SIGMAS[i + 1])
        assert torch.equal(trajectory.latents[i + 1], euler) == (i not in (1, 2))


def test_zero_noise_and_an_empty_window_are_the_ode() -> None:
    velocity = network(torch.float32)
    plain = sample(velocity, start(), SIGMAS)
    quiet = sample(velocity, start(), SIGMAS, flow_sde, 0.0)
    empty = sample(velocity, start(), SIGMAS, flow_sde, A, sde_steps=())
    explicit = sample(velocity, start(), SIGMAS, ode, A)
    for other in (quiet, empty, explicit):
        assert torch.equal(other.latents, plain.latents)
        assert other.steps == ()
        assert other.log_probs.shape == (0, 4)


def test_the_generator_decides_everything_and_gradients_stay_out() -> None:
    velocity = network(torch.float32)
    first, second = rollout(velocity), rollout(velocity)
    assert torch.equal(first.latents, second.latents)
    assert not first.latents.requires_grad
    state = torch.random.get_rng_state()
    rollout(velocity)
    assert torch.equal(state, torch.random.get_rng_state())
    other = sample(velocity, start(), SIGMAS, flow_sde, A, torch.Generator().manual_seed(4))
    assert torch.equal(first.latents[0], other.latents[0])
    assert not torch.equal(first.latents[1], other.latents[1])


def test_the_trajectory_starts_at_x_in_float32() -> None:
    trajectory = sample(network(torch.bfloat16), start().bfloat16(), SIGMAS)
    assert trajectory.latents.dtype == torch.float32
    assert torch.equal(trajectory.latents[0], start().bfloat16().float())


def test_bad_input_is_named() -> None:
    velocity, generator = network(torch.float32), torch.Generator()
    with pytest.raises(ValueError, match="needs a generator"):
        sample(velocity, start(), SIGMAS, flow_sde, A)
    with pytest.raises(ValueError, match="sde_steps"):
        sample(velocity, start(), SIGMAS, flow_sde, A, generator, sde_steps=range(5, 7))
    with pytest.raises(ValueError, match="strictly decreasing"):
        sample(velocity, start(), SIGMAS.flip(0), flow_sde, A, generator)


def test_one_generator_per_sample_makes_the_batch_irrelevant() -> None:
    """Sample k of a batch is bitwise the sample that the same generator gives alone; its step means are kept."""
    velocity = lambda x, sigma: torch.sin(x) * sigma  # noqa: E731  (row by row, whatever the batch)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    together = sample(velocity, x, SIGMAS, flow_sde, A, [torch.Generator().manual_seed(k) for k in range(3)])
    for k in range(3):
        alone = sample(velocity, x[k : k + 1], SIGMAS, flow_sde, A, [torch.Generator().manual_seed(k)])
        assert torch.equal(together.latents[:, k], alone.latents[:, 0])
    x_at, means = together.latents[2], together.means[2]
    assert torch.equal(transition_at(flow_sde, x_at, velocity(x_at, SIGMAS[2]), SIGMAS, 2, A).mean, means)
