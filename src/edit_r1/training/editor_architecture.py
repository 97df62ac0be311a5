"""An editor from its configuration alone: the stock classes on torch's meta device, which holds no numbers."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING

from edit_r1.editors.base import Conditioning
from edit_r1.editors.loading import ADAPTERS
from edit_r1.editors.pipeline import PipelineEditor
from edit_r1.editors.qwen_image import QwenImageEditor
from edit_r1.errors import UserError

PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2")
DEPTHS = ("num_layers", "num_single_layers")
"""Where a transformer's configuration says how many blocks of a kind there are."""
WORDS = 66
"""Tokens of an instruction of 200 letters, and of what the pipelines of Qwen-Image put around it."""
_MOST_TEXT_TOKENS = 512


@dataclass(frozen=True)
class Description:
    """The configurations of a pipeline and its parts, as their `config.json` files have them."""

    kind: str
    """The class of the pipeline."""
    parts: Mapping[str, dict[str, Any]]
    text_limit: int = _MOST_TEXT_TOKENS
    """Tokens of T5's sequence, which Kontext fills up to this."""

    @property
    def depths(self) -> dict[str, int]:
        """How many blocks of each kind the transformer has."""
        return {key: self.parts["transformer"][key] for key in DEPTHS if key in self.parts["transformer"]}


def read_description(path: Path) -> Description:
    """Of a JSON file as beside recipes (the pipeline's class, and a table for each part), or of a model's folder.

    Raises:
        UserError: a file is missing or damaged, or describes another kind of model.
    """
    if path.is_file():
        values = _read(path)
        parts = {name: values[name] for name in PARTS if name in values}
        limit = _MOST_TEXT_TOKENS
    else:
        values = _read(path / "model_index.json")
        parts = {name: _read(path / name / "config.json") for name in PARTS if name in values}
        tokenizer = path / "tokenizer_2" / "tokenizer_config.json"
        limit = int(_read(tokenizer)["model_max_length"]) if tokenizer.is_file() else _MOST_TEXT_TOKENS
    kind = values.get("_class_name")
    if kind not in ADAPTERS or not {"transformer", "vae", "text_encoder"} <= parts.keys():
        raise UserError(f"{path} describes no editor but a {kind}; known are {', '.join(ADAPTERS)}, with their parts")
    return Description(kind, parts, min(limit, _MOST_TEXT_TOKENS))


def empty_editor(
    description: Description,
    *,
    height: int | None = None,
    width: int | None = None,
    dtype: torch.dtype = torch.float32,
    depths: Mapping[str, int] | None = None,
) -> PipelineEditor:
    """The editor without numbers; `depths` gives its transformer another number of blocks."""
    parts = {name: _part(config) for name, config in description.parts.items() if name != "transformer"}
    parts["transformer"] = _part(description.parts["transformer"] | dict(depths or {}))
    pipeline_class: Any = getattr(diffusers, description.kind)
    wanted = inspect.signature(pipeline_class.__init__).parameters.values()
    required = [given.name for given in wanted if given.default is inspect.Parameter.empty and given.name != "self"]
    parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler()  # pyright: ignore[reportPrivateImportUsage]
    pipeline = pipeline_class(**{name: parts.get(name) for name in required})
    try:
        editor = ADAPTERS[description.kind](pipeline, height=height, width=width)
    except ValueError as error:
        raise UserError(str(error)) from None
    for part in parts.values():
        if isinstance(part, nn.Module):
            nn.Module.to(part, dtype=dtype)  # that of diffusers' own classes warns of what does not concern these
    return editor


def empty_conditioning(editor: PipelineEditor, description: Description, rows: int) -> Conditioning:
    """Conditioning as `editor.encode` makes it of so many edits, without numbers."""
    config: Any = editor.pipeline.transformer.config
    kind: dict[str, Any] = {"device": "meta", "dtype": next(editor.transformer.parameters()).dtype}
    tensors = {"reference": torch.empty(rows, editor.rows * editor.columns, config.in_channels, **kind)}
    if not isinstance(editor, QwenImageEditor):
        tensors["text"] = torch.empty(rows, description.text_limit, config.joint_attention_dim, **kind)
        tensors["pooled"] = torch.empty(rows, config.pooled_projection_dim, **kind)
        return Conditioning(tensors)
    seen = description.parts["text_encoder"]["vision_config"]
    side = round(math.sqrt(editor.condition_area) / (seen["patch_size"] * seen["spatial_merge_size"]))
    for name in ("text", "negative_text"):
        tensors[name] = torch.empty(rows, side**2 + WORDS, config.joint_attention_dim, **kind)
        tensors[f"{name}_mask"] = torch.empty(rows, side**2 + WORDS, device="meta", dtype=torch.bool)
    return Conditioning(tensors)


def _part(config: Mapping[str, Any]) -> Any:
    with torch.device("meta"):
        if "_class_name" in config:
            model_class: Any = getattr(diffusers, config["_class_name"])
            return model_class.from_config(dict(config))
        settings: Any = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
        encoder_class: Any = getattr(transformers, config["architectures"][0])
        return encoder_class(settings)


def _read(path: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); give the folder of a whole editor") from None
