"""Manifests of images: JSONL files with one object a line, of which every line is checked before anything is done."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError, field_validator
from pydantic_core import ErrorDetails

from edit_r1.config import Config
from edit_r1.errors import UserError
from edit_r1.images import open_image
from edit_r1.records import EditTask, Principle, PrincipleCategory


class Question(Config):
    """A principle as a manifest has it."""

    question: str
    category: PrincipleCategory

    @field_validator("question")
    @classmethod
    def _said(cls, question: str) -> str:
        return not_blank(question)


class TaskLine(Config):
    """What a line says of a task. The paths of images are relative to the manifest."""

    source: str
    instruction: str
    category: str = ""
    principles: tuple[Question, ...] | None = None

    @field_validator("source")
    @classmethod
    def _shown(cls, text: str) -> str:
        return not_blank(text)

    @field_validator("instruction")
    @classmethod
    def _said(cls, text: str) -> str:
        return not_blank(text).strip()

    @field_validator("principles")
    @classmethod
    def _some(cls, principles: tuple[Question, ...] | None) -> tuple[Question, ...] | None:
        if principles == ():
            raise ValueError("is an empty list; leave it out, and a decomposer names them")
        return principles

    def images(self) -> tuple[str, ...]:
        """The paths that the line names."""
        return (self.source,)

    def given(self) -> tuple[Principle, ...]:
        """The principles that the line brings; none when a decomposer must name them."""
        return tuple(Principle(given.question, given.category) for given in self.principles or ())


LineT = TypeVar("LineT", bound=TaskLine)


def open_task(place: str, line: TaskLine, folder: Path) -> EditTask:
    """The task of a line of a manifest in `folder`; `UserError` names the line where its image cannot be opened."""
    source = open_image(folder / line.source, name=f"{folder / line.source} ({place})")
    return EditTask(source, line.instruction, line.category, line.given())


def not_blank(text: str) -> str:
    """The text, which must say something: for validators of lines."""
    if not text.strip():
        raise ValueError("is empty; fill it in, or take the line out")
    return text


def read_lines(path: Path, line_cls: type[LineT], *, option: str, what: str) -> list[tuple[str, LineT]]:
    """The lines of a JSONL file and what an error calls each; empty ones are passed over. No image is opened.

    Args:
        path: the file.
        line_cls: what a line must look like.
        option: the option that gave the path.
        what: the lines are of, as in `edits`.

    Raises:
        UserError: the file cannot be read or has no line; a line is no JSON object, lacks a key, has an unknown one or
            a wrong value, or names an image that is not there. The message names the line.
    """
    try:
        texts = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option} {path} cannot be read ({error}); give the path of a JSONL file") from error
    lines = [
        (place, _read_line(text, place, path.parent, line_cls))
        for number, text in enumerate(texts, start=1)
        if text.strip() and (place := f"{path} line {number}")
    ]
    if not lines:
        raise UserError(f"{option} {path} has no {what}; write one JSON object on each line")
    return lines


def _read_line(text: str, place: str, folder: Path, line_cls: type[LineT]) -> LineT:
    try:
        line = line_cls.model_validate_json(text)
    except ValidationError as error:
        # An unknown key explains the missing one beside it, so it comes first.
        errors = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
        raise UserError(f"{place}: {_explain(errors[0], line_cls)}") from error
    for name in line.images():
        if not _is_file(folder / name):
            raise UserError(f"{place}: no image at {str(folder / name)[:200]}; check the path")
    return line


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have, such as a data URL
        return False


def _explain(item: ErrorDetails, line_cls: type[TaskLine]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "json_invalid":
        return (
            f"no valid JSON ({item['ctx']['error'] if 'ctx' in item else item['msg']}); write one object on each line"
        )
    if item["type"] == "extra_forbidden":
        known = list(Question.model_fields if "." in key else line_cls.model_fields)
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        return f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}")
    if item["type"] == "missing":
        return f"key {key!r} is missing; add it"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key or 'the line'} {message[:1].lower()}{message[1:]}"
