"""A random Qwen2.5-VL, the paper's architecture, of a size that trains in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from edit_r1.verifier.tiny import IMAGE, VIDEO, VISION_END, VISION_START, build_processor
from edit_r1.world.words import vocabulary

PATCH = 8


def tiny_qwen2_5_config(tokenizer: Any) -> Qwen2_5_VLConfig:
    """Two layers each; windows of 32 pixels in the first layer of the vision tower, all of the image in the second."""
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "window_size": 4 * PATCH,
        "fullatt_block_indexes": [1],
        "out_hidden_size": 32,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token(IMAGE),
        video_token_id=token(VIDEO),
        vision_start_token_id=token(VISION_START),
        vision_end_token_id=token(VISION_END),
        tie_word_embeddings=True,
    )


def tiny_qwen2_5(folder: Path) -> Path:
    """A verifier folder with random weights."""
    out = folder / "qwen2_5"
    torch.manual_seed(0)
    processor = build_processor(vocabulary(), PATCH)
    model = Qwen2_5_VLForConditionalGeneration(tiny_qwen2_5_config(processor.tokenizer))
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out
