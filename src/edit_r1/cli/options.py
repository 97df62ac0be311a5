"""The options that the commands share, and the checks of input that need no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_r1.errors import UserError

Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        "--recipe",
        metavar="NAME|FILE.toml",
        help="A packaged recipe (smoke, default, full, qwen_vl/traces and so on), or the path of one of your own.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe. May be given several times."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed and same machine give the same numbers.")]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The run directory to make.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it stopped.")]
Data = Annotated[
    Path, typer.Option("--data", metavar="FOLDER", help="A world made by `edit-r1 world make`, or your own data.")
]
World = Annotated[Path, typer.Option("--data", metavar="FOLDER", help="A world made by `edit-r1 world make`.")]
VerifierModel = Annotated[
    Path | None,
    typer.Option("--model", metavar="FOLDER", help="A verifier; the shipped tiny base by default."),
]

EDITS_MEND = "make one with `edit-r1 world make` or `edit-r1 verifier traces`, and give its folder"
PAIRS_MEND = "make one with `edit-r1 world make` or `edit-r1 verifier pairs`, and give its folder"
TASKS_MEND = "make one with `edit-r1 world make` or `edit-r1 editor tasks`, and give its folder"
WORLD_MEND = "make one with `edit-r1 world make --out FOLDER`"
VERIFIER_MEND = "train one with `edit-r1 verifier cold-start`, or give the folder of another verifier"
EDITOR_MEND = "train one with `edit-r1 editor grpo`, or give the folder of another editor"


def examples(*commands: str) -> str:
    """The end of a help text: one command per line, kept as they are (which is what the backspace asks for)."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def existing_folder(path: Path, option: str, mend: str) -> Path:
    """Check that an input is there before anything heavy is loaded.

    Raises:
        UserError: there is no folder at `path`; the message names the option and the mend.
    """
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise UserError(f"{option} {path} {problem}; {mend}")
    return path


def has_data_set(path: Path, name: str) -> bool:
    """Whether a run directory holds a data set of that name."""
    return (path / name / "dataset_info.json").is_file()


def world_folder(path: Path, *names: str, mend: str = WORLD_MEND) -> Path:
    """Like `existing_folder`, for a world made by `edit-r1 world make`, with these data sets of it."""
    existing_folder(path, "--data", mend)
    for name in names:
        if not has_data_set(path, name):
            raise UserError(f"--data {path} has no data set {name}; {mend}")
    return path


def model_folder(path: Path, option: str, mend: str) -> Path:
    """Like `existing_folder`, for a model: of a run directory, which may be given instead, it is the folder `model`."""
    existing_folder(path, option, mend)
    if (path / "environment.json").is_file() and not (path / "done.json").is_file():
        raise UserError(f"{option} {path} is a run that has not ended; go on with it first")
    inner = path / "model"
    folder = inner if inner.is_dir() else path
    if not any((folder / name).is_file() for name in ("config.json", "model_index.json")):
        raise UserError(f"{option} {path} holds no model; {mend}")
    return folder
