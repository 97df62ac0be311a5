"""One edit judged on its own: what `edit-r1 score` prints. Its principles and its verifier, as a recipe says."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL.Image import Image

from edit_r1.data.traces.asking import connect, shown
from edit_r1.errors import UserError
from edit_r1.records import Edit, EditTask, Failure, Principle
from edit_r1.stages import EditConfig, EndpointConfig, ServerConfig
from edit_r1.verifier.decomposers import ChatDecomposer, GrammarDecomposer
from edit_r1.verifier.local import load_verifier
from edit_r1.verifier.served import served_verifier
from edit_r1.verifier.verifier import Judgement, Verifier

DEMO_VERIFIER = Path("runs/demo/gcpo/model")
"""What the demo leaves; the shipped base has not learnt to judge."""


def score_edit(
    source: Image,
    edited: Image,
    instruction: str,
    config: EditConfig,
    *,
    model: Path | None,
    traces: int,
    seed: int,
) -> tuple[EditTask, Judgement]:
    """Judge an edit with a verifier from a folder, else behind the recipe's server, else with the demo's.

    Raises:
        UserError: nobody can name the principles, or there is no verifier.
    """
    task = named_task(EditTask(source, instruction, category=""), config.decomposer, seed)
    place = verifier_place(config, model, "--model")
    return task, verifier_at(place, config).score([Edit(task, edited, "given", seed)], traces, seed)[0]


def named_task(task: EditTask, decomposer: EndpointConfig | None, seed: int) -> EditTask:
    """The task with principles: a chat model names them, or without one the grammar of the built-in world.

    Raises:
        UserError: the picture or the instruction is not of the built-in world and there is no chat model, or that gives
            no usable answer.
    """
    principles = _grammars(task) if decomposer is None else _asked(task, decomposer, seed)
    return replace(task, principles=principles)


def _grammars(task: EditTask) -> tuple[Principle, ...]:
    try:
        return GrammarDecomposer().principles(task.source, task.instruction)
    except UserError as error:
        mend = "for other pictures and words put a chat model into [edit.decomposer] of a recipe (docs/best_of.md)"
        raise UserError(f"{error}; {mend}") from None


def _asked(task: EditTask, decomposer: EndpointConfig, seed: int) -> tuple[Principle, ...]:
    with closing(connect("principles", decomposer).engine) as engine:
        chat = ChatDecomposer(engine, temperature=decomposer.temperature, max_tokens=decomposer.max_tokens, seed=seed)
        found = chat.principles(task.source, task.instruction)
    if isinstance(found, Failure):
        raise UserError(
            f"{decomposer.model} at {decomposer.base_url} named no principles ({found.kind}: {shown(found.text)}); "
            "try another --seed, or another model"
        )
    return found


def verifier_place(config: EditConfig, given: Path | None, option: str) -> Path | ServerConfig:
    """Where the verifier is: in the folder given with `option`, else behind the recipe's server, else the demo's.

    Raises:
        UserError: there is none.
    """
    place = given or config.endpoint or DEMO_VERIFIER
    if isinstance(place, Path) and not place.is_dir():
        raise UserError(f"there is no verifier in {place} yet: run `edit-r1 demo`, or give {option} FOLDER")
    return place


def verifier_at(
    place: Path | ServerConfig, config: EditConfig, *, temperature: float = 1.0, aggregate: str = "model"
) -> Verifier:
    """The verifier at a place, asked with the recipe's prompt.

    Raises:
        UserError: the folder holds no verifier, or the server's address is none.
    """
    settings: dict[str, Any] = {
        "template": config.template,
        "max_tokens": config.max_tokens,
        "temperature": temperature,
        "aggregate": aggregate,
    }
    return load_verifier(place, **settings) if isinstance(place, Path) else served_verifier(place, **settings)
