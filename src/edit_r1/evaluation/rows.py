"""A table of results as a JSON file that grows, row by row, over sessions and machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edit_r1.errors import UserError
from edit_r1.files import atomic_write
from edit_r1.runs.environment import commit

Row = dict[str, Any]


def read_rows(file: Path) -> list[Row]:
    """The rows of a table; none where there is no file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); take it from git, or remove it") from error


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Write a table, a row a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def made_by() -> Row:
    """The commit and the command that a row comes from."""
    revision, changed = commit()
    return {"commit": revision + ("+changes" if changed else ""), "command": " ".join(["edit-r1", *sys.argv[1:]])}
