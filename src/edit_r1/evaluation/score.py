"""One edit judged on its own: what `edit-r1 score` prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL.Image import Image

from edit_r1.errors import UserError
from edit_r1.records import Edit, EditTask, Failure
from edit_r1.verifier.decomposers import GrammarDecomposer
from edit_r1.verifier.local import load_verifier
from edit_r1.verifier.verifier import Judgement

DEMO_VERIFIER = Path("runs/demo/gcpo/model")
"""What the demo leaves; the shipped base has not learnt to judge."""


def score_edit(
    source: Image, edited: Image, instruction: str, *, model: Path | None, traces: int, seed: int
) -> tuple[EditTask, Judgement]:
    """Judge an edit of the built-in world with a local verifier, the one that the demo trained by default.

    Raises:
        UserError: the instruction is outside the world's grammar, or there is no verifier.
    """
    task = grammar_task(source, instruction)
    folder = demo_verifier(model, "--model")
    judgement = load_verifier(folder).score([Edit(task, edited, "given", seed)], traces, seed)[0]
    return task, judgement


def grammar_task(source: Image, instruction: str) -> EditTask:
    """A task of the built-in world with the principles that its grammar gives.

    Raises:
        UserError: the instruction is outside the world's grammar.
    """
    task = EditTask(source, instruction, category="")
    principles = GrammarDecomposer().principles(source, instruction)
    if isinstance(principles, Failure):
        raise UserError(f"no principles for {instruction!r}: {principles.text}")
    return replace(task, principles=principles)


def demo_verifier(given: Path | None, option: str) -> Path:
    """The folder that was given with `option`, else that of the demo's verifier.

    Raises:
        UserError: there is no such folder.
    """
    folder = given or DEMO_VERIFIER
    if not folder.is_dir():
        raise UserError(f"there is no verifier in {folder} yet: run `edit-r1 demo`, or give {option} FOLDER")
    return folder
