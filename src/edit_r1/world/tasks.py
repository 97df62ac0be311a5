"""Tasks of the built-in world, split without leaks, and their judgement by the oracle.

`train`, `val` and `test` differ by scene, and `test` by phrasing too; `heldout` alone has the category, the pairing of
colour and shape, and the fault that no picture of the others shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edit_r1.records import EditTask, Principle
from edit_r1.world.instructions import (
    CATEGORIES,
    HELDOUT_CATEGORY,
    Operation,
    parse_instruction,
    phrase,
    sample_operation,
)
from edit_r1.world.oracle import Reading, read_images
from edit_r1.world.principles import Claim, Finding, principles_for
from edit_r1.world.render import render, to_image
from edit_r1.world.scene import HELDOUT_PAIRING, Scene, Split, pick, sample_scene, scene_from_json, scene_to_json

_STREAM: dict[Split, int] = {"train": 0, "val": 1, "test": 2, "heldout": 3}
_TRAIN_CATEGORIES = tuple(c for c in CATEGORIES if c != HELDOUT_CATEGORY)


@dataclass(frozen=True)
class Truth:
    """The oracle's word on one image of a task."""

    findings: tuple[Finding, ...]
    reading: Reading
    noop: bool

    @property
    def success(self) -> bool:
        """Every principle is met."""
        return all(finding.met for finding in self.findings)


@dataclass(frozen=True)
class WorldTask:
    """A scene, what is to be done with it, and the words that say so."""

    scene: Scene
    operation: Operation
    instruction: str

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The principles with their truth conditions."""
        return principles_for(self.scene, self.operation)

    @property
    def principles(self) -> tuple[Principle, ...]:
        """What the verifier is asked."""
        return tuple(claim.principle for claim in self.claims)

    def judge(self, reading: Reading) -> Truth:
        """The truth of every claim for an image that was read."""
        findings = tuple(claim.judge(self.scene, reading) for claim in self.claims)
        return Truth(findings, reading, noop=reading.scene == self.scene)

    def record(self) -> EditTask:
        """The task as the rest of the system sees it; `meta` keeps the scene for the oracle."""
        return EditTask(
            source=to_image(render(self.scene)),
            instruction=self.instruction,
            category=self.operation.category,
            principles=self.principles,
            meta=json.dumps({"scene": scene_to_json(self.scene)}),
        )


def split_of_scene(scene: Scene) -> Split:
    """The split that owns a scene, by its hash: none is in two (70% train, 10% val, 20% test and heldout)."""
    share = hashlib.sha256(scene_to_json(scene).encode()).digest()[0] / 256
    return "train" if share < 0.7 else "val" if share < 0.8 else "test"


def generator(seed: int, split: Split) -> Generator:
    """The stream of randomness of a split."""
    return np.random.default_rng([seed, _STREAM[split]])


def _shows_pairing(scene: Scene, operation: Operation) -> bool:
    things = [t for s in (scene, operation.apply(scene)) for _, t in s.things]
    return any((t.colour, t.shape) == HELDOUT_PAIRING for t in things)


def sample_task(rng: Generator, split: Split, category: str | None = None) -> WorldTask:
    """A random task of a split; categories are equally likely.

    In `heldout` half of the tasks have the held-out category, and the others show the held-out pairing (the candidates
    of both also have the held-out fault).
    """
    heldout = split == "heldout"
    owner = "test" if heldout else split
    paired = heldout and bool(rng.random() < 0.5)
    while True:
        chosen = category or (HELDOUT_CATEGORY if heldout and not paired else pick(rng, _TRAIN_CATEGORIES))
        scene = sample_scene(rng, pairing=heldout)
        if split_of_scene(scene) != owner:
            continue
        operation = sample_operation(rng, scene, chosen, pairing=heldout)
        if operation is not None and (not paired or _shows_pairing(scene, operation)):
            return WorldTask(scene, operation, phrase(rng, operation, scene, split))


def world_task(task: EditTask) -> WorldTask:
    """The world task behind a record made by `WorldTask.record`."""
    scene = scene_from_json(json.loads(task.meta)["scene"])
    operation = parse_instruction(task.instruction, scene)
    assert operation is not None, f"not a task of the built-in world: {task.instruction!r}"
    return WorldTask(scene, operation, task.instruction)


def reading_to_json(reading: Reading) -> str:
    """Compact JSON of a reading."""
    values = {"scene": scene_to_json(reading.scene), "defects": sorted(reading.defects), "residual": reading.residual}
    return json.dumps(values)


def reading_from_json(text: str) -> Reading:
    """Inverse of `reading_to_json`."""
    raw = json.loads(text)
    return Reading(scene_from_json(raw["scene"]), frozenset(raw["defects"]), raw["residual"])


def judge_edits(tasks: Sequence[WorldTask], images: NDArray[np.floating]) -> list[Truth]:
    """The truth of every principle for images [B, 64, 64, 3] in [0, 1], one per task."""
    return [task.judge(reading) for task, reading in zip(tasks, read_images(images), strict=True)]
