"""FLUX.1-Kontext as an `Editor`: an adapter over any diffusers `FluxKontextPipeline`, the tiny one included.

The source's latents follow the latents being made, as reference tokens: the first of their position numbers tells them
apart. Everything here agrees with the pipeline's own `__call__`; a test compares the two on the same noise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxKontextPipeline  # pyright: ignore[reportPrivateImportUsage]
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from edit_r1.editors.base import Conditioning
from edit_r1.errors import UserError
from edit_r1.files import TEMPORARY_SUFFIX, disk_errors
from edit_r1.flow.schedule import dynamic_mu, flow_sigmas
from edit_r1.records import EditTask

LORA_TARGETS: tuple[str, ...] = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
    "proj_mlp",
    "proj_out",
)
"""Attention and feed-forward layers of both kinds of block. `proj_out` also names the last layer."""

_TRAIN_TIMESTEPS = 1000  # what the pipeline multiplies noise levels by, and divides by again
_MOST_TEXT_TOKENS = 512  # FLUX's own limit


class KontextEditor:
    """Adapter over a pipeline.

    Args:
        pipeline: any `FluxKontextPipeline`; its parts are put into evaluation mode and frozen, but for the transformer.
        height: of the edited images in pixels, a multiple of 8 (16 for FLUX.1); sources are resized to it. By default
            the size that the VAE was made for (64 for the tiny editor, 1024 for FLUX.1).
        width: likewise.
        guidance: what the guidance-distilled transformer is told (2.5 is the usual value for Kontext).
        name: how records and reports call this editor.
    """

    lora_targets: tuple[str, ...] = LORA_TARGETS

    def __init__(
        self,
        pipeline: FluxKontextPipeline,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance: float = 2.5,
        name: str = "kontext",
    ) -> None:
        self.pipeline: Any = pipeline
        self.name = name
        self.guidance = guidance
        native = int(self.pipeline.vae.config.sample_size)
        self.height, self.width = height or native, width or native
        unit = 2 * self.pipeline.vae_scale_factor
        if self.height % unit or self.width % unit:
            raise ValueError(f"height and width must be multiples of {unit}, got {self.height}x{self.width}")
        self.rows, self.columns = self.height // unit, self.width // unit
        for part in (self.pipeline.vae, self.pipeline.text_encoder, self.pipeline.text_encoder_2):
            part.requires_grad_(False).eval()
        self.pipeline.vae.to(memory_format=torch.channels_last)  # a third faster on a CPU
        self.pipeline.transformer.eval()
        self.pipeline.set_progress_bar_config(disable=True)

    @property
    def transformer(self) -> nn.Module:
        """The Flux transformer."""
        return self.pipeline.transformer

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.transformer.parameters()).device

    @property
    def text_tokens(self) -> int:
        """Length of the text sequence: the tokenizer's own limit, at most FLUX's 512."""
        return min(_MOST_TEXT_TOKENS, int(self.pipeline.tokenizer_2.model_max_length))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> KontextEditor:
        """Move every part; returns itself."""
        self.pipeline.to(device, dtype)
        return self

    @torch.no_grad()
    def encode(self, tasks: Sequence[EditTask]) -> Conditioning:
        """Encode instructions and sources; a source or an instruction that comes several times is encoded once.

        Returns:
            `text` [B, T, *], T5's sequence; `pooled` [B, *], CLIP's summary; `reference` [B, L, D], the source's latent
            tokens.
        """
        sources = {id(task.source): task.source for task in tasks}
        rows = {key: row for row, key in enumerate(sources)}
        processor = self.pipeline.image_processor
        resized = processor.resize(list(sources.values()), self.height, self.width)
        reference = self.encode_images(processor.preprocess(resized, self.height, self.width))
        text, pooled = self.encode_text([task.instruction for task in tasks])
        reference = reference[[rows[id(task.source)] for task in tasks]]
        return Conditioning({"text": text, "pooled": pooled, "reference": reference})

    def encode_text(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Sequence [B, T, *] and pooled [B, *] embeddings; gradients flow, for pretraining."""
        unique = list(dict.fromkeys(instructions))
        text, pooled, _ = self.pipeline.encode_prompt(
            prompt=unique, prompt_2=unique, device=self.device, max_sequence_length=self.text_tokens
        )
        rows = [unique.index(instruction) for instruction in instructions]
        return text[rows], pooled[rows]

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Packed latents [B, L, D] of images [B, 3, H, W] in [-1, 1]: the mode of the VAE's posterior, normalised."""
        vae = self.pipeline.vae
        latents = vae.encode(images.to(self.device, vae.dtype)).latent_dist.mode()
        latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
        return self.pipeline._pack_latents(latents, *latents.shape)

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
        if not config.use_dynamic_shifting:
            return flow_sigmas(steps, shift=config.shift)
        mu = dynamic_mu(
            self.rows * self.columns,
            base_tokens=config.get("base_image_seq_len", 256),
            max_tokens=config.get("max_image_seq_len", 4096),
            base_shift=config.get("base_shift", 0.5),
            max_shift=config.get("max_shift", 1.15),
        )
        return flow_sigmas(steps, mu=mu)

    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocity [B, L, D] of latents [B, L, D]; `sigma` a scalar or [B]. In the transformer's dtype."""
        dtype, count = conditioning["text"].dtype, latents.shape[0]
        time = (sigma.to(latents.device, torch.float32) * _TRAIN_TIMESTEPS).to(dtype) / _TRAIN_TIMESTEPS
        guided = self.pipeline.transformer.config.guidance_embeds
        output = self.transformer(
            hidden_states=torch.cat([latents.to(dtype), conditioning["reference"].to(dtype)], dim=1),
            timestep=time.expand(count),
            guidance=torch.full((count,), self.guidance, device=latents.device) if guided else None,
            pooled_projections=conditioning["pooled"],
            encoder_hidden_states=conditioning["text"],
            txt_ids=torch.zeros(conditioning["text"].shape[1], 3, device=latents.device, dtype=dtype),
            img_ids=self._image_ids(dtype),
            return_dict=False,
        )[0]
        return output[:, : latents.shape[1]]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 [B, 3, H, W] in [0, 1]."""
        vae = self.pipeline.vae
        return (vae.decode(self.unpack(latents), return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

    def unpack(self, latents: Tensor) -> Tensor:
        """What the VAE's decoder wants of latents [B, L, D]: tokens put back in place, mean and variance restored."""
        vae = self.pipeline.vae
        unpacked = self.pipeline._unpack_latents(latents, self.height, self.width, self.pipeline.vae_scale_factor)
        return unpacked.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor

    def save(self, folder: Path) -> None:
        """Write the pipeline (safetensors), whole or not at all.

        The stock `FluxKontextPipeline.from_pretrained` loads it. What was in the folder before is replaced.

        Raises:
            UserError: the disk is full, or the place cannot be written.
        """
        _quiet()
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

    def _image_ids(self, dtype: torch.dtype) -> Tensor:
        """Position numbers [L + R, 3] of latent tokens, then of reference tokens: (which image, row, column)."""
        ids = self.pipeline._prepare_latent_image_ids(1, self.rows, self.columns, self.device, dtype)
        reference = ids.clone()
        reference[:, 0] = 1
        return torch.cat([ids, reference])


def load_editor(path: str | Path, *, height: int | None = None, width: int | None = None) -> KontextEditor:
    """Load an editor from a folder of a saved `FluxKontextPipeline` (safetensors only), tiny or real.

    Raises:
        UserError: the folder is missing, holds no pipeline, a pipeline of another kind, or lacks a part.
    """
    folder = Path(path)
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise UserError(f"no editor at {folder}; give the folder of a saved FluxKontextPipeline")
    if not index.is_file():
        hint = " (this looks like a single model, perhaps a verifier)" if (folder / "config.json").is_file() else ""
        raise UserError(
            f"{folder} is no editor: it has no model_index.json{hint}; give the folder of a FluxKontextPipeline"
        )
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError):
        raise UserError(f"{index} is damaged; copy the editor's folder anew") from None
    if kind != "FluxKontextPipeline":
        raise UserError(f"{folder} holds a {kind}; an editor is a FluxKontextPipeline")
    _quiet()
    try:
        pipeline = FluxKontextPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} cannot be loaded as an editor: {line}; copy the folder anew") from error
    return KontextEditor(pipeline, height=height, width=width, name=folder.name)


def _quiet() -> None:
    """No progress bars of the libraries: they take a second at most here, and the stages have their own."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
