"""A random Kontext small enough that a stage really runs in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edit_r1.editors.tiny import TinyEditorSize, build_tiny_kontext
from edit_r1.world.words import vocabulary

SIZE = TinyEditorSize(
    width=32, head_dim=16, double_blocks=1, single_blocks=1, text_width=16, t5_layers=1, vae_channels=(8, 8, 8)
)


def tiny_editor(folder: Path) -> Path:
    """The folder of one whose colours differ by more than rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline: Any = build_tiny_kontext(SIZE, vocabulary())
    pipeline.vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)  # as pretraining does, with other numbers
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.mul_(10)
    pipeline.save_pretrained(folder)
    return folder
