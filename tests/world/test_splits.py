"""Splits without leaks: scenes, phrasings, and what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tests.training.tiny_run import WORLD

from edit_r1.data.make_world import make_world
from edit_r1.data.store import read_pairs
from edit_r1.stages import TEST_PAIRS, Measured
from edit_r1.world.faults import HELDOUT_FAULT, SCENE_FAULTS, candidate, draw_faults
from edit_r1.world.instructions import HELDOUT_CATEGORY, JOINTS, PHRASES, Operation, _pattern, phrasings
from edit_r1.world.oracle import Reading, read_images
from edit_r1.world.render import from_image
from edit_r1.world.scene import HELDOUT_PAIRING, Scene, Split, scene_to_json
from edit_r1.world.tasks import (
    WorldTask,
    generator,
    judge_edits,
    reading_from_json,
    reading_to_json,
    sample_task,
    split_of_scene,
    world_task,
)

SPLITS: tuple[Split, ...] = get_args(Split)
COUNTS: dict[Split, int] = {"train": 4000, "val": 1000, "test": 2000, "heldout": 1500}


@pytest.fixture(scope="module")
def sampled() -> dict[Split, list[WorldTask]]:
    streams = {split: generator(0, split) for split in SPLITS}
    return {split: [sample_task(streams[split], split) for _ in range(COUNTS[split])] for split in SPLITS}


def shows_pairing(scenes: Sequence[Scene]) -> bool:
    return any((thing.colour, thing.shape) == HELDOUT_PAIRING for scene in scenes for _, thing in scene.things)


def simple_parts(operation: Operation) -> Sequence[Operation]:
    return operation.parts or (operation,)


def test_no_scene_is_in_two_splits(sampled: dict[Split, list[WorldTask]]) -> None:
    """`heldout` draws from the scenes of `test`; it shares them with nothing that is trained on."""
    scenes = {split: {scene_to_json(task.scene) for task in tasks} for split, tasks in sampled.items()}
    assert scenes["train"].isdisjoint(scenes["val"])
    assert (scenes["train"] | scenes["val"]).isdisjoint(scenes["test"] | scenes["heldout"])
    for split, tasks in sampled.items():
        owner = "test" if split == "heldout" else split
        assert {split_of_scene(task.scene) for task in tasks} == {owner}


def test_shares_of_the_splits() -> None:
    rng = generator(1, "train")
    from edit_r1.world.scene import sample_scene

    owners = [split_of_scene(sample_scene(rng)) for _ in range(4000)]
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert owners.count(split) / len(owners) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("split", SPLITS)
def test_sentences_use_phrasings_of_their_split(split: Split, sampled: dict[Split, list[WorldTask]]) -> None:
    """Every part matches a template of its split and none that only the other splits have."""
    other: Split = "train" if split in ("test", "heldout") else "test"
    for task in sampled[split][:600]:
        joint = next((j for j in JOINTS if j in task.instruction), None)
        texts = task.instruction.split(joint) if joint else [task.instruction]
        for text, part in zip(texts, simple_parts(task.operation), strict=True):
            assert any(_pattern(template).fullmatch(text) for template in phrasings(part.category, split))
            assert not any(_pattern(template).fullmatch(text) for template in phrasings(part.category, other))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_what_is_held_out_stays_out(split: Split, sampled: dict[Split, list[WorldTask]]) -> None:
    for task in sampled[split]:
        assert HELDOUT_CATEGORY not in {part.category for part in simple_parts(task.operation)}
        assert not shows_pairing([task.scene, task.operation.apply(task.scene)])


def test_heldout_tasks_show_what_is_held_out(sampled: dict[Split, list[WorldTask]]) -> None:
    kinds = [
        (task.operation.category == HELDOUT_CATEGORY, shows_pairing([task.scene, task.operation.apply(task.scene)]))
        for task in sampled["heldout"]
    ]
    assert (False, False) not in kinds
    assert {(True, False), (False, True), (True, True)} <= set(kinds)


@pytest.mark.parametrize("split", ["train", "test"])
def test_candidates_do_not_show_the_heldout_pairing(split: Split, sampled: dict[Split, list[WorldTask]]) -> None:
    """A collateral change may not recolour an X to purple, nor turn a purple thing to an X."""
    rng = generator(2, split)
    for task in sampled[split]:
        for fault in SCENE_FAULTS:
            assert not shows_pairing([candidate(rng, task.scene, task.operation, (fault,)).scene])


def test_test_phrasings_have_no_word_that_training_has_not() -> None:
    """What is new in `test` is the sentence, not its words; the held-out category has no training phrasing."""
    simple = [category for category in PHRASES if category != HELDOUT_CATEGORY]
    words = {
        split: {w for c in simple for text in phrasings(c, split) for w in text.split() if "{" not in w}
        for split in ("train", "test")
    }
    assert words["test"] <= words["train"]


def test_candidates_have_the_heldout_fault_only_in_heldout() -> None:
    rng = generator(3, "train")
    assert HELDOUT_FAULT not in {fault for _ in range(5000) for fault in draw_faults(rng)}


def test_streams_of_splits_differ_and_repeat() -> None:
    first = {split: sample_task(generator(5, split), split) for split in SPLITS}
    again = {split: sample_task(generator(5, split), split) for split in SPLITS}
    assert first == again
    assert len({scene_to_json(task.scene) for task in first.values()}) == len(SPLITS)


@pytest.mark.parametrize("measured", get_args(Measured))
def test_pairs_are_of_the_split_that_is_measured(measured: Measured, tmp_path: Path) -> None:
    """Settings are chosen on `val`, results are of `test`; both measure the same way."""
    make_world(WORLD.model_copy(update={"split": measured}), out=tmp_path / "world", seed=0, resume=False)
    pairs = list(read_pairs(tmp_path / "world" / TEST_PAIRS))
    assert {split_of_scene(world_task(pair.preference.task).scene) for pair in pairs} == {measured}
    assert len(pairs) == WORLD.test_pairs


@pytest.mark.parametrize("split", SPLITS)
def test_record_round_trip(split: Split, sampled: dict[Split, list[WorldTask]]) -> None:
    """Image, principles and meta carry the whole task; the source is read back as its scene."""
    tasks = sampled[split][:100]
    records = [task.record() for task in tasks]
    assert [world_task(record) for record in records] == tasks
    readings = read_images(np.stack([from_image(record.source) for record in records]))
    assert [reading.scene for reading in readings] == [task.scene for task in tasks]
    for task, record in zip(tasks, records, strict=True):
        assert record.instruction == task.instruction
        assert record.category == task.operation.category
        assert record.principles == tuple(claim.principle for claim in task.claims)


def test_reading_round_trip() -> None:
    task = sample_task(generator(6, "train"), "train")
    for defects in (frozenset[str](), frozenset({"noise", "grid"})):
        reading = Reading(task.scene, defects, 0.125)
        assert reading_from_json(reading_to_json(reading)) == reading


def test_judgement_of_images(sampled: dict[Split, list[WorldTask]]) -> None:
    """The goal succeeds, the source is a no-op and fails, one image per task."""
    tasks = sampled["val"][:50]
    goals = judge_edits(tasks, np.stack([from_image(_goal(task)) for task in tasks]))
    assert all(truth.success and not truth.noop for truth in goals)
    sources = judge_edits(tasks, np.stack([from_image(task.record().source) for task in tasks]))
    assert all(truth.noop and not truth.success for truth in sources)
    with pytest.raises(ValueError, match="zip"):
        judge_edits(tasks, np.zeros((1, 64, 64, 3)))


def _goal(task: WorldTask):
    from edit_r1.world.render import render, to_image

    return to_image(render(task.operation.apply(task.scene)))
