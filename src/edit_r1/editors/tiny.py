"""The tiny editor: a real `FluxKontextPipeline` of small configurations, for the built-in world's images and words.

Every part is of the class that FLUX.1-Kontext uses, so that the stock `from_pretrained` loads what is made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import (
    AutoencoderKL,  # pyright: ignore[reportPrivateImportUsage]
    FlowMatchEulerDiscreteScheduler,  # pyright: ignore[reportPrivateImportUsage]
    FluxKontextPipeline,  # pyright: ignore[reportPrivateImportUsage]
    FluxTransformer2DModel,  # pyright: ignore[reportPrivateImportUsage]
)
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from edit_r1.config import Config
from edit_r1.verifier.tiny import END, build_tokenizer

LATENT_CHANNELS = 4
"""Channels of the latents; 2x2 of them make one token of 16 numbers (a narrow transformer passes no wide tokens)."""


class TinyEditorSize(Config):
    """Size of a tiny editor; the classes are those of FLUX.1-Kontext."""

    width: int = 128
    head_dim: int = 32
    double_blocks: int = 2
    single_blocks: int = 4
    text_width: int = 64
    t5_layers: int = 2
    clip_layers: int = 1
    text_tokens: int = 32
    vae_channels: tuple[int, int, int] = (16, 32, 32)


def build_text_tokenizer(words: Sequence[str], tokens: int) -> PreTrainedTokenizerFast:
    """The verifier's word-level tokenizer as text encoders need it: padded on the right, closed by an end token."""
    tokenizer = build_tokenizer(words)
    tokenizer.chat_template = None
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = tokens
    end = int(tokenizer.convert_tokens_to_ids(END))  # type: ignore[arg-type]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, end)]
    )
    return tokenizer


def build_vae(channels: Sequence[int]) -> AutoencoderKL:
    """An AutoencoderKL that makes 64x64 pixels 16x16 latents (factor 4 = two halvings, hence three blocks)."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        block_out_channels=tuple(channels),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def build_transformer(size: TinyEditorSize) -> FluxTransformer2DModel:
    """A Flux transformer; the rotary axes (which image, row, column) share the head's dimensions."""
    along = size.head_dim * 3 // 8 // 2 * 2
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=size.double_blocks,
        num_single_layers=size.single_blocks,
        attention_head_dim=size.head_dim,
        num_attention_heads=size.width // size.head_dim,
        joint_attention_dim=size.text_width,
        pooled_projection_dim=size.text_width,
        guidance_embeds=True,
        axes_dims_rope=(size.head_dim - 2 * along, along, along),
    )


def build_text_encoders(size: TinyEditorSize, tokenizer: Any) -> tuple[CLIPTextModel, T5EncoderModel]:
    """CLIP (its pooled output steers the modulation) and T5 (its sequence is attended to)."""
    width = size.text_width
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    clip = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=size.clip_layers,
        num_attention_heads=4,
        max_position_embeddings=size.text_tokens,
        bos_token_id=None,
        **shared,
    )
    t5 = T5Config(
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=size.t5_layers,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
        **shared,
    )
    return CLIPTextModel(clip), T5EncoderModel(t5)


def build_tiny_kontext(size: TinyEditorSize, words: Sequence[str]) -> FluxKontextPipeline:
    """A random pipeline of the given size (call `torch.manual_seed` first); `words` are its vocabulary."""
    tokenizer = build_text_tokenizer(words, size.text_tokens)
    clip, t5 = build_text_encoders(size, tokenizer)
    return FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=1.15, base_shift=0.5),
        vae=build_vae(size.vae_channels),
        text_encoder=clip,
        tokenizer=tokenizer,  # type: ignore[arg-type]
        text_encoder_2=t5,
        tokenizer_2=build_text_tokenizer(words, size.text_tokens),  # type: ignore[arg-type]
        transformer=build_transformer(size),
    )
