"""What the adapters over diffusers pipelines share: size, place, noise, noise levels, saving.

Such a pipeline packs 2x2 latents into one token of the image that is made; the source's tokens follow as reference. It
hands even noise levels to a `FlowMatchEulerDiscreteScheduler`. Each adapter agrees with its pipeline's own `__call__`;
tests compare the two on the same noise.
"""

from __future__ import annotations

import copy
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from edit_r1.editors.base import Conditioning
from edit_r1.files import TEMPORARY_SUFFIX, disk_errors
from edit_r1.flow.schedule import dynamic_mu, flow_sigmas
from edit_r1.records import EditTask

ATTENTION: tuple[str, ...] = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
)
"""The linear layers of a joint attention of image and text, as diffusers calls them."""

_TRAIN_TIMESTEPS = 1000  # what the pipelines multiply noise levels by, and divide by again


class PipelineEditor(ABC):
    """An `Editor` over a diffusers pipeline; its parts are put into evaluation mode.

    Args:
        pipeline: of the adapter's kind.
        frozen: the parts that are never trained (all but the transformer).
        height: of the edited images in pixels, a multiple of `2 * vae_scale_factor`; sources are resized to it.
        width: likewise.
        guidance: how strongly the editor follows the instruction; the adapter says how. By default `usual_guidance`.
        name: how records and reports call this editor.

    Raises:
        ValueError: height or width do not divide.
    """

    lora_targets: tuple[str, ...]
    usual_guidance: ClassVar[float]

    def __init__(
        self, pipeline: Any, frozen: Sequence[nn.Module], *, height: int, width: int, guidance: float | None, name: str
    ) -> None:
        self.pipeline: Any = pipeline
        self.name = name
        self.guidance = self.usual_guidance if guidance is None else guidance
        self.area = height * width
        self._take_size(height, width)
        for part in frozen:
            part.requires_grad_(False).eval()
        self.pipeline.transformer.eval()
        self.pipeline.set_progress_bar_config(disable=True)

    @classmethod
    @abstractmethod
    def guidance_arguments(cls, guidance: float | None = None) -> dict[str, Any]:
        """What the pipeline's own call is given to be guided as the adapter is."""

    @property
    def transformer(self) -> nn.Module:
        """The network behind `velocity`."""
        return self.pipeline.transformer

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.transformer.parameters()).device

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move every part; returns itself."""
        self.pipeline.to(device, dtype)
        return self

    def fitted(self, width: int, height: int) -> Self:
        """This editor in the shape of a picture, and with its own area, both as near as whole tokens come.

        It shares every part with the first one, which stays as it is.
        """
        unit, ratio = self._unit, width / height
        fitted = copy.copy(self)
        fitted._take_size(*(max(1, round((self.area * by) ** 0.5 / unit)) * unit for by in (1 / ratio, ratio)))
        return fitted

    @abstractmethod
    def encode(self, tasks: Sequence[EditTask]) -> Conditioning:
        """See `Editor`."""

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """Packed latents [B, L, D] of images [B, 3, H, W] in [-1, 1], normalised as the transformer wants them."""

    @abstractmethod
    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Editor`."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """See `Editor`."""

    def encode_sources(self, tasks: Sequence[EditTask]) -> Tensor:
        """Reference tokens [B, L, D] of the tasks' sources; a source that comes several times is encoded once."""
        sources = {id(task.source): task.source for task in tasks}
        rows = {key: row for row, key in enumerate(sources)}
        processor = self.pipeline.image_processor
        resized = processor.resize(list(sources.values()), self.height, self.width)
        reference = self.encode_images(processor.preprocess(resized, self.height, self.width))
        return reference[[rows[id(task.source)] for task in tasks]]

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Standard normal starting latents, float32 [count, L, D], drawn where the generator is.

        They are drawn in the pipeline's order (channels first, then packed): the same generator gives the same picture.
        """
        shape = (count, self.pipeline.transformer.config.in_channels // 4, 2 * self.rows, 2 * self.columns)
        drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
        return self.pipeline._pack_latents(drawn, *shape).to(self.device)

    def sigmas(self, steps: int) -> Tensor:
        """The pipeline's schedule: even noise levels, shifted by the image's size or by the scheduler's constant."""
        config = self.pipeline.scheduler.config
        terminal = config.get("shift_terminal") or None  # 0 means none to diffusers
        if not config.use_dynamic_shifting:
            return flow_sigmas(steps, shift=config.shift, shift_terminal=terminal)
        mu = dynamic_mu(
            self.rows * self.columns,
            base_tokens=config.get("base_image_seq_len", 256),
            max_tokens=config.get("max_image_seq_len", 4096),
            base_shift=config.get("base_shift", 0.5),
            max_shift=config.get("max_shift", 1.15),
        )
        return flow_sigmas(steps, mu=mu, shift_terminal=terminal)

    def save(self, folder: Path) -> None:
        """Write the pipeline (safetensors), whole or not at all.

        The stock `from_pretrained` of its class loads it. What was in the folder before is replaced.

        Raises:
            UserError: the disk is full, or the place cannot be written.
        """
        quiet()
        half = folder.with_name(f".{folder.name}{TEMPORARY_SUFFIX}")
        with disk_errors(folder):
            shutil.rmtree(half, ignore_errors=True)
            half.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.pipeline.save_pretrained(half, safe_serialization=True)
                shutil.rmtree(folder, ignore_errors=True)
                half.replace(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)

    @property
    def _unit(self) -> int:
        """Side of a token in pixels."""
        return 2 * self.pipeline.vae_scale_factor

    def _take_size(self, height: int, width: int) -> None:
        unit = self._unit
        if height % unit or width % unit:
            raise ValueError(f"height and width must be multiples of {unit}, got {height}x{width}")
        self.height, self.width = height, width
        self.rows, self.columns = height // unit, width // unit

    def _timestep(self, sigma: Tensor, latents: Tensor, dtype: torch.dtype) -> Tensor:
        """Noise levels [B] in the transformer's dtype, rounded as the pipelines round them."""
        steps = (sigma.to(latents.device, torch.float32) * _TRAIN_TIMESTEPS).to(dtype)
        return (steps / _TRAIN_TIMESTEPS).expand(len(latents))


def quiet() -> None:
    """No progress bars of the libraries: loading and saving take seconds, and the stages have their own."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
