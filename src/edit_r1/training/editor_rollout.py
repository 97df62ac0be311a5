"""Rollouts: groups of edits of the same task, with what an update needs to learn from them.

All randomness is a function of the seed, the step, the task and the member of its group: it is the same however tasks
are spread over processes and micro batches, and a resumed run needs no state of it.

Shapes: P tasks, G edits of each (a group), B = P * G rows ordered [P, G], K stochastic steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edit_r1.editors.base import Conditioning, Editor, to_pil
from edit_r1.flow.kernels import KERNELS, Transition
from edit_r1.flow.sampling import Trajectory, VelocityFn, sample, transition_at
from edit_r1.flow.windows import window_steps
from edit_r1.records import Edit, EditTask
from edit_r1.stages import EditorGrpoConfig

_START, _STEPS, _PRACTICE = range(3)  # streams of randomness that are kept apart


@dataclass(frozen=True)
class Practice:
    """Finished images put back to some noise level, for DiffusionNFT: x = (1 - sigma) image + sigma noise.

    `x`, `target` (noise - image) and `old` (the velocity of the weights that sampled) [B, L, D]; `sigma` [B].
    """

    x: Tensor
    target: Tensor
    old: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class Part:
    """The rows of one micro batch.

    An update passes them in the same shapes as the rollout did: unchanged weights then give bitwise the same
    log-probabilities.
    """

    trajectory: Trajectory
    conditioning: Conditioning
    edits: tuple[Edit, ...]
    practice: tuple[Practice, ...] = ()

    def __len__(self) -> int:
        """Rows."""
        return len(self.edits)


@dataclass(frozen=True)
class Draw:
    """Where the randomness of a step comes from: `seed` of the run, `step`, and the number of the first task."""

    seed: int
    step: int
    first_task: int = 0

    def label(self, row: int, group: int) -> int:
        """A number of an edit, for its seed; the verifier's sampling follows from that of the first in its batch."""
        return _mixed((self.seed, self.step, self.first_task + row // group, row % group)) % 2**31

    def generators(self, rows: range, group: int, stream: int, *, shared: bool = False) -> list[torch.Generator]:
        """One generator for each row [P * G]; `shared`: the same for all members of a group."""
        keys = [(self.first_task + row // group, 0 if shared else row % group) for row in rows]
        return [torch.Generator().manual_seed(_mixed((self.seed, self.step, *key, stream))) for key in keys]


def _mixed(key: tuple[int, ...]) -> int:
    high, low = np.random.SeedSequence(key).generate_state(2).tolist()
    return (high << 32 | low) % 2**63


def sample_groups(editor: Editor, tasks: Sequence[EditTask], config: EditorGrpoConfig, draw: Draw) -> Iterator[Part]:
    """Sample `group_size` edits of every task, micro batch by micro batch; each task is encoded once.

    Each edit has a seed of its own; traces of the verifier follow from it.
    """
    group = config.group_size
    conditioning = editor.encode(tasks).repeat(group)
    sigmas = editor.sigmas(config.sample_steps)
    steps = _window(config, draw)
    for start in range(0, len(tasks) * group, config.micro_batch):
        rows = range(start, min(start + config.micro_batch, len(tasks) * group))
        part = conditioning.select(slice(rows.start, rows.stop))
        starts = draw.generators(rows, group, _START, shared=config.shared_noise)
        velocity = velocity_fn(editor, part, config)
        trajectory = sample(
            velocity,
            torch.cat([editor.noise(1, generator) for generator in starts]),
            sigmas,
            KERNELS[config.kernel],
            config.noise_level,
            draw.generators(rows, group, _STEPS),
            sde_steps=steps,
            reduction=config.reduction,
        )
        images = to_pil(editor.decode(trajectory.latents[-1]))
        edits = [
            Edit(tasks[row // group], image, editor.name, draw.label(row, group))
            for row, image in zip(rows, images, strict=True)
        ]
        practice = _practice(velocity, trajectory, config, draw, rows) if config.objective == "nft" else ()
        yield Part(trajectory, part, tuple(edits), practice)


def _window(config: EditorGrpoConfig, draw: Draw) -> tuple[int, ...]:
    size = len(config.sde_steps) if config.window == "fixed" else config.window_size
    return window_steps(config.window, config.sde_steps, size, draw.step - 1, every=config.window_every, seed=draw.seed)


@torch.no_grad()
def _practice(
    velocity: VelocityFn, trajectory: Trajectory, config: EditorGrpoConfig, draw: Draw, rows: range
) -> tuple[Practice, ...]:
    """Each image at `nft_levels` noise levels, one drawn from each equal part of (0, 1)."""
    image = trajectory.latents[-1]
    generators = draw.generators(rows, config.group_size, _PRACTICE)
    found: list[Practice] = []
    for level in range(config.nft_levels):
        drawn = torch.cat([torch.rand(1, generator=g) for g in generators]).to(image.device)
        noise = torch.stack([torch.randn(image.shape[1:], generator=g) for g in generators]).to(image)
        sigma = (level + drawn.clamp(1e-3, 1)) / config.nft_levels
        wide = sigma[:, None, None]
        x = (1 - wide) * image + wide * noise
        found.append(Practice(x, noise - image, velocity(x, sigma).to(x.dtype), sigma))
    return tuple(found)


def step_transition(velocity: Tensor, trajectory: Trajectory, index: int, config: EditorGrpoConfig) -> Transition:
    """The distribution of stochastic step `index` of a rollout, given a velocity there."""
    x, sigmas = trajectory.latents[index], trajectory.sigmas
    return transition_at(KERNELS[config.kernel], x, velocity, sigmas, index, config.noise_level)


def velocity_fn(
    editor: Editor, conditioning: Conditioning, config: EditorGrpoConfig
) -> Callable[[Tensor, Tensor], Tensor]:
    """The editor's velocity under some conditioning, as sampler and update see it."""

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.bf16):
            return editor.velocity(x, sigma, conditioning)

    return velocity
