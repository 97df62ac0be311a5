"""Compute that is shared out fairly is counted wholly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.training.tiny_run import tiny_verifier

from edit_r1.training.compute import row_flops, row_tokens
from edit_r1.verifier.tiny import load_verifier_model


def _row(words: int) -> dict[str, Any]:
    return {"images": [Image.new("RGB", (64, 64))] * 2, "prompt": [{"content": "red " * words}]}


def test_attention_counts_whichever_kernel_computes_it(tmp_path: Path) -> None:
    """The fused kernel of a CPU does what two matrix products do.

    Scores of s tokens with s tokens and their product with the values are 4 s^2 d operations of each head of d; all the
    rest is linear in s. So the second difference of the count over three lengths is 4 * 2 n^2 * (heads * d) a layer.
    """
    model, processor = load_verifier_model(tiny_verifier(tmp_path))
    fused = [row_flops(model, processor, [_row(words)]) for words in (10, 20, 30)]
    config = model.config.text_config
    second = fused[2] - 2 * fused[1] + fused[0]
    width = config.num_attention_heads * config.head_dim
    assert second == pytest.approx(config.num_hidden_layers * 4 * width * 2 * 10**2)
    model.set_attn_implementation("eager")
    assert [row_flops(model, processor, [_row(words)]) for words in (10, 20, 30)] == fused


def test_answers_count_and_rows_are_averaged(tmp_path: Path) -> None:
    """A row with an answer costs what an equally long prompt does; two rows cost their mean."""
    model, processor = load_verifier_model(tiny_verifier(tmp_path))
    answered = _row(10) | {"completion": [{"role": "assistant", "content": "red " * 10}]}
    longer = round(row_tokens(processor, [answered]) - row_tokens(processor, [_row(10)]))
    assert longer >= 10
    short, long = (row_flops(model, processor, [row]) for row in (_row(10), answered))
    assert long == row_flops(model, processor, [_row(10 + longer)]) > short
    assert row_flops(model, processor, [_row(10), answered]) == (short + long) / 2
