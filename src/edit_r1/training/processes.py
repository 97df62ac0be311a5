"""Several processes of one training run: the first opens the run directory, writes and shows progress."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from pydantic import BaseModel
from rich.console import Console

from edit_r1.runs.run import Run


@cache
def process() -> PartialState:
    """This process among those that were started together; alone it is the first of one.

    It parts from the others when it ends, for one that just ends may abort the rest.
    """
    here = PartialState(cpu=not torch.cuda.is_available())
    atexit.register(here.destroy_process_group)
    return here


def open_run(path: Path, config: BaseModel, resume: bool, inputs: Mapping[str, Any]) -> Run:
    """`Run.open` in the first process; the others follow once the directory is there."""
    here = process()
    with here.main_process_first():
        return Run.open(path, config, resume, inputs=inputs) if here.is_main_process else Run(path)


def console() -> Console | None:
    """Where `track` shows progress: nowhere but in the first process."""
    return None if process().is_main_process else Console(quiet=True)
