"""What every source of preferences is turned into, and the source that is one's own: a JSONL manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import field_validator

from edit_r1.data.manifest import TaskLine, not_blank, read_lines
from edit_r1.data.store import Records
from edit_r1.images import open_image
from edit_r1.records import Choice, Edit, EditTask, Preference, Principle


@dataclass(frozen=True)
class Row:
    """A preference whose images still lie on disk.

    Attributes:
        name: what errors and the summary call it.
        source: path or bytes of the image before the edits.
        first: of the one edit.
        second: of the other.
        instruction: what both editors were told.
        choice: which of them a person liked better.
        category: of the instruction.
        annotator: who judged.
        editors: who made the first and the second edit.
        principles: that came with it; none when a decomposer must name them.
    """

    name: str
    source: Path | bytes
    first: Path | bytes
    second: Path | bytes
    instruction: str
    choice: Choice
    category: str = ""
    annotator: str = ""
    editors: tuple[str, str] = ("", "")
    principles: tuple[Principle, ...] = ()

    def open(self) -> Preference:
        """Open the images.

        Raises:
            UserError: one of them cannot be opened; the message names it and the row.
        """
        named = {"source": self.source, "first": self.first, "second": self.second}
        source, first, second = (
            open_image(image, name=f"{image if isinstance(image, Path) else f'the {part} image'} ({self.name})")
            for part, image in named.items()
        )
        task = EditTask(source, self.instruction, self.category, self.principles)
        edits = Edit(task, first, self.editors[0], seed=0), Edit(task, second, self.editors[1], seed=0)
        return Preference(task, *edits, self.choice, self.annotator)


class Line(TaskLine):
    """One line of a manifest of pairs."""

    first: str
    second: str
    choice: Choice
    annotator: str = ""
    first_editor: str = ""
    second_editor: str = ""

    @field_validator("first", "second")
    @classmethod
    def _named(cls, text: str) -> str:
        return not_blank(text)

    def images(self) -> tuple[str, ...]:
        """See `TaskLine.images`."""
        return (self.source, self.first, self.second)


def read_manifest(path: Path) -> Records[Row | None]:
    """The pairs of a JSONL file, one object a line; empty lines are passed over.

    Raises:
        UserError: as `read_lines` says.
    """
    lines = read_lines(path, Line, option="--pairs", what="pairs")
    return Records(len(lines), lambda index: _row(*lines[index], path.parent))


def _row(place: str, line: Line, folder: Path) -> Row:
    source, first, second = (folder / name for name in line.images())
    return Row(
        place,
        source,
        first,
        second,
        line.instruction,
        line.choice,
        line.category,
        line.annotator,
        (line.first_editor, line.second_editor),
        line.given(),
    )
