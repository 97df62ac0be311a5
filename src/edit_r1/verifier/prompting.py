"""Prompts as plain text files, and the pure functions that fill them (paper section 1).

Whatever comes from outside (instructions, questions, exemplars) is neutralised and put on one line before it enters a
prompt, so that it cannot end its field, forge a marker, or be read as a control token by a tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, cast, get_args

from PIL.Image import Image

from edit_r1.errors import UserError
from edit_r1.images import image_hash
from edit_r1.records import EditTask, Principle, PrincipleCategory
from edit_r1.verifier.markers import neutralise, without_bold

__all__ = [
    "SYSTEMS",
    "TEMPLATES",
    "Exemplar",
    "Prompt",
    "build_decomposition",
    "build_prompt",
    "chat_message",
    "draw_exemplars",
    "image_hash",
    "load_exemplars",
    "load_system",
    "load_template",
    "neutralise",
    "one_line",
    "prompt_hash",
    "single_seed",
]

TEMPLATES = ("compact", "verify", "decompose")
"""Shipped prompt files: `compact` for the tiny verifier, `verify` for real VLMs, `decompose` for the principles."""

SYSTEMS = ("plain", "strict", "terse", "gold")
"""Shipped system prompts: three manners of teachers, and the one of the stronger model that decides between them."""

EXEMPLARS_PER_QUERY = 4
"""Exemplars drawn for each decomposition, as in the paper (its pool has 60, ours is `len(load_exemplars())`)."""

_FIELD = re.compile(r"\{(instruction|principles|exemplars)\}")


@dataclass(frozen=True)
class Prompt:
    """Images in the order in which the model sees them, and the text that follows them."""

    images: tuple[Image, ...]
    text: str


def chat_message(text: str, images: int) -> dict[str, Any]:
    """One user message of a chat, as processors' chat templates take it: so many images, then the text."""
    return {"role": "user", "content": [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]}


@dataclass(frozen=True)
class Exemplar:
    """A worked decomposition of ours: a source image in words, an instruction, and the principles it deserves."""

    category: str
    source: str
    instruction: str
    principles: tuple[Principle, ...]


def one_line(text: str) -> str:
    """Outside text made fit for a prompt: neutralised, no `**`, one space for a run of white space. Idempotent."""
    return " ".join(neutralise(without_bold(text)).split())


@lru_cache(maxsize=8)
def load_template(name: str) -> str:
    """Text of a shipped prompt file. Raises `UserError` for a name that is not in `TEMPLATES`."""
    if name not in TEMPLATES:
        raise UserError(f"no prompt template is called {name!r}: choose one of {', '.join(TEMPLATES)}")
    return (
        resources.files("edit_r1.verifier").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")
    )


def load_system(name: str) -> str:
    """A system prompt: one of the shipped `SYSTEMS` by its name, or the text of a file whose name ends with `.txt`.

    Raises:
        UserError: no shipped prompt has that name; the file is missing, unreadable or empty.
    """
    if name in SYSTEMS:
        file = resources.files("edit_r1.verifier").joinpath("prompts", "system", f"{name}.txt")
        return file.read_text(encoding="utf-8").strip()
    if not name.endswith(".txt"):
        raise UserError(f"no system prompt is called {name!r}: choose one of {', '.join(SYSTEMS)}, or give a .txt file")
    try:
        text = Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the system prompt {name} cannot be read ({error}); give the path of a text file") from error
    if not text:
        raise UserError(f"the system prompt {name} is empty; write what the teacher should heed")
    return text


def prompt_hash(template: str) -> str:
    """First 16 hex digits of the SHA-256 of a template's text: which wording made a verdict."""
    return hashlib.sha256(load_template(template).encode()).hexdigest()[:16]


def build_prompt(task: EditTask, image: Image, principles: Sequence[Principle], template: str = "compact") -> Prompt:
    """The question to a verifier: source and edited image, instruction, and principles numbered from 1.

    Raises:
        UserError: the instruction is empty, or no template has that name.
    """
    lines = [f"[{number}] {one_line(principle.question)}" for number, principle in enumerate(principles, start=1)]
    fields = {"instruction": _instruction(task.instruction), "principles": "\n".join(lines)}
    return Prompt(images=(task.source, image), text=_fill(load_template(template), fields))


def build_decomposition(source: Image, instruction: str, seed: int = 0) -> Prompt:
    """The question to a decomposer: the source image, the instruction, and four exemplars drawn for this query."""
    drawn = draw_exemplars(source, instruction, EXEMPLARS_PER_QUERY, seed)
    fields = {"instruction": _instruction(instruction), "exemplars": "\n\n".join(_exemplar_text(e) for e in drawn)}
    return Prompt(images=(source,), text=_fill(load_template("decompose"), fields))


def draw_exemplars(source: Image, instruction: str, count: int, seed: int = 0) -> tuple[Exemplar, ...]:
    """Exemplars without repetition; the draw depends on the picture, the instruction and `seed` alone."""
    generator = random.Random(single_seed(image_hash(source), instruction, str(seed)))
    return tuple(generator.sample(load_exemplars(), count))


def single_seed(*parts: str) -> int:
    """A 63-bit seed that depends on every part and on their borders."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@lru_cache(maxsize=1)
def load_exemplars() -> tuple[Exemplar, ...]:
    """Our pool of in-context exemplars, over GEdit's eleven categories and compound edits."""
    path = resources.files("edit_r1.verifier").joinpath("prompts", "exemplars.json")
    entries = cast("list[Mapping[str, object]]", json.loads(path.read_text(encoding="utf-8")))
    return tuple(_exemplar(entry) for entry in entries)


def _exemplar(entry: Mapping[str, object]) -> Exemplar:
    groups = cast("Mapping[PrincipleCategory, list[str]]", entry["principles"])
    principles = tuple(
        Principle(text, category) for category in get_args(PrincipleCategory) for text in groups[category]
    )
    return Exemplar(str(entry["category"]), str(entry["source"]), str(entry["instruction"]), principles)


def _exemplar_text(exemplar: Exemplar) -> str:
    entries = [json.dumps({"question": p.question, "category": p.category}) for p in exemplar.principles]
    return f"Image: {exemplar.source}\nInstruction: {exemplar.instruction}\n[\n" + ",\n".join(entries) + "\n]"


def _instruction(text: str) -> str:
    line = one_line(text)
    if not line:
        raise UserError("the instruction is empty: say what to change in the image")
    return line


def _fill(template: str, fields: Mapping[str, str]) -> str:
    """Put every field in at once, so that a field's text is never searched for further fields."""
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template).rstrip("\n")
