"""Records on disk: one `datasets` folder per kind, images as PNG.

`truth` is the oracle's reading of an image as JSON in the built-in world, and empty where nobody knows the truth.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
from PIL import Image

from edit_r1.errors import UserError
from edit_r1.files import disk_errors
from edit_r1.records import Edit, EditTask, Preference, Principle

RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class JudgedEdit:
    """An edit and the reading that its truth rests on."""

    edit: Edit
    truth: str = ""


@dataclass(frozen=True)
class JudgedPair:
    """A preference and the readings of both of its edits."""

    preference: Preference
    first_truth: str = ""
    second_truth: str = ""


def _png(image: Image.Image) -> dict[str, bytes]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue()}


def _task_row(task: EditTask) -> dict[str, Any]:
    principles = json.dumps([asdict(p) for p in task.principles])
    row = {"instruction": task.instruction, "category": task.category, "meta": task.meta, "principles": principles}
    return {"source": _png(task.source), **row}


def _task(row: dict[str, Any]) -> EditTask:
    principles = tuple(Principle(**p) for p in json.loads(row["principles"]))
    return EditTask(row["source"], row["instruction"], row["category"], principles, row["meta"])


_TASK = {
    "source": datasets.Image(),
    **dict.fromkeys(("instruction", "category", "meta", "principles"), datasets.Value("string")),
}


def _edit_columns(prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}image": datasets.Image(),
        f"{prefix}editor": datasets.Value("string"),
        f"{prefix}seed": datasets.Value("int64"),
        f"{prefix}truth": datasets.Value("string"),
    }


def _edit_row(edit: Edit, truth: str, prefix: str) -> dict[str, Any]:
    values = {"image": _png(edit.image), "editor": edit.editor, "seed": edit.seed, "truth": truth}
    return {prefix + key: value for key, value in values.items()}


def _edit(row: dict[str, Any], task: EditTask, prefix: str) -> Edit:
    return Edit(task, row[f"{prefix}image"], row[f"{prefix}editor"], row[f"{prefix}seed"])


def _write(path: Path, rows: Iterable[dict[str, Any]], columns: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with disk_errors(path):
        datasets.Dataset.from_list(list(rows), features=datasets.Features(columns)).save_to_disk(partial)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)


def _read(path: Path, columns: dict[str, Any], make: Callable[[dict[str, Any]], RecordT]) -> Iterator[RecordT]:
    try:
        loaded = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} is no data set; make one with `edit-r1 world make`") from error
    missing = set(columns) - set(loaded.column_names)
    if not isinstance(loaded, datasets.Dataset) or missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(sorted(missing))}; make it anew with `edit-r1 world make`"
        )
    return (make(dict(row)) for row in loaded)


def write_edits(path: Path, edits: Iterable[JudgedEdit]) -> None:
    """Write judged edits as one data set folder."""
    rows = (_task_row(e.edit.task) | _edit_row(e.edit, e.truth, "") for e in edits)
    _write(path, rows, _TASK | _edit_columns(""))


def read_edits(path: Path) -> Iterator[JudgedEdit]:
    """Inverse of `write_edits`."""
    return _read(path, _TASK | _edit_columns(""), lambda row: JudgedEdit(_edit(row, _task(row), ""), row["truth"]))


_PAIR = {
    **_TASK,
    **_edit_columns("first_"),
    **_edit_columns("second_"),
    **dict.fromkeys(("choice", "annotator"), datasets.Value("string")),
}


def write_pairs(path: Path, pairs: Iterable[JudgedPair]) -> None:
    """Write judged preferences as one data set folder."""

    def row(pair: JudgedPair) -> dict[str, Any]:
        preference = pair.preference
        return (
            _task_row(preference.task)
            | _edit_row(preference.first, pair.first_truth, "first_")
            | _edit_row(preference.second, pair.second_truth, "second_")
            | {"choice": preference.choice, "annotator": preference.annotator}
        )

    _write(path, map(row, pairs), _PAIR)


def read_pairs(path: Path) -> Iterator[JudgedPair]:
    """Inverse of `write_pairs`."""

    def make(row: dict[str, Any]) -> JudgedPair:
        task = _task(row)
        first, second = _edit(row, task, "first_"), _edit(row, task, "second_")
        preference = Preference(task, first, second, row["choice"], row["annotator"])
        return JudgedPair(preference, row["first_truth"], row["second_truth"])

    return _read(path, _PAIR, make)
