"""Qwen-Image-Edit as an `Editor`: an adapter over diffusers' `QwenImageEditPipeline` and `QwenImageEditPlusPipeline`.

The first is the model of August 2025, the second those of its later versions (2509, 2511). In both the source comes in
twice: as reference tokens after the latents being made, and as an image that the text encoder, a Qwen2.5-VL, sees with
the instruction. The pipelines differ in how large that image is, and in the words around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import QwenImageEditPlusPipeline  # pyright: ignore[reportPrivateImportUsage]
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import (
    CONDITION_IMAGE_SIZE,
    VAE_IMAGE_SIZE,
    calculate_dimensions,
)
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from edit_r1.editors.base import Conditioning
from edit_r1.editors.pipeline import ATTENTION, PipelineEditor
from edit_r1.errors import UserError
from edit_r1.records import EditTask

LORA_TARGETS: tuple[str, ...] = (
    *ATTENTION,
    "img_mlp.net.0.proj",
    "img_mlp.net.2",
    "txt_mlp.net.0.proj",
    "txt_mlp.net.2",
)
"""Attention and feed-forward layers of image and text. What the last block makes of the text is thrown away by the
model: its `to_add_out` and `txt_mlp` never get a gradient."""

NEGATIVE_PROMPT = " "
"""What the model's makers guide away from."""


