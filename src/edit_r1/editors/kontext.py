"""FLUX.1-Kontext as an `Editor`: an adapter over any diffusers `FluxKontextPipeline`, the tiny one included.

The source's latents follow the latents being made, as reference tokens: the first of their position numbers tells them
apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from edit_r1.editors.base import Conditioning
from edit_r1.editors.pipeline import ATTENTION, PipelineEditor
from edit_r1.errors import UserError
from edit_r1.records import EditTask

LORA_TARGETS: tuple[str, ...] = (
    *ATTENTION,
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
    "proj_mlp",
    "proj_out",
)
"""Attention and feed-forward layers of both kinds of block. `proj_out` also names the last layer."""

_MOST_TEXT_TOKENS = 512  # FLUX's own limit


class KontextEditor(PipelineEditor):
    """Adapter over a pipeline.

    Args:
        pipeline: any `FluxKontextPipeline`; its parts are put into evaluation mode and frozen, but for the transformer.
        height: of the edited images in pixels, a multiple of 8 (16 for FLUX.1); sources are resized to it. By default
            the size that the VAE was made for (64 for the tiny editor, 1024 for FLUX.1).
        width: likewise.
        guidance: what the guidance-distilled transformer is told; by default 2.5, the usual value for Kontext.
        name: how records and reports call this editor.

    Raises:
        UserError: a guidance for a transformer that is told none.
    """

    lora_targets: tuple[str, ...] = LORA_TARGETS
    usual_guidance: ClassVar[float] = 2.5

    def __init__(
        self,
        pipeline: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance: float | None = None,
        name: str = "kontext",
    ) -> None:
        if guidance is not None and not pipeline.transformer.config.guidance_embeds:
            raise UserError(f"{name} takes no guidance (its transformer has no guidance_embeds): leave guidance out")
        native = int(pipeline.vae.config.sample_size)
        super().__init__(
            pipeline,
            (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2),
            height=height or native,
            width=width or native,
            guidance=guidance,
            name=name,
        )
        self.pipeline.vae.to(memory_format=torch.channels_last)  # a third faster on a CPU

    @classmethod
    def guidance_arguments(cls, guidance: float | None = None) -> dict[str, Any]:
        """See `PipelineEditor`."""
        return {"guidance_scale": cls.usual_guidance if guidance is None else guidance}

    @property
    def text_tokens(self) -> int:
        """Length of the text sequence: the tokenizer's own limit, at most FLUX's 512."""
        return min(_MOST_TEXT_TOKENS, int(self.pipeline.tokenizer_2.model_max_length))

    @torch.no_grad()
    def encode(self, tasks: Sequence[EditTask]) -> Conditioning:
        """Encode instructions and sources; a source or an instruction that comes several times is encoded once.

        Returns:
            `text` [B, T, *], T5's sequence; `pooled` [B, *], CLIP's summary; `reference` [B, L, D], the source's latent
            tokens.
        """
        text, pooled = self.encode_text([task.instruction for task in tasks])
        return Conditioning({"text": text, "pooled": pooled, "reference": self.encode_sources(tasks)})

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

    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocity [B, L, D] of latents [B, L, D]; `sigma` a scalar or [B]. In the transformer's dtype."""
        dtype, count = conditioning["text"].dtype, latents.shape[0]
        guided = self.pipeline.transformer.config.guidance_embeds
        output = self.transformer(
            hidden_states=torch.cat([latents.to(dtype), conditioning["reference"].to(dtype)], dim=1),
            timestep=self._timestep(sigma, latents, dtype),
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

    def _image_ids(self, dtype: torch.dtype) -> Tensor:
        """Position numbers [L + R, 3] of latent tokens, then of reference tokens: (which image, row, column)."""
        ids = self.pipeline._prepare_latent_image_ids(1, self.rows, self.columns, self.device, dtype)
        reference = ids.clone()
        reference[:, 0] = 1
        return torch.cat([ids, reference])
