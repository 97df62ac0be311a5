"""Public data sets of preferences: a pure function for each turns one of its entries into a row.

Two different data sets are called EditReward-Bench; here they go by their owners. Images in tables stay the bytes that
they are until a row is opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
from datasets.exceptions import DatasetsError

from edit_r1.data.pairs.rows import Row, read_manifest
from edit_r1.data.store import Records
from edit_r1.errors import UserError
from edit_r1.records import Choice
from edit_r1.stages import PairFormat

Fields = Mapping[str, Any]


def editreward_data(entry: Fields, name: str, images: Path) -> Row:
    """TIGER-Lab/EditReward-Data: the preferred edit always comes first; `tie_case` says that neither is better."""
    return Row(
        name,
        images / entry["path_src"],
        images / entry["path1"],
        images / entry["path2"],
        _text(entry["prompt"]),
        "same" if entry["tie_case"] else "first",
        annotator="editreward-data",
        editors=(_text(entry["model1"]), _text(entry["model2"])),
    )


def editscore_bench(entry: Fields, name: str) -> Row | None:
    """EditScore/EditReward-Bench: the winner comes first. Only judgements of the dimension `overall` are taken."""
    if entry["dimension"] != "overall":
        return None
    first, second = entry["output_images"]
    return Row(
        name,
        _picture(entry["input_image"]),
        _picture(first),
        _picture(second),
        _text(entry["instruction"]),
        "first",
        category=_text(entry["task_type"]),
        annotator="editscore-bench",
    )


def tiger_bench(entry: Fields, name: str) -> Row | None:
    """TIGER-Lab/EditReward-Bench: of its groups only those of two edits are taken."""
    if entry["dataset"] != "2pair":
        return None
    choices: dict[str, Choice] = {"A>B": "first", "B>A": "second", "A=B": "same"}
    return Row(
        name,
        _picture(entry["source_image"]),
        _picture(entry["candidate_1"]),
        _picture(entry["candidate_2"]),
        _text(entry["instruction"]),
        choices[entry["ranking"]],
        annotator="tiger-bench",
        editors=(_text(entry["model_1"]), _text(entry["model_2"])),
    )


def genai_bench(entry: Fields, name: str) -> Row:
    """TIGER-Lab/GenAI-Bench, `image_edition`: two of its four votes call the edits alike, both good or both bad."""
    choices: dict[str, Choice] = {
        "leftvote": "first",
        "rightvote": "second",
        "tievote": "same",
        "bothbad_vote": "same",
    }
    return Row(
        name,
        _picture(entry["source_image"]),
        _picture(entry["left_output_image"]),
        _picture(entry["right_output_image"]),
        _text(entry["instruct_prompt"]),
        choices[entry["vote_type"]],
        annotator="genai-bench",
        editors=(_text(entry["left_model"]), _text(entry["right_model"])),
    )


Reader = Callable[[Fields, str], Row | None]

_TABLES: dict[PairFormat, Reader] = {
    "editscore-bench": editscore_bench,
    "tiger-bench": tiger_bench,
    "genai-bench": genai_bench,
}


def read_pairs(form: PairFormat, path: Path, images: Path | None) -> Records[Row | None]:
    """The rows of a source in any format; None stands for an entry that is no judgement of two edits as a whole.

    `images` is the folder that the paths of `editreward-data` are relative to. An entry that is looked at raises
    `UserError` when it is not as the format has it.

    Raises:
        UserError: the file or folder cannot be read, or holds no pairs.
    """
    if form == "jsonl":
        return read_manifest(path)
    reader: Reader
    if form == "editreward-data":
        assert images is not None
        reader, entries = partial(editreward_data, images=images), _json_list(path)
    else:
        reader, entries = _TABLES[form], _Table(path)
    if not len(entries):
        raise UserError(f"--pairs {path} has no pairs; check the path")

    def row(index: int) -> Row | None:
        name = f"{path} row {index}"
        try:
            return reader(cast(Fields, entries[index]), name)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__} {error}"
            raise UserError(f"{name} is not as {form} has it ({reason}); check --format and the file") from error

    return Records(len(entries), row)


class _Table(Sequence[Fields]):
    """The rows of parquet or Arrow files as plain values, images as they are stored.

    Raises:
        UserError: there are no such files, or they cannot be read.
    """

    def __init__(self, path: Path) -> None:
        kinds = ([path],) if path.is_file() else (sorted(path.rglob("*.parquet")), sorted(path.rglob("*.arrow")))
        files = [str(file) for file in next((found for found in kinds if found), [])]
        if not files:
            raise UserError(f"--pairs {path} holds no parquet or Arrow files; give a file, or the folder of some")
        try:
            if files[0].endswith(".arrow"):
                table = datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
            else:
                table = datasets.Dataset.from_parquet(cast(Any, files))
        except (OSError, ValueError, DatasetsError) as error:
            raise UserError(f"--pairs {path} cannot be read ({error}); give files of one data set") from error
        self._rows = table.with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return cast(Any, self._rows[index : index + 1]).to_pylist()[0]


def _json_list(path: Path) -> list[object]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--pairs {path} cannot be read ({error}); give the path of a JSON file") from error
    if not isinstance(entries, list):
        raise UserError(f"--pairs {path} is no JSON list of pairs; check the path")
    return cast("list[object]", entries)


def _text(value: object) -> str:
    """A string as it is, and nothing for a value that is missing."""
    return "" if value is None else str(value)


def _picture(value: Mapping[str, Any] | None) -> Path | bytes:
    """An image as Arrow holds it: its bytes, or else its path. What holds neither cannot be opened, and says so."""
    stored = value or {}
    if stored.get("bytes") or not stored.get("path"):
        return bytes(stored.get("bytes") or b"")
    return Path(stored["path"])
