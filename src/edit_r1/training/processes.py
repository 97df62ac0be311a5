"""Several processes of one training run: the first opens the run directory, writes and shows progress."""

from __future__ import annotations

import atexit
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather, gather_object
from pydantic import BaseModel
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from edit_r1.attention import without_cudnn
from edit_r1.errors import UserError
from edit_r1.runs.run import Run

T = TypeVar("T")

_LONGEST_WAIT = timedelta(days=1)
"""Of one process for another: the first may save, judge a probe or wait for a reward server, longer than NCCL's 10 min.

A process that is dead is not waited for: torchrun ends the others.
"""


@cache
def process() -> PartialState:
    """This process among those that were started together; alone it is the first of one.

    It parts from the others when it ends, for one that just ends may abort the rest.
    """
    without_cudnn()
    here = PartialState(cpu=not torch.cuda.is_available(), timeout=_LONGEST_WAIT)
    atexit.register(here.destroy_process_group)
    return here


def device() -> torch.device:
    """Where this process computes: its GPU, or the CPU."""
    return process().device or torch.device("cpu")


def open_run(path: Path, config: BaseModel, resume: bool, inputs: Mapping[str, Any]) -> Run:
    """`Run.open` in the first process; the others follow once the directory is there."""
    here = process()
    with here.main_process_first():
        return Run.open(path, config, resume, inputs=inputs) if here.is_main_process else Run(path)


def counted() -> dict[str, int]:
    """Inputs of a run whose batches are of each process: with another number of them a step would have other rows."""
    count = process().num_processes
    return {"processes": count} if count > 1 else {}


def check_alone(what: str) -> None:
    """Raise a `UserError` where `what` is started in several processes, which it is not made for."""
    if process().num_processes > 1:
        raise UserError(f"{what} is a baseline for one process: start it without torchrun or accelerate")


def check_launch() -> None:
    """Raise a `UserError` where this is the only process and sees several GPUs.

    The trainers of transformers would then cut batches into parts for all of them, winner and loser of a pair apart.
    """
    gpus = torch.cuda.device_count()
    if gpus > 1 and process().num_processes == 1:
        raise UserError(
            f"this process sees {gpus} GPUs: start one process for each with accelerate launch (docs/real_models.md), "
            "or choose one with CUDA_VISIBLE_DEVICES=0"
        )


def console() -> Console | None:
    """Where `track` shows progress: nowhere but in the first process."""
    return None if process().is_main_process else Console(quiet=True)


def gathered(tensor: Tensor) -> Tensor:
    """The tensors of all processes after each other, in every one; they have one shape."""
    return cast("Tensor", gather(tensor.to(device()))).to(tensor.device) if process().num_processes > 1 else tensor


def of_first(value: T) -> T:
    """What the first process has, in all of them."""
    return broadcast_object_list([value])[0]


def mean_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """The mean over the processes of every metric that all of them have."""
    everyone: list[dict[str, float]] = gather_object([dict(metrics)])
    shared = [name for name in metrics if all(name in each for each in everyone)]
    return {name: fmean(each[name] for each in everyone) for name in shared}


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the processes' gradients, so that each has those of all their rows; of parts there is the mean already."""
    count = process().num_processes
    for parameter in parameters if count > 1 else ():
        if isinstance(parameter.data, DTensor):
            parameter.grad = None if parameter.grad is None else parameter.grad * count
        else:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)


def shard(transformer: nn.Module) -> None:
    """FSDP2: every process keeps a part of each tensor of each block, and the mean of the processes' gradients."""
    blocks = [block for part in transformer.children() if isinstance(part, nn.ModuleList) for block in part]
    for module in (*blocks, transformer):
        fully_shard(module, reshard_after_forward=True)  # weights are exchanged between passes: nothing may stay whole


@contextmanager
def callable_parts(model: nn.Module) -> Generator[None]:
    """Let parts of a model be called by themselves, such as what an adapter wraps; asked of all processes at once.

    FSDP2 puts blocks together where they are called, and the tensors outside of them where the whole model is.
    """
    if isinstance(model, FSDPModule):
        model.unshard()
    yield
    if isinstance(model, FSDPModule):
        model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from the parts that the processes hold; one that is no such stays as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU of the first process, and none in the others; asked of all of them at once.

    A GPU that holds a part of each has no room for all of them whole: there they are made one at a time.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if process().is_main_process:
            found[name] = full.cpu()
    return found


def distribute_like(tensor: Tensor, other: Tensor) -> Tensor:
    """This process's part of a whole tensor, cut as `other` is; nothing is cut where `other` is whole, or both are."""
    if isinstance(tensor, DTensor) or not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
