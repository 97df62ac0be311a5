"""What a run ran on: enough to tell two results apart later, and nothing that identifies a person or a machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "torch",
    "transformers",
    "diffusers",
    "peft",
    "accelerate",
    "trl",
    "datasets",
    "safetensors",
    "tokenizers",
    "numpy",
    "pillow",
    "pydantic",
)


def environment() -> dict[str, Any]:
    """Describe code, libraries and hardware as JSON values.

    Keys: `time` (UTC, ISO 8601), `command` (the program's name and its arguments), `commit` and `changed` (see
    `commit`), `version` of this package, `python`, `platform`, `cpus`, `threads` (OMP_NUM_THREADS or null), `gpus`
    (names; empty when torch is not loaded) and `libraries` (name to version, null when not installed).
    """
    commit_name, changed = commit()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": commit_name,
        "changed": changed,
        "version": _version("edit-r1"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "gpus": _gpus(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def commit() -> tuple[str, bool]:
    """The git commit of this package's source, and whether tracked files of the package differ from it.

    Outside a git checkout of our own (installed from a wheel, git missing, no commit yet) it is the package's version
    with the prefix `v`, and False.
    """
    here = Path(__file__).resolve()
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    head = _git(here.parent, "rev-parse", "HEAD") if tracked else None
    if not head:
        return f"v{_version('edit-r1') or 'unknown'}", False
    return head, bool(_git(here.parents[1], "status", "--porcelain", "--untracked-files=no", "--", "."))


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, without the white space around it; None when it fails or is missing."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    """Names of the GPUs, when torch is loaded already: looking must not load it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]
