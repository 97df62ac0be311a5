"""The weights that verifier training starts from, tiny or real: how they are loaded, adapted and computed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from edit_r1.stages import BackboneConfig
from edit_r1.training.processes import check_launch
from edit_r1.verifier.tiny import load_verifier_model

ADAPTED = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
"""The linear layers of the language model, which LoRA adapts."""


def load_backbone(path: Path, config: BackboneConfig) -> tuple[Any, Any]:
    """Model and processor of a verifier folder, ready for a trainer. `UserError` when it is of another kind.

    With adapters the vision tower is frozen, for none of them is in it. `UserError` also for several GPUs without a
    launcher.
    """
    check_launch()
    model, processor = load_verifier_model(path, dtype=held_in(config))
    if config.max_pixels is not None:
        processor.image_processor.size["longest_edge"] = config.max_pixels
    if config.lora_rank:
        freeze(model.model.visual)
    return model, processor


def held_in(config: BackboneConfig) -> torch.dtype:
    """The type of the model's weights: float32 where they are trained, for their updates are too small for bfloat16."""
    return torch.bfloat16 if config.bf16 and config.lora_rank else torch.float32


def freeze(module: nn.Module) -> None:
    """Train nothing of a module, and keep nothing of its passes.

    That its weights take no gradients is not enough: for checkpointing beside adapters, transformers has gradients
    asked of every input, and the vision tower would be passed twice more for nothing. Qwen2.5-VL's is slow: it attends
    window by window.
    """
    module.requires_grad_(False)
    module.forward = torch.no_grad()(module.forward)


def adapter(config: BackboneConfig) -> LoraConfig | None:
    """LoRA on every linear layer of the language model; None where all weights are trained."""
    if config.lora_rank == 0:
        return None
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=ADAPTED,
        task_type="CAUSAL_LM",
    )


def trainer_arguments(config: BackboneConfig, out: Path, seed: int) -> dict[str, Any]:
    """The arguments of a transformers trainer that are the same for all of ours: folder, seed, precision, silence."""
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(out),
        "lr_scheduler_type": "cosine",  # to 0, so that the last steps average the noise of the first
        "save_total_limit": 1,
        "seed": seed,
        "data_seed": seed,
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # a loss that is no number is not logged as one
        "bf16": config.bf16,
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
    }


def micro_batches(rows: int, most: int) -> int:
    """Into how many equal parts `rows` are cut so that none is larger than `most`."""
    return next(k for k in range(1, rows + 1) if rows % k == 0 and rows // k <= most)
