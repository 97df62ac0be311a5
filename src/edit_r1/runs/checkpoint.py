"""Checkpoints: one safetensors file with JSON in its header, replaced in one step. Nothing is ever unpickled."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edit_r1.errors import UserError
from edit_r1.files import atomic_path, disk_errors

Json = Any
"""A JSON value: None, bool, int, float, str, list or dict with text keys."""

Generator = torch.Generator | np.random.Generator

_SCHEMA = "1"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Json]) -> None:
    """Write tensors and JSON state to the file `path`; it holds the old checkpoint or the new one, never a mixture.

    Tensors are copied to the CPU and keep dtype and shape; those that share memory are stored apart.

    Raises:
        UserError: the disk is full, or the place cannot be written; the old checkpoint is untouched.
    """
    metadata = {"edit_r1_checkpoint": _SCHEMA, "state": json.dumps(state)}
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(_storable(tensors), temporary, metadata=metadata)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Json]]:
    """Read what `save_checkpoint` wrote.

    Raises:
        UserError: the file is missing, damaged or no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; start the run anew without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = cast("dict[str, str]", file.metadata() or {})
            tensors = {name: cast(Tensor, file.get_tensor(name)) for name in cast("list[str]", file.keys())}
    except SafetensorError as error:
        raise UserError(f"checkpoint {path} is damaged ({error}); start the run anew in another folder") from error
    if metadata.get("edit_r1_checkpoint") != _SCHEMA:
        raise UserError(f"{path} is no checkpoint of this version; start the run anew in another folder")
    return tensors, json.loads(metadata["state"])


def flatten_state(tree: Json, prefix: str = "") -> tuple[dict[str, Tensor], Json]:
    """Take a nested state (an optimiser's or a scheduler's `state_dict()`) apart into tensors and a JSON skeleton.

    Dictionaries (with keys of any scalar type), lists, tuples, tensors and JSON scalars may nest. `unflatten_state`
    gives the same tree back. Tensor names start with `prefix`.

    Raises:
        TypeError: the tree holds something else.
    """
    tensors: dict[str, Tensor] = {}

    def visit(node: Any, name: str) -> Json:
        if isinstance(node, Tensor):
            tensors[name] = node
            return {"tensor": name}
        if isinstance(node, Mapping):
            items = cast("Mapping[Any, Any]", node).items()
            return {"dict": [[key, visit(value, f"{name}.{key}")] for key, value in items]}
        if isinstance(node, (list, tuple)):
            kind = "tuple" if isinstance(node, tuple) else "list"
            values = cast("list[Any]", node)
            return {kind: [visit(value, f"{name}.{index}") for index, value in enumerate(values)]}
        if node is None or isinstance(node, (bool, int, float, str)):
            return {"value": node}
        raise TypeError(f"cannot store {type(node).__name__} at {name!r} in a checkpoint")

    return tensors, visit(tree, prefix)


def unflatten_state(tensors: Mapping[str, Tensor], skeleton: Json) -> Json:
    """Put together what `flatten_state` took apart; `tensors` may hold others as well."""
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unflatten_state(tensors, value) for key, value in content}
    if kind in ("list", "tuple"):
        values = [unflatten_state(tensors, value) for value in content]
        return tuple(values) if kind == "tuple" else values
    return content


def rng_state(generators: Mapping[str, Generator] | None = None) -> tuple[dict[str, Tensor], dict[str, Json]]:
    """The state of every source of randomness: Python's, numpy's and torch's (CPU and CUDA), and `generators`.

    Returns:
        Tensors named `rng.*` and a state with the one key `rng`, to be merged into a checkpoint.
    """
    python_version, python_words, python_gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    tensors = {
        "rng.python": torch.tensor(python_words, dtype=torch.int64),
        "rng.numpy": torch.from_numpy(np.asarray(numpy_state["state"]["key"]).astype(np.int64)),
        "rng.torch": torch.get_rng_state(),
    }
    state: dict[str, Json] = {
        "python": [python_version, python_gauss],
        "numpy": [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]],
        "generators": {},
    }
    if torch.cuda.is_available():
        for index, words in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"rng.cuda.{index}"] = words
    for name, generator in (generators or {}).items():
        if isinstance(generator, torch.Generator):
            tensors[f"rng.generator.{name}"] = generator.get_state()
        else:
            own = json.dumps(generator.bit_generator.state, default=lambda value: value.tolist())
            state["generators"][name] = json.loads(own)
    return tensors, {"rng": state}


def set_rng_state(
    tensors: Mapping[str, Tensor], state: Mapping[str, Json], generators: Mapping[str, Generator] | None = None
) -> None:
    """Put back what `rng_state` returned; `tensors` and `state` may be a whole checkpoint's.

    Raises:
        UserError: the checkpoint holds no state for one of the generators.
    """
    own = state["rng"]
    version, gauss = own["python"]
    random.setstate((version, tuple(tensors["rng.python"].tolist()), gauss))
    position, has_gauss, cached = own["numpy"]
    words = tensors["rng.numpy"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, position, has_gauss, cached))
    torch.set_rng_state(tensors["rng.torch"].cpu())
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"rng.cuda.{index}" in tensors:
                torch.cuda.set_rng_state(tensors[f"rng.cuda.{index}"].cpu(), index)
    for name, generator in (generators or {}).items():
        words = tensors.get(f"rng.generator.{name}")
        if isinstance(generator, torch.Generator) and words is not None:
            generator.set_state(words.cpu())
        elif isinstance(generator, np.random.Generator) and name in own["generators"]:
            generator.bit_generator.state = own["generators"][name]
        else:
            raise UserError(f"the checkpoint holds no state of the generator {name!r}; start the run anew")


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU copies where needed: safetensors refuses tensors that share memory."""
    seen: set[int] = set()
    storable: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stored = tensor.detach().cpu().contiguous()
        address = stored.untyped_storage().data_ptr()
        storable[name] = stored.clone() if address in seen else stored
        seen.add(address)
    return storable
