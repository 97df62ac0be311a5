"""Random Qwen-Image-Edit pipelines of the stock classes, small enough for tests."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,  # pyright: ignore[reportPrivateImportUsage]
    FlowMatchEulerDiscreteScheduler,  # pyright: ignore[reportPrivateImportUsage]
    QwenImageEditPipeline,  # pyright: ignore[reportPrivateImportUsage]
    QwenImageEditPlusPipeline,  # pyright: ignore[reportPrivateImportUsage]
    QwenImageTransformer2DModel,  # pyright: ignore[reportPrivateImportUsage]
)
from tests.training.tiny_qwen2_5 import PATCH, tiny_qwen2_5_config
from transformers import Qwen2_5_VLForConditionalGeneration

from edit_r1.verifier.tiny import build_processor
from edit_r1.world.words import vocabulary

SCHEDULER: dict[str, Any] = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
}
"""Qwen-Image's own."""


def tiny_qwen_image(kind: str, **transformer: Any) -> Any:
    """A pipeline: `first`, `2509`, or `2511`, whose transformer sees the source at noise level 0.

    The VAE has factor 4 and 4 channels: tokens of 8 x 8 pixels and 16 numbers; its statistics are not 0 and 1.
    """
    torch.manual_seed(0)
    processor = build_processor(vocabulary(), PATCH)
    text_encoder = Qwen2_5_VLForConditionalGeneration(tiny_qwen2_5_config(processor.tokenizer))
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, -0.4],
        latents_std=[0.5, 1.5, 2.0, 0.7],
    )
    model = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        zero_cond_t=kind == "2511",
        **transformer,
    )
    pipeline_class: Any = QwenImageEditPipeline if kind == "first" else QwenImageEditPlusPipeline
    pipeline = pipeline_class(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=processor.tokenizer,
        processor=processor,
        transformer=model,
    )
    # The pipelines cut off the system's words, 64 tokens of the real tokenizer; a word-level one needs fewer.
    before_user = pipeline.prompt_template_encode.split("<|im_start|>user")[0]
    pipeline.prompt_template_encode_start_idx = len(processor.tokenizer(before_user)["input_ids"])
    return pipeline