class QwenImageEditor(PipelineEditor):
    """Adapter over a pipeline of either kind.

    Args:
        pipeline: a `QwenImageEditPipeline` or `QwenImageEditPlusPipeline`; its parts are put into evaluation mode and
            frozen, but for the transformer.
        height: of the edited images in pixels, a multiple of 16; sources are resized to it. By default 1024. The
            pipelines resize a source to an area of about 1024 x 1024 whatever is made of it; here a batch has one
            size.
        width: likewise.
        guidance: scale of classifier-free guidance against `negative_prompt` (the pipelines' `true_cfg_scale`), by
            default 4; 1 or less turns it off and halves the work.
        negative_prompt: what is guided away from; None turns guidance off.
        condition_area: pixels of the image that the text encoder sees, which keeps the source's shape. By default the
            pipeline's own: 1024 x 1024 in the first version, 384 x 384 in the later ones.
        name: how records and reports call this editor.

    Raises:
        UserError: the transformer is guidance-distilled.
        ValueError: height or width do not divide.
    """

    lora_targets: tuple[str, ...] = LORA_TARGETS
    usual_guidance: ClassVar[float] = 4.0

    def __init__(
        self,
        pipeline: Any,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance: float | None = None,
        negative_prompt: str | None = NEGATIVE_PROMPT,
        condition_area: int | None = None,
        name: str = "qwen-image-edit",
    ) -> None:
        if pipeline.transformer.config.guidance_embeds:  # no such model is published, and diffusers 0.42 fails on it
            raise UserError(f"{name} is guidance-distilled (guidance_embeds), which diffusers cannot run; use another")
        native = pipeline.default_sample_size * pipeline.vae_scale_factor
        super().__init__(
            pipeline,
            (pipeline.vae, pipeline.text_encoder),
            height=height or native,
            width=width or native,
            guidance=guidance,
            name=name,
        )
        self.negative_prompt = negative_prompt
        later = isinstance(pipeline, QwenImageEditPlusPipeline)
        self.condition_area = condition_area or (CONDITION_IMAGE_SIZE if later else VAE_IMAGE_SIZE)
        pipeline.text_encoder.register_forward_pre_hook(_mark_image_tokens, with_kwargs=True)

    @classmethod
    def guidance_arguments(cls, guidance: float | None = None) -> dict[str, Any]:
        """See `PipelineEditor`; the pipelines guide only where they are given a negative prompt."""
        scale = cls.usual_guidance if guidance is None else guidance
        return {"negative_prompt": NEGATIVE_PROMPT, "true_cfg_scale": scale}

    @torch.no_grad()
    def encode(self, tasks: Sequence[EditTask]) -> Conditioning:
        """Encode instructions and sources; a source or a pair of both that comes several times is encoded once.

        Returns:
            `text` [B, T, *], what the text encoder makes of source and instruction, padded on the right;
            `text_mask` [B, T], true where it is not padding; `reference` [B, L, D], the source's latent tokens. With
            guidance also `negative_text` and `negative_text_mask`, for source and negative prompt.
        """
        tensors = {"reference": self.encode_sources(tasks)}
        asked = [(task.source, task.instruction) for task in tasks]
        tensors["text"], tensors["text_mask"] = self.encode_text(asked)
        if self.guidance > 1 and self.negative_prompt is not None:
            avoided = [(task.source, self.negative_prompt) for task in tasks]
            tensors["negative_text"], tensors["negative_text_mask"] = self.encode_text(avoided)
        return Conditioning(tensors)

    @torch.no_grad()
    def encode_text(self, pairs: Sequence[tuple[Image, str]]) -> tuple[Tensor, Tensor]:
        """Sequence [B, T, *] and its mask [B, T] for pairs of source and words.

        One pair at a time: the later pipelines take several images as several pictures of one instruction.
        """
        rows: dict[tuple[int, str], Tensor] = {}
        for source, words in pairs:
            if (id(source), words) not in rows:
                width, height = calculate_dimensions(self.condition_area, source.width / source.height)
                seen = self.pipeline.image_processor.resize(source, height, width)
                text, _ = self.pipeline.encode_prompt([words], [seen], device=self.device)
                rows[id(source), words] = text[0]
        texts = [rows[id(source), words] for source, words in pairs]
        masks = [torch.ones(len(text), dtype=torch.bool, device=text.device) for text in texts]
        return pad_sequence(texts, batch_first=True), pad_sequence(masks, batch_first=True)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Packed latents [B, L, D] of images [B, 3, H, W] in [-1, 1]: the mode of the VAE's posterior, normalised."""
        frames = images.to(self.device, self.pipeline.vae.dtype).unsqueeze(2)  # the VAE is one of films
        latents = self.pipeline._encode_vae_image(frames, generator=None)
        count, channels, _, rows, columns = latents.shape
        return self.pipeline._pack_latents(latents, count, channels, rows, columns)

    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocity [B, L, D] of latents [B, L, D]; `sigma` a scalar or [B]. In the transformer's dtype.

        With guidance w it is u + w (c - u), c with the instruction and u with the negative prompt, every token scaled
        to the length that c has: guidance turns it, and makes it no longer.
        """
        asked = self._predict(latents, sigma, conditioning, "text")
        if self.guidance <= 1 or "negative_text" not in conditioning.tensors:
            return asked
        avoided = self._predict(latents, sigma, conditioning, "negative_text")
        guided = avoided + self.guidance * (asked - avoided)
        return guided * (asked.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 [B, 3, H, W] in [0, 1]."""
        frames = self.pipeline.vae.decode(self.unpack(latents), return_dict=False)[0]
        return (frames[:, :, 0].float() / 2 + 0.5).clamp(0, 1)

    def unpack(self, latents: Tensor) -> Tensor:
        """What the VAE's decoder wants of latents [B, L, D]: tokens put back in place, mean and variance restored."""
        vae = self.pipeline.vae
        unpacked = self.pipeline._unpack_latents(latents, self.height, self.width, self.pipeline.vae_scale_factor)
        unpacked = unpacked.to(vae.dtype)
        mean, std = (
            unpacked.new_tensor(values).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return unpacked * std + mean

    def _predict(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, words: str) -> Tensor:
        text = conditioning[words]
        grid = (1, self.rows, self.columns)
        output = self.transformer(
            hidden_states=torch.cat([latents.to(text.dtype), conditioning["reference"].to(text.dtype)], dim=1),
            timestep=self._timestep(sigma, latents, text.dtype),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=conditioning[f"{words}_mask"],
            img_shapes=[[grid, grid]] * len(latents),
            return_dict=False,
        )[0]
        return output[:, : latents.shape[1]]


def _mark_image_tokens(encoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Tell the text encoder which tokens are the image, as its processor does and the pipelines forget to.

    Without it transformers 5 gives the image's tokens positions in a line, not in rows and columns as the model was
    trained with (diffusers' issue 14194, open in 0.42).
    """
    if kwargs.get("image_grid_thw") is not None and kwargs.get("mm_token_type_ids") is None:
        config: Any = encoder.config
        kwargs["mm_token_type_ids"] = (kwargs["input_ids"] == config.image_token_id).int()
    return args, kwargs
