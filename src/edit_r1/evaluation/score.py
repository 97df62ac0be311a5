"""One edit judged on its own: what `edit-r1 score` prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL.Image import Image

from edit_r1 import assets
from edit_r1.errors import UserError
from edit_r1.records import Edit, EditTask, Failure
from edit_r1.verifier.decomposers import GrammarDecomposer
from edit_r1.verifier.engines.transformers_engine import TransformersEngine
from edit_r1.verifier.tiny import load_verifier_model
from edit_r1.verifier.verifier import Judgement, Verifier


def score_edit(
    source: Image, edited: Image, instruction: str, *, model: Path | None, traces: int, seed: int
) -> tuple[EditTask, Judgement]:
    """Judge an edit of the built-in world with a local verifier, `runs/demo/gcpo` or the shipped base by default.

    Raises:
        UserError: the instruction is outside the world's grammar, or `model` is no verifier.
    """
    task = EditTask(source, instruction, category="")
    principles = GrammarDecomposer().principles(source, instruction)
    if isinstance(principles, Failure):
        raise UserError(f"no principles for {instruction!r}: {principles.text}")
    task = replace(task, principles=principles)
    trained = Path("runs/demo/gcpo/model")
    folder = model or (trained if trained.is_dir() else assets.VERIFIER)
    policy, processor = load_verifier_model(folder)
    engine = TransformersEngine(policy, processor, name=str(folder))
    judgement = Verifier(engine, max_tokens=160).score([Edit(task, edited, "given", seed)], traces, seed)[0]
    return task, judgement
