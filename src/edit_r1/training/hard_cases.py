"""Questions that edit data do not hold, for a verifier that must stand attacks on a reward (docs/sanity.md).

A verifier that has only seen honest questions answers these from habit (LOG.md): it takes what was asked from the
change that it sees, loses its words at a blank picture, and is moved by a "yes" in the instruction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from edit_r1.records import Edit
from edit_r1.world.oracle import Reading, read_images
from edit_r1.world.principles import ThingKeeps
from edit_r1.world.questions import sample_claims
from edit_r1.world.render import SIDE, render, to_image
from edit_r1.world.scene import FRAME, Scene, pick
from edit_r1.world.tasks import Truth, WorldTask
from edit_r1.world.words import vocabulary

Case = tuple[Edit, Truth, Scene]
"""What is shown and asked, the truth of it, and the scene that stands in the place of the source."""
_STRAY = 12  # words at most
_LOADED = ["yes"] * 3 + ["no"] * 3 + ["10.0", "0.0", "=>", "[1]", "<score>", "</score>", "user", "assistant"]


def harden(rng: Generator, task: WorldTask, edit: Edit, truth: Truth) -> Case:
    """An edit's question made hard in one of three ways; stray words, which are learnt slowest, in three of five."""
    return (swapped, blank, *[with_stray_words] * 3)[int(rng.integers(5))](rng, task, edit, truth)


def swapped(rng: Generator, task: WorldTask, edit: Edit, truth: Truth) -> Case:
    """The pictures exchanged: what was asked may be there before, and is undone.

    What is undone altogether is worth as little as a copy: nothing that was asked is there, and all else is as it was.
    As it was where the edited picture lacks the thing that a principle wants kept: there is nothing to be kept then.
    """
    shown, reading = truth.reading.scene, Reading(task.scene, frozenset(), residual=0.0)
    kept = [claim.index for claim in task.claims if isinstance(claim, ThingKeeps)]
    if truth.noop or any(shown.cells[index] is None for index in kept):
        return edit, truth, task.scene
    findings = tuple(claim.judge(shown, reading) for claim in task.claims)
    asked = replace(edit.task, source=edit.image)
    return replace(edit, task=asked, image=edit.task.source), Truth(findings, reading, noop=truth.success), shown


def blank(rng: Generator, task: WorldTask, edit: Edit, truth: Truth) -> Case:
    """Nothing in place of the edit: black in half of the cases, else a background without things."""
    if rng.random() < 0.5:
        picture = np.zeros((SIDE, SIDE, 3), np.float32)
        return replace(edit, image=to_image(picture)), task.judge(read_images(picture[None])[0]), task.scene
    nothing = Scene((None,) * 4, **{key: pick(rng, values) for key, values in FRAME.items()})
    found = task.judge(Reading(nothing, frozenset(), residual=0.0))
    return replace(edit, image=to_image(render(nothing))), found, task.scene


def with_stray_words(rng: Generator, task: WorldTask, edit: Edit, truth: Truth) -> Case:
    """An instruction that ends in words without sense, in half of the cases such as an answer is made of."""
    words = _LOADED if rng.random() < 0.5 else [word for word in vocabulary() if word.strip()]
    stray = rng.choice(np.array(words), size=int(rng.integers(1, _STRAY + 1)))
    asked = replace(edit.task, instruction=" ".join([edit.task.instruction, *map(str, stray)]))
    return replace(edit, task=asked), truth, task.scene


def with_other_questions(rng: Generator, task: WorldTask, edit: Edit, truth: Truth) -> Case:
    """Questions that follow from no instruction in the place of the task's principles, which can only be read.

    Those of the held-out category are not among them. A copy keeps its task's: it is worth nothing whatever is asked,
    and no answer to other questions would show why.
    """
    if truth.noop:
        return edit, truth, task.scene
    claims = sample_claims(rng, task.scene, truth.reading.scene, heldout=False)
    asked = replace(edit.task, principles=tuple(claim.principle for claim in claims))
    findings = tuple(claim.judge(task.scene, truth.reading) for claim in claims)
    return replace(edit, task=asked), replace(truth, findings=findings), task.scene
