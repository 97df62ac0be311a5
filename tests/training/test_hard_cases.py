"""Hard questions: what is shown, and the truth of it, as the oracle reads the pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from edit_r1.records import Edit
from edit_r1.training.hard_cases import blank, harden, swapped, with_other_questions, with_stray_words
from edit_r1.verifier.prompting import build_prompt, one_line
from edit_r1.world.oracle import Reading, read_images
from edit_r1.world.render import from_image, render, to_image
from edit_r1.world.scene import PLACES, Scene
from edit_r1.world.tasks import Truth, WorldTask, generator, sample_task


def right_edits(count: int = 40) -> list[tuple[WorldTask, Edit, Truth]]:
    """Tasks with what was asked for, and its truth."""
    rng = generator(3, "train")
    made: list[tuple[WorldTask, Edit, Truth]] = []
    for _ in range(count):
        task = sample_task(rng, "train")
        scene = task.operation.apply(task.scene)
        edit = Edit(task.record(), to_image(render(scene)), "right", 0)
        made.append((task, edit, task.judge(Reading(scene, frozenset(), 0.0))))
    return made


def seen(edit: Edit) -> tuple[Scene, Reading]:
    """The scene of the source picture and the reading of the edited one."""
    pictures = np.stack([from_image(edit.task.source), from_image(edit.image)])
    source, edited = read_images(pictures)
    return source.scene, edited


def test_exchanged_pictures_are_judged_as_they_are_shown() -> None:
    """The source shows the right edit and the edit shows the source, so that what was asked is undone.

    What was asked for is not there: no task's wish is met by its own source. Everything else stays. The evidence begins
    with what the picture in the source's place shows.
    """
    changed = 0
    for task, edit, truth in right_edits():
        shown, found, source = swapped(np.random.default_rng(0), task, edit, truth)
        if shown is edit:
            continue
        changed += 1
        assert seen(shown) == (source, pytest.approx(seen(shown)[1]))
        assert seen(shown)[0] == truth.reading.scene == source
        assert seen(shown)[1].scene == task.scene
        for claim, finding in zip(task.claims, found.findings, strict=True):
            assert finding.met == (claim.principle.category != "follow")
            assert finding == claim.judge(source, Reading(task.scene, frozenset(), 0.0))
        assert found.noop  # worth as little as a copy
    assert changed > 30


def test_a_copy_is_not_exchanged() -> None:
    """Two equal pictures have no order."""
    task, edit, _ = right_edits(1)[0]
    truth = task.judge(Reading(task.scene, frozenset(), 0.0))
    assert swapped(np.random.default_rng(0), task, edit, truth)[0] is edit


def test_the_truth_of_a_blank_picture_is_what_the_oracle_reads() -> None:
    """No thing is seen in it, and nothing that it should be free of."""
    rng = np.random.default_rng(1)
    for task, edit, truth in right_edits():
        shown, found, source = blank(rng, task, edit, truth)
        assert source == task.scene
        assert found.reading.scene.things == []
        assert not found.reading.defects
        assert found.reading.scene.background == seen(shown)[1].scene.background


def test_stray_words_change_the_instruction_alone() -> None:
    """The instruction comes first and whole; principles, pictures and truth stay; one word in five is an answer."""
    rng, words = np.random.default_rng(2), Counter[str]()
    for task, edit, truth in right_edits():
        shown, found, source = with_stray_words(rng, task, edit, truth)
        assert (found, source, shown.image) == (truth, task.scene, edit.image)
        stray = shown.task.instruction.removeprefix(f"{task.instruction} ")
        assert 1 <= len(stray.split()) <= 12
        words.update(stray.split())
        prompt = build_prompt(shown.task, shown.image, shown.task.principles).text
        assert prompt.splitlines()[0] == one_line(shown.task.instruction)
        assert "<score>" not in prompt
    assert 0.1 < (words["yes"] + words["no"]) / words.total() < 0.33


def test_other_questions_are_answered_from_the_same_pictures() -> None:
    """Pictures, instruction and worth stay; the questions are others, and their answers what the oracle reads."""
    claims = {claim.question for task, _, _ in right_edits() for claim in task.claims}
    new = met = asked = 0
    for task, edit, truth in right_edits():
        shown, found, source = with_other_questions(np.random.default_rng(asked), task, edit, truth)
        assert (shown.image, shown.task.source, shown.task.instruction) == (
            edit.image,
            edit.task.source,
            task.instruction,
        )
        assert (source, found.reading, found.noop) == (task.scene, truth.reading, truth.noop)
        for principle, finding in zip(shown.task.principles, found.findings, strict=True):
            asked += 1
            new += principle.question not in claims
            met += finding.met
            if principle.question.endswith("empty now ?"):
                cell = PLACES.index(principle.question.split()[2])
                assert finding.met == (truth.reading.scene.cells[cell] is None)
    assert new > asked / 2
    assert 0.3 < met / asked < 0.9


def test_a_copy_is_asked_no_other_questions() -> None:
    """It is worth nothing, which would follow from no answer to them."""
    task, edit, _ = right_edits(1)[0]
    copied, rng = replace(edit, image=edit.task.source), np.random.default_rng(0)
    truth = task.judge(Reading(task.scene, frozenset(), residual=0.0))
    assert with_other_questions(rng, task, copied, truth) == (copied, truth, task.scene)


def test_each_kind_is_drawn() -> None:
    """Of 150 right edits about 30 have the pictures exchanged, 30 show another picture, and 90 have more words."""
    rng = np.random.default_rng(3)
    made = [(edit, harden(rng, task, edit, truth)[0]) for task, edit, truth in right_edits(150)]
    words = sum(after.task.instruction != before.task.instruction for before, after in made)
    sources = sum(after.task.source is not before.task.source for before, after in made)
    blanks = sum(after.image not in (before.image, before.task.source) for before, after in made)
    assert 70 < words < 110
    assert all(15 < count < 45 for count in (sources, blanks))
