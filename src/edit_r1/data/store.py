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
from typing import Any, Generic, TypeVar, cast

import datasets
from datasets.arrow_writer import ArrowWriter
from PIL import Image

from edit_r1.errors import UserError
from edit_r1.files import disk_errors
from edit_r1.records import Edit, EditTask, Preference, Principle

RecordT = TypeVar("RecordT")

_ROWS_IN_MEMORY = 100
_MEND = (
    "make it anew with the command that made it (`edit-r1 world make`, `traces` or `pairs` of `edit-r1 verifier`, or "
    "`edit-r1 editor tasks`)"
)


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


@dataclass(frozen=True)
class KeptTrace:
    """An edit and the text on it that was kept for the cold start (paper section 2).

    Attributes:
        edit: with its principles; the checks of the text are theirs.
        text: what the teacher wrote, word for word.
        teacher: who wrote it.
        agreement: share of its checks that agree with gold, in [0, 1].
    """

    edit: Edit
    text: str
    teacher: str
    agreement: float


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


@dataclass(frozen=True)
class Records(Generic[RecordT]):
    """Records on disk, each of which is read when it is looked at: there may be more pictures than memory holds."""

    count: int
    at: Callable[[int], RecordT]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> RecordT:
        return self.at(index)

    def __iter__(self) -> Iterator[RecordT]:
        return map(self.at, range(self.count))


def _write(path: Path, rows: Iterable[dict[str, Any]], columns: dict[str, Any]) -> None:
    partial, arrow = path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.arrow.partial")
    features = datasets.Features(columns)
    with disk_errors(path):
        with ArrowWriter(features=features, path=str(arrow), writer_batch_size=_ROWS_IN_MEMORY) as writer:
            for row in rows:
                writer.write(cast("dict[str, Any]", features.encode_example(row)))
            writer.finalize()
        datasets.Dataset.from_file(str(arrow)).save_to_disk(partial)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        arrow.unlink()


def _read(
    path: Path, columns: dict[str, Any], make: Callable[[dict[str, Any]], RecordT], decided: bool = False
) -> Records[RecordT]:
    try:
        loaded = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} is no data set; {_MEND}") from error
    missing = set(columns) - set(loaded.column_names)
    if not isinstance(loaded, datasets.Dataset) or missing:
        raise UserError(f"{path} lacks the columns {', '.join(sorted(missing))}; {_MEND}")
    if decided:
        choices = loaded.select_columns("choice")["choice"]
        loaded = loaded.select([index for index, choice in enumerate(choices) if choice != "same"])
    return Records(len(loaded), lambda index: make(dict(loaded[index])))


def write_tasks(path: Path, tasks: Iterable[EditTask]) -> None:
    """Write tasks as one data set folder."""
    _write(path, map(_task_row, tasks), _TASK)


def read_tasks(path: Path) -> Records[EditTask]:
    """Inverse of `write_tasks`."""
    return _read(path, _TASK, _task)


def write_edits(path: Path, edits: Iterable[JudgedEdit]) -> None:
    """Write judged edits as one data set folder."""
    rows = (_task_row(e.edit.task) | _edit_row(e.edit, e.truth, "") for e in edits)
    _write(path, rows, _TASK | _edit_columns(""))


def read_edits(path: Path) -> Records[JudgedEdit]:
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


def read_pairs(path: Path, *, decided: bool = False) -> Records[JudgedPair]:
    """Inverse of `write_pairs`; with `decided` those judged "same" are left out, and not looked at."""

    def make(row: dict[str, Any]) -> JudgedPair:
        task = _task(row)
        first, second = _edit(row, task, "first_"), _edit(row, task, "second_")
        preference = Preference(task, first, second, row["choice"], row["annotator"])
        return JudgedPair(preference, row["first_truth"], row["second_truth"])

    return _read(path, _PAIR, make, decided)


_TRACE = {
    **_TASK,
    **_edit_columns(""),
    **dict.fromkeys(("text", "teacher"), datasets.Value("string")),
    "agreement": datasets.Value("float64"),
}


def write_traces(path: Path, traces: Iterable[KeptTrace]) -> None:
    """Write kept texts as one data set folder."""

    def row(kept: KeptTrace) -> dict[str, Any]:
        own = {"text": kept.text, "teacher": kept.teacher, "agreement": kept.agreement}
        return _task_row(kept.edit.task) | _edit_row(kept.edit, "", "") | own

    _write(path, map(row, traces), _TRACE)


def read_traces(path: Path) -> Records[KeptTrace]:
    """Inverse of `write_traces`."""

    def make(row: dict[str, Any]) -> KeptTrace:
        return KeptTrace(_edit(row, _task(row), ""), row["text"], row["teacher"], row["agreement"])

    return _read(path, _TRACE, make)
