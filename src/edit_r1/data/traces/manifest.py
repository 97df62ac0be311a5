"""The edits to be judged: a JSONL manifest of image files, or the data set `edits` of a world."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import field_validator

from edit_r1.data.manifest import TaskLine, not_blank, read_lines
from edit_r1.data.store import Records, read_edits
from edit_r1.images import image_hash, open_image
from edit_r1.records import Edit, EditTask
from edit_r1.stages import EDITS


class Line(TaskLine):
    """One line of a manifest of edits."""

    edited: str
    editor: str = ""

    @field_validator("edited")
    @classmethod
    def _named(cls, text: str) -> str:
        return not_blank(text)

    def images(self) -> tuple[str, ...]:
        """See `TaskLine.images`."""
        return (self.source, self.edited)


def read_manifest(path: Path) -> Records[Edit]:
    """The edits of a JSONL file, one object a line; empty lines are passed over. Images are opened when looked at.

    An edit that is looked at raises `UserError`, with the number of its line, when an image cannot be opened.

    Raises:
        UserError: as `read_lines` says.
    """
    lines = read_lines(path, Line, option="--edits", what="edits")
    return Records(len(lines), lambda index: open_edit(*lines[index], path.parent))


def open_edit(place: str, line: Line, folder: Path) -> Edit:
    """The edit of a line of a manifest in `folder`; `UserError` names the line where an image cannot be opened."""
    source, edited = (open_image(folder / name, name=f"{folder / name} ({place})") for name in line.images())
    return Edit(EditTask(source, line.instruction, line.category, line.given()), edited, line.editor, seed=0)


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
