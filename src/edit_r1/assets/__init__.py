"""The shipped tiny bases, made by `edit-r1 pretrain`; the recipe, commit and metrics are beside the weights."""

from pathlib import Path

VERIFIER = Path(__file__).parent / "verifier"
EDITOR = Path(__file__).parent / "editor"
