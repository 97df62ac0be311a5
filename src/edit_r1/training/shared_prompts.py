"""A prompt is read once for all of its traces, in generation and in the update; TRL reads it with every trace.

The traces of a group differ in their answers alone, and most of a row is prompt: pictures, instruction, questions. The
log-probabilities and their gradients are those of TRL's way (tests hold the two together) in half of the time.
Shapes: R rows, K tokens of an answer, V words.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import is_peft_model
from torch import Tensor
from transformers import GenerationConfig
from trl.trainer.utils import pad, split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from edit_r1.verifier.engines.transformers_engine import prefilled


def select_rows(inputs: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Some rows of a TRL batch, pictures included."""
    total = len(inputs["num_images"])
    split = split_pixel_values_by_grid(inputs)

    def chosen(value: Any) -> Any:
        if isinstance(value, list):
            return [value[row] for row in rows]
        return value[rows] if isinstance(value, Tensor) and value.ndim > 0 and len(value) == total else value

    return unsplit_pixel_values_by_grid({key: chosen(value) for key, value in split.items()})


_PADDED = {  # which parts of a row are padded: prompts on the left, answers on the right
    "prompt_ids": (True, False),
    "prompt_mask": (True, False),
    "completion_ids": (False, True),
    "completion_mask": (False, True),
    "old_per_token_logps": (False, True),
    "sampling_per_token_logps": (False, True),  # of vLLM, and the next as well
    "importance_sampling_ratio": (False, True),
    "mm_token_type_ids": (True, True),
}


def joined(first: dict[str, Any], second: dict[str, Any], rows: list[int], pad_id: int) -> dict[str, Any]:
    """Some rows of two TRL batches of as many rows each as one batch; rows of `second` are numbered after `first`'s."""
    batches: list[dict[str, Any]] = [split_pixel_values_by_grid(batch) for batch in (first, second)]
    sizes = [(batch["prompt_ids"].shape[1], batch["completion_ids"].shape[1]) for batch in batches]
    widths = [max(of_both) for of_both in zip(*sizes, strict=True)]

    def by_token(key: str) -> bool:  # a ratio may be one number for a whole trace: then there is nothing to pad
        parts = [sum(size for size, used in zip(own, _PADDED[key], strict=True) if used) for own in sizes]
        return parts == [batch[key].shape[1] for batch in batches]

    def of(key: str, batch: dict[str, Any], own: tuple[int, int]) -> Any:
        if key not in _PADDED or not by_token(key):
            return batch[key]
        missing = [width - size for width, size in zip(widths, own, strict=True)]
        left, right = (by if used else 0 for by, used in zip(missing, _PADDED[key], strict=True))
        return F.pad(batch[key], (left, right), value=pad_id if key in ("prompt_ids", "completion_ids") else 0)

    total = len(first["num_images"])
    both: dict[str, Any] = {}
    for key, value in batches[0].items():
        if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0 and len(value) == total):
            parts = [of(key, batch, own) for batch, own in zip(batches, sizes, strict=True)]
            both[key] = [*parts[0], *parts[1]] if isinstance(value, list) else torch.cat(parts)
        else:
            both[key] = value
    return select_rows(unsplit_pixel_values_by_grid(both), rows)


def without_adapter(model: Any) -> Any:
    """The model itself where peft wraps it: its layers already hold the adapter, and its attributes are its own."""
    return model.get_base_model() if is_peft_model(model) else model


def padded(rows: dict[str, Any], pad_id: int, device: torch.device) -> dict[str, Any]:
    """Rows of lists as left-padded tensors, ready for a model; `num_images` is left out."""
    padding = {"input_ids": pad_id}
    return {
        key: (
            value
            if isinstance(value, Tensor)
            else pad([torch.tensor(row) for row in value], padding.get(key, 0), padding_side="left")
        ).to(device)
        for key, value in rows.items()
        if key != "num_images"
    }


def sample_answers(model: Any, prompts: dict[str, Any], n: int, config: GenerationConfig) -> list[list[int]]:
    """Write n answers to each prompt, side by side, as token ids; what follows an end token is padding."""
    width = prompts["input_ids"].shape[1]
    prompt_of = torch.arange(len(prompts["input_ids"]), device=model.device).repeat_interleave(n)
    tokens: Tensor = model.generate(**prefilled(model, prompts, prompt_of), generation_config=config)
    return tokens[:, width:].tolist()


def first_rows(prompts: dict[str, Any]) -> list[int]:
    """The rows of a batch of prompts that differ from the row before, in words or in pictures."""
    words: Tensor = prompts["input_ids"]
    pixels: Any = split_pixel_values_by_grid(prompts)["pixel_values"]
    changed = [
        not (torch.equal(words[i], words[i - 1]) and torch.equal(pixels[i], pixels[i - 1]))
        for i in range(1, len(words))
    ]
    return [0, *(i for i, new in enumerate(changed, 1) if new)]


def answer_logits(model: Any, prompts: dict[str, Any], answers: Tensor, mask: Tensor) -> Tensor:
    """Logits [R, K, V] of every token of the answers [R, K], given all before it; `mask` is 1 where an answer goes on.

    Equal prompts in neighbouring rows are read once, and gradients flow through them. For Qwen-VL models.
    """
    first = first_rows(prompts)
    starts = torch.zeros(len(answers), dtype=torch.long, device=answers.device)
    starts[first[1:]] = 1
    read = select_rows(prompts, first)
    del read["num_images"]
    given = prefilled(model, read, starts.cumsum(0))
    before = torch.cat([given["input_ids"][:, -1:], answers[:, :-1]], dim=1)
    seen = torch.cat([given["attention_mask"], mask[:, :-1]], dim=1)
    positions = (seen.cumsum(1) - 1)[:, -before.shape[1] :] + model.model.rope_deltas
    return model(
        input_ids=before,
        attention_mask=seen,
        position_ids=positions.expand(3, -1, -1),
        past_key_values=given["past_key_values"],
        use_cache=True,
    ).logits
