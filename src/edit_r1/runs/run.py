"""A run directory: the resolved configuration, the environment, metrics, groups, the checkpoint and the final word.

config.json        what was asked for; resuming with anything else is refused, but for operational settings
                   (`Config.operational`), of which it holds those of the last resumption
environment.json   what it ran on; every resumption adds itself to `resumed`
metrics.jsonl      one JSON object per line: {"step": 3, "reward": 0.71, ...}
groups/000003/     pictures and texts of step 3
checkpoint/        where to go on
.lock              held while a process works on it
done.json          the summary; a run without it is not finished
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import time
import weakref
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from edit_r1.config import changed_keys, decisive, dump
from edit_r1.errors import UserError
from edit_r1.files import append_line, atomic_write, disk_errors, drop_partial_line, is_temporary
from edit_r1.runs.environment import environment

_LOCK = ".lock"
_BLOCK, _BLOCKS = 4096, 1024
"""Bytes of a block of weights that is looked at, and how many of them in a file."""
_PATIENCE = 10.0
"""Seconds to wait for a process that only looks whether the run is finished."""


def content_hash(*inputs: object) -> str:
    """16 hexadecimal digits of a run's data, for its `inputs`: other data under the same path is another run."""
    return hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]


def made_from(data: Path) -> dict[str, str]:
    """The inputs of a run on the data sets of another: their path, and a hash of what that run says of itself."""
    source = Run(data)
    return {"data": str(data), "content": content_hash(source.config.get("inputs"), source.done)}


