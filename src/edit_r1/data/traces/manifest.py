"""The edits to be judged: a JSONL manifest of image files, or the data set `edits` of a world."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path

from pydantic import ValidationError, field_validator
from pydantic_core import ErrorDetails

from edit_r1.config import Config
from edit_r1.data.store import Records, read_edits
from edit_r1.errors import UserError
from edit_r1.images import image_hash, open_image
from edit_r1.records import Edit, EditTask, Principle, PrincipleCategory
from edit_r1.stages import EDITS


class Question(Config):
    """A principle as a manifest has it."""

    question: str
    category: PrincipleCategory

    @field_validator("question")
    @classmethod
    def _said(cls, question: str) -> str:
        return _not_blank(question)


class Line(Config):
    """One line of a manifest. The paths of the images are relative to the manifest."""

    source: str
    edited: str
    instruction: str
    category: str = ""
    principles: tuple[Question, ...] | None = None
    editor: str = ""

    @field_validator("source", "edited", "instruction")
    @classmethod
    def _said(cls, text: str) -> str:
        return _not_blank(text)

    @field_validator("principles")
    @classmethod
    def _some(cls, principles: tuple[Question, ...] | None) -> tuple[Question, ...] | None:
        if principles == ():
            raise ValueError("is an empty list; leave it out, and a decomposer names them")
        return principles


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; fill it in, or take the line out")
    return text


def read_manifest(path: Path) -> Records[Edit]:
    """The edits of a JSONL file, one object a line; empty lines are passed over. Images are opened when looked at.

    An edit that is looked at raises `UserError`, with the number of its line, when an image cannot be opened.

    Raises:
        UserError: the file cannot be read or has no line; a line is no JSON object, lacks a key, has an unknown one or
            a wrong value. The message names the line.
    """
    try:
        texts = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--edits {path} cannot be read ({error}); give the path of a JSONL file") from error
    lines = [
        (f"{path} line {number}", _read_line(text, f"{path} line {number}", path.parent))
        for number, text in enumerate(texts, start=1)
        if text.strip()
    ]
    if not lines:
        raise UserError(f"--edits {path} has no edits; write one JSON object on each line")
    return Records(len(lines), lambda index: _edit(*lines[index], path.parent))


def world_edits(path: Path) -> Records[Edit]:
    """The data set `edits` of a world in the folder `path`; what the oracle knows of them is left behind."""
    judged = read_edits(path / EDITS)
    return Records(len(judged), lambda index: judged[index].edit)


def edit_key(edit: Edit) -> str:
    """32 hexadecimal digits that depend on what a judge of the edit is shown: equal for equal edits, wherever they lie.

    They are the pixels of both images, the instruction and the principles that came with it.
    """
    task = edit.task
    shown = [[principle.question, principle.category] for principle in task.principles]
    return _digest(image_hash(task.source), image_hash(edit.image), task.instruction, json.dumps(shown))


def task_key(task: EditTask) -> str:
    """32 hexadecimal digits of what a decomposer is shown: the pixels of the source and the instruction."""
    return _digest(image_hash(task.source), task.instruction)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read_line(text: str, place: str, folder: Path) -> Line:
    try:
        line = Line.model_validate_json(text)
    except ValidationError as error:
        # An unknown key explains the missing one beside it, so it comes first.
        errors = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
        raise UserError(f"{place}: {_explain(errors[0])}") from error
    for name in (line.source, line.edited):
        if not (folder / name).is_file():
            raise UserError(f"{place}: no image at {folder / name}; check the path")
    return line


def _explain(item: ErrorDetails) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "json_invalid":
        return (
            f"no valid JSON ({item['ctx']['error'] if 'ctx' in item else item['msg']}); write one object on each line"
        )
    if item["type"] == "extra_forbidden":
        known = list(Question.model_fields if "." in key else Line.model_fields)
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        return f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}")
    if item["type"] == "missing":
        return f"key {key!r} is missing; add it"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key or 'the line'} {message[:1].lower()}{message[1:]}"


def _edit(place: str, line: Line, folder: Path) -> Edit:
    source, edited = (
        open_image(folder / name, name=f"{folder / name} ({place})") for name in (line.source, line.edited)
    )
    principles = tuple(Principle(given.question, given.category) for given in line.principles or ())
    return Edit(EditTask(source, line.instruction, line.category, principles), edited, line.editor, seed=0)
