"""The tiny editor's text encoders learn to read first, as the CLIP and the T5 of FLUX come pretrained.

Linear heads, thrown away afterwards, must tell from CLIP's pooled vector what the instruction asks, and from every T5
token what the part that it belongs to asks: the category, the thing that is named, and the new values. Ours.

Shapes: B batch, T text tokens, P = 2 parts of an instruction, S slots.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional as F

from edit_r1.editors.kontext import KontextEditor
from edit_r1.runs.progress import track
from edit_r1.world.instructions import CATEGORIES, JOINTS, Operation
from edit_r1.world.scene import ATTRIBUTES, FRAME, PLACES, Scene, Thing, pick
from edit_r1.world.tasks import sample_task
from edit_r1.world.words import vocabulary

SLOTS: dict[str, tuple[str, ...]] = {
    "category": CATEGORIES,
    "old_colour": ATTRIBUTES["colour"],
    "old_shape": ATTRIBUTES["shape"],
    "place": PLACES,
    **ATTRIBUTES,
    **FRAME,
}
"""What there is to be read, with the values; class 0 of every slot means that it is not mentioned."""

_SIZES = [len(values) + 1 for values in SLOTS.values()]
_NEW_VALUES = {
    "add": tuple(ATTRIBUTES),
    "colour": ("colour",),
    "material": ("material",),
    "resize": ("size",),
    "replace": ("colour", "shape"),
    "text": ("shape",),
}
_SPOKEN = frozenset(
    word.lower() for words in (*ATTRIBUTES.values(), *FRAME.values(), PLACES, tuple(FRAME)) for word in words
)
_COMPOUND_SHARE = 0.3


def garble(rng: Generator, instruction: str, chance: float) -> str:
    """Some words that carry no value (verbs, say) become other words, so that new phrasings are no shock."""
    words = instruction.split()
    known = vocabulary()
    for place, word in enumerate(words):
        if word.lower() not in _SPOKEN and rng.random() < chance:
            words[place] = pick(rng, known).strip() or word
    return " ".join(words)


def slot_classes(part: Operation, scene: Scene) -> list[int]:
    """What a simple operation says, one class per slot; only what the words say, not what the scene shows."""
    said: dict[str, str] = {"category": part.category}
    for change in part.changes:
        if isinstance(change.place, str):
            said[change.place] = str(change.value)
            continue
        old = scene.cells[change.place]
        if old is not None:
            said |= {"old_colour": old.colour, "old_shape": old.shape}
        if isinstance(change.value, Thing):
            if part.category in ("add", "move"):
                said["place"] = PLACES[change.place]
            said |= {key: str(getattr(change.value, key)) for key in _NEW_VALUES.get(part.category, ())}
    return [values.index(said[slot]) + 1 if slot in said else 0 for slot, values in SLOTS.items()]


def reading_batch(rng: Generator, count: int, tokens: int, word_noise: float) -> tuple[list[str], Tensor, Tensor]:
    """Instructions, what their parts say [B, P, S], and the part that every token belongs to [B, T] (-1: none)."""
    texts: list[str] = []
    said_BPS = torch.zeros(count, 2, len(SLOTS), dtype=torch.long)
    part_BT = torch.full((count, tokens), -1)
    joints = {joint.strip() for joint in JOINTS}
    for row in range(count):
        task = sample_task(rng, "train", "compound" if rng.random() < _COMPOUND_SHARE else None)
        parts = task.operation.parts or (task.operation,)
        for place, part in enumerate(parts):
            said_BPS[row, place] = torch.tensor(slot_classes(part, task.scene))
        words = task.instruction.split()
        cut = next(i for i, word in enumerate(words) if word in joints) if len(parts) == 2 else len(words)
        part_BT[row, :cut] = 0
        part_BT[row, cut + 1 : len(words)] = 1
        texts.append(garble(rng, task.instruction, word_noise))
    return texts, said_BPS, part_BT


def reading_loss(
    text: Tensor, pooled: Tensor, heads: nn.ModuleDict, said_BPS: Tensor, part_BT: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of every slot, from the pooled vector for both parts and from every token for its own part."""
    rows, places = (part_BT >= 0).nonzero(as_tuple=True)
    of_pooled = heads["pooled"](pooled).reshape(-1, sum(_SIZES)), said_BPS.flatten(0, 1)
    of_tokens = heads["tokens"](text[rows, places]), said_BPS[rows, part_BT[rows, places]]
    losses = [_slots_loss(*of_pooled), _slots_loss(*of_tokens)]
    right = (_slots_right(*of_pooled), _slots_right(*of_tokens))
    return losses[0] + losses[1], {"pooled_right": right[0], "token_right": right[1]}


def _slots_loss(logits: Tensor, classes: Tensor) -> Tensor:
    parts = [F.cross_entropy(part, classes[:, slot]) for slot, part in enumerate(logits.split(_SIZES, dim=-1))]
    return torch.stack(parts).sum()


def _slots_right(logits: Tensor, classes: Tensor) -> float:
    guesses = torch.stack([part.argmax(-1) for part in logits.split(_SIZES, dim=-1)], dim=-1)
    return float((guesses == classes).float().mean())


def train_text(
    editor: KontextEditor, rng: Generator, *, steps: int, batch: int, peak_rate: float, word_noise: float
) -> dict[str, float]:
    """Train both encoders; returns the share of slots read right in the last batch."""
    encoders: Any = nn.ModuleList([editor.pipeline.text_encoder, editor.pipeline.text_encoder_2])
    encoders.requires_grad_(True)
    width = int(editor.pipeline.text_encoder.config.hidden_size)
    heads = nn.ModuleDict({"pooled": nn.Linear(width, 2 * sum(_SIZES)), "tokens": nn.Linear(width, sum(_SIZES))})
    parameters = [*encoders.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, peak_rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 50) * (1 - step / steps))
    metrics: dict[str, float] = {}
    with track("Text encoders", steps) as bar:
        for _ in range(steps):
            texts, said, parts = reading_batch(rng, batch, editor.text_tokens, word_noise)
            loss, metrics = reading_loss(*editor.encode_text(texts), heads, said, parts)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.advance(1, **metrics)
    return metrics
