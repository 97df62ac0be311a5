"""A world and a random verifier small enough that every stage really runs in a test."""

from __future__ import annotations

from pathlib import Path

import torch

from edit_r1.data import make_world as making
from edit_r1.stages import TinySize, WorldConfig
from edit_r1.verifier.tiny import build_processor, build_tiny_qwen
from edit_r1.world.words import vocabulary

WORLD = WorldConfig(cold_start_edits=24, train_pairs=8, test_pairs=6, heldout_pairs=4, probe_edits=4, editor_share=0.0)
SIZE = TinySize(hidden=32, layers=2, heads=2, kv_heads=1, vision_hidden=32, vision_layers=2)


def tiny_world(folder: Path) -> Path:
    """Data sets of every kind, without an editor's samples."""
    out = folder / "world"
    if not out.exists():
        making.make_world(WORLD, out=out, seed=0, resume=False)
    return out


def tiny_verifier(folder: Path, seed: int = 0) -> Path:
    """A random verifier folder."""
    out = folder / "verifier"
    torch.manual_seed(seed)
    processor = build_processor(vocabulary(), SIZE.patch)
    build_tiny_qwen(SIZE, processor.tokenizer).save_pretrained(out)
    processor.save_pretrained(out)
    return out
