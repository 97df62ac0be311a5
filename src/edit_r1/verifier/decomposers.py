"""From (source image, instruction) to principles: yes/no questions to check an edit by (paper section 1)."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from typing import Protocol, cast

from PIL.Image import Image

from edit_r1.errors import UserError
from edit_r1.images import image_hash
from edit_r1.records import Failure, FailureKind, Principle, PrincipleCategory
from edit_r1.verifier.engines.base import Completion, Engine
from edit_r1.verifier.prompting import build_decomposition, one_line, single_seed

MIN_PRINCIPLES, MAX_PRINCIPLES = 3, 20
"""Bounds of a believable decomposition; the paper has about 10."""


class Decomposer(Protocol):
    """Anything that names the principles of an edit."""

    def principles(self, source: Image, instruction: str) -> tuple[Principle, ...] | Failure:
        """The principles in the order in which they are asked; a `Failure` when there is no usable answer."""
        ...


class GrammarDecomposer:
    """Principles of the built-in world, without a model: reads the *source* image and parses the instruction."""

    def principles(self, source: Image, instruction: str) -> tuple[Principle, ...]:
        """See `Decomposer.principles`.

        Raises:
            UserError: the picture is not of the world's size, or the instruction is outside the world's grammar.
        """
        import numpy as np

        from edit_r1.world.instructions import parse_instruction
        from edit_r1.world.oracle import read_images
        from edit_r1.world.principles import principles_for
        from edit_r1.world.render import SIDE

        if source.size != (SIDE, SIDE):
            raise UserError(
                f"the source is {source.width}x{source.height} pixels and no picture of the built-in world "
                f"({SIDE}x{SIDE}): give the principles yourself or use a chat decomposer"
            )
        pixels = np.asarray(source.convert("RGB"), np.float32)[None] / 255.0
        scene = read_images(pixels)[0].scene
        operation = parse_instruction(instruction, scene)
        if operation is None:
            raise UserError(
                f'the instruction "{one_line(instruction)}" is outside the grammar of the built-in world for this '
                'image: write it like "make the background black"'
            )
        return tuple(claim.principle for claim in principles_for(scene, operation))


class ChatDecomposer:
    """Principles from a vision-language model, with four exemplars of ours per query.

    Args:
        engine: any engine whose model can look at an image; `OpenAIEngine` for every OpenAI-compatible endpoint.
        temperature: 0 gives the model's best guess.
        max_tokens: room for the list.
        seed: of the draw of exemplars and of the sampling; combined with picture and instruction.
    """

    def __init__(self, engine: Engine, *, temperature: float = 0.0, max_tokens: int = 2048, seed: int = 0) -> None:
        self._engine = engine
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._seed = seed

    def principles(self, source: Image, instruction: str) -> tuple[Principle, ...] | Failure:
        """See `Decomposer.principles`. Raises `UserError` for an empty instruction."""
        prompt = build_decomposition(source, instruction, self._seed)
        seed = single_seed(image_hash(source), instruction, str(self._seed)) % 2**31
        answers = self._engine.generate(
            [prompt], n=1, seed=seed, max_tokens=self._max_tokens, temperature=self._temperature
        )
        return read_principles(answers[0][0])


def read_principles(answer: Completion) -> tuple[Principle, ...] | Failure:
    """Parse a decomposer's completion; one that was cut off inside its list is `truncated`."""
    if answer.failure is not None:
        return answer.failure
    parsed = parse_principles(answer.text)
    if isinstance(parsed, Failure) and not answer.finished and parsed.kind != "empty":
        return Failure("truncated", answer.text)
    return parsed


def cached(decomposer: Decomposer, max_entries: int = 100_000) -> CachedDecomposer:
    """`decomposer` with a memory: one call per (picture, instruction). Failures are not kept: they are tried again."""
    return CachedDecomposer(decomposer, max_entries)


class CachedDecomposer:
    """See `cached`. The entry that was used longest ago goes first when the memory is full. Threads may share it."""

    def __init__(self, decomposer: Decomposer, max_entries: int) -> None:
        self._decomposer = decomposer
        self._max_entries = max_entries
        self._known: OrderedDict[tuple[str, str], tuple[Principle, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def principles(self, source: Image, instruction: str) -> tuple[Principle, ...] | Failure:
        """See `Decomposer.principles`."""
        key = (image_hash(source), instruction)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        found = self._decomposer.principles(source, instruction)
        if not isinstance(found, Failure):
            with self._lock:
                self._known[key] = found
                while len(self._known) > self._max_entries:
                    self._known.popitem(last=False)
        return found


_CATEGORY: dict[str, PrincipleCategory] = {
    "follow": "follow",
    "following": "follow",
    "instruction following": "follow",
    "keep": "keep",
    "preserve": "keep",
    "preservation": "keep",
    "feature preservation": "keep",
    "quality": "quality",
    "image quality": "quality",
}
_MAX_STARTS = 64
_LIST_START = re.compile(r"\[\s*\{")
_THINK_END = re.compile(r"</\s*think(?:ing)?\s*>", re.IGNORECASE)


def parse_principles(text: str) -> tuple[Principle, ...] | Failure:
    """Read a decomposer's answer: the one JSON list of `{"question", "category"}` in it.

    Prose, code fences and reasoning up to `</think>` around the list are ignored, and so is an object that wraps it.
    Categories are read whatever their case, the paper's long names included. Questions are put on one line and
    neutralised. Anything else is a `Failure` that holds the text: `empty`; `truncated` (a list begins but never ends);
    `bad_answer` (no list, two different lists, a wrong entry, an unknown category, an empty question, a number of
    principles outside `MIN_PRINCIPLES` to `MAX_PRINCIPLES`); `duplicate_principle` (the same question twice);
    `missing_principle` (no question of category "follow").
    """
    body = _THINK_END.split(text)[-1]
    if not body.strip():
        return Failure("empty", text)
    lists = _json_lists(body)
    if not lists:
        return Failure("truncated" if _LIST_START.search(body) else "bad_answer", text)
    entries = [_principle(entry) for entry in lists[0]]
    principles = tuple(entry for entry in entries if entry is not None)
    kind: FailureKind | None = None
    if any(other != lists[0] for other in lists) or len(principles) < len(entries):
        kind = "bad_answer"
    elif len({principle.question.casefold() for principle in principles}) < len(principles):
        kind = "duplicate_principle"
    elif not MIN_PRINCIPLES <= len(principles) <= MAX_PRINCIPLES:
        kind = "bad_answer"
    elif all(principle.category != "follow" for principle in principles):
        kind = "missing_principle"
    return principles if kind is None else Failure(kind, text)


def _json_lists(text: str) -> list[list[object]]:
    """Every outermost JSON list that starts with an object, in order; the first `_MAX_STARTS` places are tried."""
    decoder = json.JSONDecoder()
    found: list[list[object]] = []
    position = 0
    for _ in range(_MAX_STARTS):
        start = _LIST_START.search(text, position)
        if start is None:
            break
        try:
            value, position = cast("tuple[list[object], int]", decoder.raw_decode(text, start.start()))
        except RecursionError:
            break
        except ValueError:
            position = start.start() + 1
        else:
            found.append(value)
    return found


def _principle(entry: object) -> Principle | None:
    if not isinstance(entry, dict):
        return None
    fields = cast("dict[str, object]", entry)
    question, category = fields.get("question"), fields.get("category")
    if not isinstance(question, str) or not isinstance(category, str):
        return None
    name = _CATEGORY.get(" ".join(category.lower().replace("_", " ").split()))
    line = one_line(question)
    return Principle(line, name) if name is not None and line else None
