"""The shipped tiny bases, made by `edit-r1 pretrain`; the recipe, commit and metrics are beside the weights."""

import hashlib
from functools import cache
from pathlib import Path

VERIFIER = Path(__file__).parent / "verifier"
EDITOR = Path(__file__).parent / "editor"


@cache
def fingerprint(folder: Path) -> str:
    """A short name of the weights in a model folder and those below it."""
    weights = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        weights.update(file.read_bytes())
    return weights.hexdigest()[:12]
