"""FLUX.1-Kontext and Qwen-VL of any size with random weights: time and memory do not depend on what weights say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,  # pyright: ignore[reportPrivateImportUsage]
    FluxKontextPipeline,  # pyright: ignore[reportPrivateImportUsage]
    FluxTransformer2DModel,  # pyright: ignore[reportPrivateImportUsage]
)
from PIL import Image
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, GenerationConfig

from edit_r1.editors.base import Conditioning
from edit_r1.editors.kontext import KontextEditor
from edit_r1.editors.pipeline import PipelineEditor
from edit_r1.records import EditTask
from edit_r1.training.architecture import read_architecture
from edit_r1.training.doctor import prompt_tokens


@dataclass(frozen=True)
class Scale:
    """Sizes of a Kontext: arguments of its transformer, pixels on the side of an image, tokens of text."""

    transformer: dict[str, Any]
    side: int
    text: int


SCALES = {
    "full": Scale(
        {
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "axes_dims_rope": (16, 56, 56),
        },
        512,
        512,
    ),
    "tiny": Scale(
        {
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 24,
            "pooled_projection_dim": 12,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 6, 6),
        },
        64,
        8,
    ),
}
"""`full` is the published configuration of FLUX.1-Kontext-dev, with the 512 tokens of text that its pipeline takes."""


class RandomKontext(KontextEditor):
    """Kontext without text encoders and VAE. Made where `torch.set_default_device` says, in the default dtype.

    Args:
        scale: its sizes.
        side: of images in pixels, a multiple of 16.
    """

    def __init__(self, scale: Scale, side: int) -> None:
        missing: Any = None
        pipeline = FluxKontextPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=1.15, base_shift=0.5),
            transformer=FluxTransformer2DModel(**scale.transformer).requires_grad_(False),
            vae=missing,
            text_encoder=missing,
            tokenizer=missing,
            text_encoder_2=missing,
            tokenizer_2=missing,
        )
        PipelineEditor.__init__(self, pipeline, (), height=side, width=side, guidance=2.5, name="random")
        self._scale = scale

    def encode(self, tasks: Sequence[EditTask]) -> Conditioning:
        """Random numbers in the shapes of `KontextEditor.encode`."""
        sizes, count = self._scale.transformer, len(tasks)
        shapes = {
            "text": (count, self._scale.text, sizes["joint_attention_dim"]),
            "pooled": (count, sizes["pooled_projection_dim"]),
            "reference": (count, self.rows * self.columns, sizes["in_channels"]),
        }
        dtype = next(self.transformer.parameters()).dtype
        return Conditioning({k: torch.randn(shape, device=self.device, dtype=dtype) for k, shape in shapes.items()})

    def decode(self, latents: Tensor) -> Tensor:
        """Grey images."""
        return torch.full((len(latents), 3, self.height, self.width), 0.5)


def random_qwen(config: Path, where: torch.device, dtype: torch.dtype, **other: int) -> Any:
    """A random Qwen-VL of the sizes in a `config.json`; `other` values, such as `image_token_id`, replace its own."""
    values = json.loads(config.read_text(encoding="utf-8")) | other
    settings: Any = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    with where:
        return AutoModelForImageTextToText.from_config(settings, dtype=dtype)


class RandomVerifier:
    """A random Qwen-VL of the configuration's sizes, which reads two pictures of `side` pixels and writes traces."""

    def __init__(
        self, config: Path, side: int, max_tokens: int, batch: int, where: torch.device, dtype: torch.dtype
    ) -> None:
        self.size = read_architecture(config)
        self.max_tokens, self.batch = max_tokens, batch
        self.model = random_qwen(config, where, dtype).eval()
        self.grid = side // (self.size.patch * self.size.merge) * self.size.merge
        self.patches = 2 * self.grid**2
        self.prompt = prompt_tokens("verify", self.patches // self.size.merge**2)

    @torch.no_grad()
    def __call__(self, rows: int) -> None:
        """Write `rows` traces of `max_tokens` tokens each."""
        settings = GenerationConfig(
            max_new_tokens=self.max_tokens,
            min_new_tokens=self.max_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
        for start in range(0, rows, self.batch):
            inputs = self._inputs(min(self.batch, rows - start))
            found: Tensor = self.model.generate(**inputs, generation_config=settings)
            assert found.shape[1] == inputs["input_ids"].shape[1] + self.max_tokens, "a trace ended early"

    def _inputs(self, rows: int) -> dict[str, Tensor]:
        config, where = self.model.config, self.model.device
        per_image = self.patches // 2 // self.size.merge**2
        images = [config.vision_start_token_id, *[config.image_token_id] * per_image, config.vision_end_token_id] * 2
        words = [10 + index % 80 for index in range(self.prompt - 2 * per_image)]
        ids = torch.tensor([words + images] * rows, device=where)
        channels = config.vision_config.in_channels * config.vision_config.temporal_patch_size
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == config.image_token_id).long(),
            "pixel_values": torch.randn(
                rows * self.patches, channels * self.size.patch**2, device=where, dtype=self.model.dtype
            ),
            "image_grid_thw": torch.tensor([[1, self.grid, self.grid]] * (2 * rows), device=where),
        }


def plain_task(side: int) -> EditTask:
    """A task that nothing is read of."""
    return EditTask(Image.new("RGB", (side, side)), "an instruction", "category")