def weights_of(*models: Path | None) -> dict[str, str]:
    """The input of a run that says which weights its models have: others under the same path are another run.

    Of each safetensors file, in whatever folder below, 4 MiB are read, in blocks all over it: training leaves no such
    sample as it was, and large models are told apart in a second.
    """
    digest = hashlib.sha256()
    for model in filter(None, models):
        for file in sorted(model.rglob("*.safetensors")):
            size = file.stat().st_size
            digest.update(f"{file.relative_to(model)} {size}".encode())
            with file.open("rb") as stream:
                for start in range(0, size, max(_BLOCK, size // _BLOCKS)):
                    stream.seek(start)
                    digest.update(stream.read(_BLOCK))
    return {"weights": digest.hexdigest()[:16]}


class Run:
    """One directory of one stage. Made by `Run.open`; only the main process of a distributed run opens one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun_here = False

    @classmethod
    def open(
        cls, path: Path, config: BaseModel, resume: bool = False, *, inputs: Mapping[str, Any] | None = None
    ) -> Run:
        """Begin a run in a new or empty directory, or go on with one.

        Args:
            path: the run directory; it is made, with its parents, where it is missing.
            config: the resolved configuration, written to config.json.
            resume: go on with what is in the directory. An empty or missing one is begun all the same. Settings that
                are `operational` may be others than before: config.json then gets them.
            inputs: JSON values that belong to the run and are not in the configuration (the seed, the paths of the
                data and of the model); kept under `inputs` in config.json and compared like the configuration.

        Raises:
            UserError: the directory holds something and `resume` is off; it holds no run; the run there has another
                configuration (the message names the keys); another process works on it; the place cannot be written.
        """
        document = dump(config)
        if inputs is not None:
            document["inputs"] = dict(inputs)
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; give --out a folder")
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run._is_new(resume)
        run._hold()
        if run._is_new(resume):  # asked again: while this process waited, another may have begun here
            run._begin(document)
        else:
            run._go_on(config, document)
        return run

    @property
    def checkpoint(self) -> Path:
        """The file for `save_checkpoint`; it exists once a step has been saved."""
        return self.path / "checkpoint" / "state.safetensors"

    @property
    def done(self) -> dict[str, Any] | None:
        """The summary that `finish` was given; None while the run is not finished."""
        return _read_json(self.path / "done.json")

    @property
    def config(self) -> dict[str, Any]:
        """What config.json holds."""
        return _read_json(self.path / "config.json") or {}

    def log(self, step: int, **metrics: float) -> None:
        """Append one line to metrics.jsonl and flush it. Values that are not finite are written as null.

        Raises:
            UserError: the disk is full; the file then ends with the last whole line.
        """
        values = {name: float(value) for name, value in metrics.items()}
        line = {"step": step, **{name: value if math.isfinite(value) else None for name, value in values.items()}}
        append_line(self.path / "metrics.jsonl", json.dumps(line))

    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl, in order."""
        return read_metrics(self.path)

    def group_dir(self, step: int) -> Path:
        """The folder for the pictures and texts of one step; it is made where it is missing."""
        folder = self.path / "groups" / f"{step:06d}"
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def rewind(self, step: int) -> None:
        """Forget what was recorded after `step`, the step of the checkpoint that the run goes on from.

        Later metrics, later groups and the summary are removed, so that the resumed run writes them once.
        """
        kept = [line for line in self.metrics() if line["step"] <= step]
        atomic_write(self.path / "metrics.jsonl", "".join(f"{json.dumps(line)}\n" for line in kept))
        for folder in (self.path / "groups").glob("[0-9]*"):
            if folder.name.isdigit() and int(folder.name) > step:
                shutil.rmtree(folder)
        (self.path / "done.json").unlink(missing_ok=True)

    @contextmanager
    def unless_refused(self) -> Generator[None]:
        """Where the block raises `UserError`, the directory of a run that was begun just now is taken away again.

        A wrong model or a wrong setting then costs one clear line, and the mended command is no other run.
        """
        try:
            yield
        except UserError:
            if self._begun_here:
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    def settled(self, content: str, *, finish: bool) -> dict[str, Any] | None:
        """The summary of a run that asks others, if it is finished; else None, and it goes on.

        What a finished run has written stays until all that is new has been asked: `rewind(0)` then opens it again.

        Args:
            content: hash of what is asked about; a finished run goes on when that has changed.
            finish: take what is there; else a finished run also goes on where its summary says that answers are
                missing.
        """
        done = self.done
        settled = done is not None and done.get("content") == content and (finish or not done.get("missing"))
        return done if settled else None

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write done.json, whole or not at all: from here on the run counts as finished."""
        atomic_write(self.path / "done.json", _json(summary))

    def _is_new(self, resume: bool) -> bool:
        """Whether nothing has begun here; `UserError` where something has that is not to be gone on with."""
        with disk_errors(self.path):
            if all(is_temporary(entry) or entry.name == _LOCK for entry in self.path.iterdir()):
                return True
        if not resume:
            raise UserError(f"{self.path} is not empty; add --resume to go on with it, or give --out another folder")
        if not (self.path / "config.json").exists():
            raise UserError(f"{self.path} holds no run (no config.json); give --out another folder")
        return False

    def _hold(self) -> None:
        """Keep other processes from the directory, as long as this object or this process lives."""
        with disk_errors(self.path):
            lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_WRONLY)
        weakref.finalize(self, os.close, lock)
        patience = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                if time.monotonic() > patience:
                    raise UserError(
                        f"another process works on {self.path}; wait for it or stop it, or give --out another folder"
                    ) from error
                time.sleep(0.1)
            except OSError:
                return  # a file system without locks
            else:
                return

    def _begin(self, document: Mapping[str, Any]) -> None:
        # config.json comes first: with it the directory is a run, and can be resumed.
        atomic_write(self.path / "config.json", _json(document))
        self._complete()
        self._begun_here = True

    def _go_on(self, config: BaseModel, document: Mapping[str, Any]) -> None:
        before = self.config
        after = cast("dict[str, Any]", json.loads(_json(document)))
        changed = changed_keys(decisive(config, before), decisive(config, after))
        if changed:
            raise UserError(
                f"{self.path} was made with other settings ({', '.join(changed)}); "
                "resume with the same settings, or give --out another folder"
            )
        if after != before:
            atomic_write(self.path / "config.json", _json(document))
        self._complete()

    def _complete(self) -> None:
        """Make what is missing; a process killed at any point leaves a directory that this repairs."""
        with disk_errors(self.path):
            for folder in ("groups", "checkpoint"):
                (self.path / folder).mkdir(exist_ok=True)
            for entry in self.path.rglob("*"):
                if is_temporary(entry) and entry.is_file():
                    entry.unlink()
        here = environment()
        first = _read_json(self.path / "environment.json")
        if first is not None:
            first.setdefault("resumed", []).append(here)
        atomic_write(self.path / "environment.json", _json(first or here))
        metrics = self.path / "metrics.jsonl"
        if metrics.exists():
            drop_partial_line(metrics)
        else:
            atomic_write(metrics, "")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a run directory's metrics.jsonl, in order, without the unfinished last line of a killed process."""
    file = path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"


def _read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); give --out another folder") from error
