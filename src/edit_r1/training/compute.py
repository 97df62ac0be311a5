"""Training compute, counted in floating-point operations of forward passes; a backward pass costs two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from edit_r1.verifier.prompting import chat_message

FORWARD_AND_BACKWARD = 3


def _attention(query_shape: Any, key_shape: Any, value_shape: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)


_OF_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Attention of a CPU, which torch's counter takes for nothing."""


def row_flops(model: Any, processor: Any, rows: Sequence[dict[str, Any]]) -> float:
    """Operations of one forward pass of an average row: pictures, prompt and, where the row has one, its answer.

    Counted on the model itself by torch's counter, one row at a time, so that there is no padding in it. A row has
    `images`, `prompt` and perhaps `completion`, as TRL takes them.
    """
    total = 0
    for row in rows:
        with FlopCounterMode(display=False, custom_mapping=_OF_CPU) as counter, torch.no_grad():
            model(**_inputs(processor, row))
        total += counter.get_total_flops()
    return total / len(rows)


def row_tokens(processor: Any, rows: Sequence[dict[str, Any]]) -> float:
    """Mean number of tokens of a row, those of its pictures included."""
    return sum(_inputs(processor, row)["input_ids"].shape[1] for row in rows) / len(rows)


def _inputs(processor: Any, row: dict[str, Any]) -> dict[str, Any]:
    question = chat_message(row["prompt"][0]["content"], len(row["images"]))
    text = processor.apply_chat_template([question, *row.get("completion", [])], tokenize=False)
    return dict(processor(text=[text], images=[list(row["images"])], return_tensors="pt"))
