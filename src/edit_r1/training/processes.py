"""Several processes of one training run: the first opens the run directory, writes and shows progress."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from pydantic import BaseModel
from rich.console import Console

from edit_r1.runs.run import Run


def process() -> PartialState:
    """This process among those that were started together; alone it is the first of one."""
    return PartialState(cpu=not torch.cuda.is_available())


def open_run(path: Path, config: BaseModel, resume: bool, inputs: Mapping[str, Any]) -> Run:
    """`Run.open` in the first process; the others follow once the directory is there."""
    here = process()
    with here.main_process_first():
        return Run.open(path, config, resume, inputs=inputs) if here.is_main_process else Run(path)


def leave() -> None:
    """The end of a run: wait for the others and part from them, for a process that just ends may abort the rest."""
    process().wait_for_everyone()
    process().destroy_process_group()


def console() -> Console | None:
    """Where `track` shows progress: nowhere but in the first process."""
    return None if process().is_main_process else Console(quiet=True)
