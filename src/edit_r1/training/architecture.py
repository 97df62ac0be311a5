"""The sizes of a model from its configuration alone: it is built on torch's meta device, which holds no numbers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

from edit_r1.errors import UserError
from edit_r1.training.backbone import ADAPTED


@dataclass(frozen=True)
class Tower:
    """A stack of equal layers, in the language model (per token) or in the vision tower (per patch)."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    between: int
    """Width between the two halves of a layer's MLP."""
    gated: bool
    """Whether the MLP multiplies by a gate, which keeps four such widths for the backward pass, not two."""
    head_norms: bool
    """Whether queries and keys are normalised head by head (Qwen3)."""
    joint: bool
    """Whether q, k and v are computed together, as in the vision tower, which also attends window by window."""
    layer_parameters: int


@dataclass(frozen=True)
class Architecture:
    """What memory depends on; parameters are counted exactly, tied ones once."""

    kind: str
    parameters: int
    vision_parameters: int
    adapted_width: int
    """Inputs plus outputs of all layers that LoRA adapts: an adapter of rank 1 has so many parameters."""
    vocabulary: int
    language: Tower
    vision: Tower
    mergers: int
    """Modules that join patches into tokens: one, and one for each layer whose features go straight to the language."""
    patch: int
    """Pixels on the side of a patch."""
    merge: int
    """Patches on the side of a token."""

    @property
    def other_parameters(self) -> int:
        """Parameters outside of the layers: embeddings, head, mergers."""
        inside = [tower.layers * tower.layer_parameters for tower in (self.language, self.vision)]
        return self.parameters - sum(inside)


def read_architecture(config: Path) -> Architecture:
    """The sizes of the Qwen-VL model that a transformers `config.json` describes. `UserError` for another kind."""
    try:
        values = cast("dict[str, Any]", json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{config} cannot be read ({error}); give the folder of a model, with its config.json"
        ) from None
    kind = values.get("model_type")
    if kind not in ("qwen3_vl", "qwen2_5_vl"):
        raise UserError(f"{config} describes a model of type {kind!r}; known are qwen2_5_vl and qwen3_vl")
    settings: Any = CONFIG_MAPPING[kind].from_dict(values)
    with torch.device("meta"):
        return measure(AutoModelForImageTextToText.from_config(settings))


def measure(model: Any) -> Architecture:
    """The sizes of a model, on the meta device or not."""
    text, vision = model.config.text_config, model.config.vision_config
    visual, layers = model.model.visual, model.model.language_model.layers
    adapted = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(ADAPTED, name)]
    return Architecture(
        kind=model.config.model_type,
        parameters=_count(model),
        vision_parameters=_count(visual),
        adapted_width=sum(m.in_features + m.out_features for m in adapted),
        vocabulary=text.vocab_size,
        language=Tower(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            between=text.intermediate_size,
            gated=True,
            head_norms=hasattr(layers[0].self_attn, "q_norm"),
            joint=False,
            layer_parameters=_count(layers[0]),
        ),
        vision=Tower(
            layers=vision.depth,
            hidden=vision.hidden_size,
            heads=vision.num_heads,
            kv_heads=vision.num_heads,
            head_dim=vision.hidden_size // vision.num_heads,
            between=vision.intermediate_size,
            gated=hasattr(visual.blocks[0].mlp, "gate_proj"),
            head_norms=False,
            joint=True,
            layer_parameters=_count(visual.blocks[0]),
        ),
        mergers=1 + len(getattr(vision, "deepstack_visual_indexes", ())),
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
