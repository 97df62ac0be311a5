"""What reinforcement learning and evaluation ask of an image editor, whatever model is behind it.

Shapes: B edits, L latent tokens of D numbers, R reference tokens, T text tokens, H and W in pixels.
Time: sigma = 1 is noise, sigma = 0 the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from edit_r1.flow.kernels import Kernel, ode
from edit_r1.flow.sampling import Trajectory, sample
from edit_r1.records import EditTask


@dataclass(frozen=True)
class Conditioning:
    """What an editor needs to know of B tasks, encoded once and reused by every step and every member of a group.

    `text` [B, T, *] the sequence of the text encoder; `pooled` [B, *] its summary; `reference` [B, R, D] the source's
    latent tokens.
    """

    text: Tensor
    pooled: Tensor
    reference: Tensor

    def __len__(self) -> int:
        """B."""
        return self.text.shape[0]

    def repeat(self, group: int) -> Conditioning:
        """Every task `group` times, members of a group next to each other: [B * group, ...]."""
        return self._map(lambda tensor: tensor.repeat_interleave(group, dim=0))

    def select(self, rows: slice | Sequence[int]) -> Conditioning:
        """Some of the rows."""
        return self._map(lambda tensor: tensor[rows if isinstance(rows, slice) else list(rows)])

    def _map(self, function: _TensorMap) -> Conditioning:
        return replace(self, **{field.name: function(getattr(self, field.name)) for field in fields(self)})


class _TensorMap(Protocol):
    def __call__(self, tensor: Tensor, /) -> Tensor: ...


class Editor(Protocol):
    """A flow-matching image editor. `transformer` is the part that is trained; the rest is frozen."""

    name: str
    lora_targets: tuple[str, ...]
    """Names of the transformer's linear layers that LoRA adapts, as peft's `target_modules` wants them."""

    @property
    def transformer(self) -> nn.Module:
        """The network behind `velocity`; peft may wrap it in place."""
        ...

    def encode(self, tasks: Sequence[EditTask]) -> Conditioning:
        """Encode instructions and sources, without gradients."""
        ...

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Standard normal starting latents, float32 [count, L, D]; a CPU generator serves every device."""
        ...

    def sigmas(self, steps: int) -> Tensor:
        """The editor's own schedule of noise levels, [steps + 1] from 1 to 0."""
        ...

    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocity [B, L, D] of latents [B, L, D] at noise level `sigma` (scalar or [B]), with gradients."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 [B, 3, H, W] in [0, 1], of latents [B, L, D], without gradients."""
        ...

    def save(self, folder: Path) -> None:
        """Write the whole editor (safetensors), whole or not at all."""
        ...


def rollout(
    editor: Editor,
    conditioning: Conditioning,
    latents: Tensor,
    steps: int,
    *,
    kernel: Kernel = ode,
    noise_level: float = 0.0,
    generator: torch.Generator | None = None,
    sde_steps: Sequence[int] | None = None,
) -> Trajectory:
    """Sample one edit per row of the conditioning from starting latents [B, L, D]; see `flow.sampling.sample`."""
    return sample(
        lambda x, sigma: editor.velocity(x, sigma, conditioning),
        latents,
        editor.sigmas(steps),
        kernel,
        noise_level,
        generator,
        sde_steps=sde_steps,
    )


@torch.no_grad()
def edit(editor: Editor, tasks: Sequence[EditTask], steps: int, seed: int, *, batch: int = 64) -> Tensor:
    """Deterministic (ODE) edits of tasks: float32 [len(tasks), 3, H, W] in [0, 1] on the CPU.

    Noise depends on the seed and on a task's position alone, not on the batch size.
    """
    generator = torch.Generator().manual_seed(seed)
    images: list[Tensor] = []
    for start in range(0, len(tasks), batch):
        part = tasks[start : start + batch]
        trajectory = rollout(editor, editor.encode(part), editor.noise(len(part), generator), steps)
        images.append(editor.decode(trajectory.latents[-1]).cpu())
    return torch.cat(images)


def to_pil(images: Tensor) -> list[Image.Image]:
    """Images [B, 3, H, W] in [0, 1] as PIL RGB, rounded to 8 bits."""
    bytes_BHWC = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in bytes_BHWC]
