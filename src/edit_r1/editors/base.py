"""What reinforcement learning and evaluation ask of an image editor, whatever model is behind it.

Shapes: B edits, L latent tokens of D numbers, R reference tokens, T text tokens, H and W in pixels.
Time: sigma = 1 is noise, sigma = 0 the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from edit_r1.flow.sampling import Trajectory, sample
from edit_r1.records import EditTask


@dataclass(frozen=True)
class Conditioning:
    """What an editor needs to know of B tasks, encoded once and reused by every step and every member of a group.

    Named tensors [B, ...], batch first; which ones is each adapter's own affair, and its docstring says it.

    Raises:
        ValueError: there are no tensors, or they do not agree on B.
    """

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"all tensors must have the same number of rows, got {lengths}")

    def __len__(self) -> int:
        """B."""
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name."""
        return self.tensors[name]

    def repeat(self, group: int) -> Conditioning:
        """Every task `group` times, members of a group next to each other: [B * group, ...]."""
        return Conditioning({name: tensor.repeat_interleave(group, dim=0) for name, tensor in self.tensors.items()})

    def select(self, rows: slice | Sequence[int]) -> Conditioning:
        """Some of the rows."""
        index = rows if isinstance(rows, slice) else list(rows)
        return Conditioning({name: tensor[index] for name, tensor in self.tensors.items()})


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


def rollout(editor: Editor, conditioning: Conditioning, latents: Tensor, steps: int) -> Trajectory:
    """Sample deterministically, one edit per row of the conditioning, from starting latents [B, L, D]."""
    return sample(lambda x, sigma: editor.velocity(x, sigma, conditioning), latents, editor.sigmas(steps))


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
