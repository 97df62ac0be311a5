"""Where editor GRPO takes its tasks from, and what the oracle says of edits that the built-in world can judge.

The oracle's numbers are metrics. They never reach a reward.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from edit_r1.data.store import read_tasks
from edit_r1.errors import UserError
from edit_r1.images import to_array
from edit_r1.records import Edit, EditTask
from edit_r1.runs.run import Run
from edit_r1.stages import EDITOR_TASKS
from edit_r1.world.render import from_image
from edit_r1.world.tasks import Truth, generator, judge_edits, sample_task, world_task

TaskStream = Callable[[int], EditTask]
"""The i-th task of training: a function of i alone, so that a resumed run goes on with the same tasks."""

_STREAM = 31  # keeps this stream of randomness apart from those of the world's data sets
_PROBE_SHARE = 0.2
_CHANGED = 0.1  # a pixel counts as changed when a channel moved by more than this, in [0, 1]
_UNCHANGED_SHARE = 0.005


@dataclass(frozen=True)
class Tasks:
    """Tasks to train on and a fixed set to measure on; no task is in both."""

    train: TaskStream
    probe: tuple[EditTask, ...]


def open_tasks(data: Path, seed: int, probe: int) -> Tasks:
    """The tasks of the data set `data/editor_tasks` where there is one, else of the built-in world's train and val.

    A data set is passed through in epochs, each in another order; its last tasks, at most a fifth, are the probe.

    Raises:
        UserError: the data set cannot be read, lacks a column or is too small, or is still to be made.
    """
    if Run(data).config.get("inputs", {}).get("tasks") and not (data / EDITOR_TASKS).is_dir():
        raise UserError(f"{data} has no tasks yet; finish `edit-r1 editor tasks` with --resume")
    if (data / EDITOR_TASKS).is_dir():
        return _dataset_tasks(data / EDITOR_TASKS, seed, probe)
    rng = generator(seed, "val")
    held = tuple(sample_task(rng, "val").record() for _ in range(probe))
    return Tasks(lambda index: sample_task(np.random.default_rng([seed, _STREAM, index]), "train").record(), held)


def resized(tasks: Tasks, width: int, height: int) -> Tasks:
    """The same tasks with sources in the size of their edits, which an editor would give them anyway.

    So all look at the same picture. One of another shape is squashed, for the verifier as for the editor.
    """

    def fit(task: EditTask) -> EditTask:
        if task.source.size == (width, height):
            return task
        return replace(task, source=task.source.resize((width, height), Image.Resampling.LANCZOS))

    return Tasks(lambda index: fit(tasks.train(index)), tuple(fit(task) for task in tasks.probe))


def _dataset_tasks(path: Path, seed: int, probe: int) -> Tasks:
    tasks = read_tasks(path)
    held = min(probe, int(_PROBE_SHARE * len(tasks)))
    count = len(tasks) - held
    if not held:
        raise UserError(f"{path} has only {len(tasks)} tasks; give at least {round(1 / _PROBE_SHARE)}")

    def train(index: int) -> EditTask:
        epoch, position = divmod(index, count)
        order = np.random.default_rng([seed, _STREAM, epoch]).permutation(count)
        return tasks[int(order[position])]

    return Tasks(train, tuple(tasks[index] for index in range(count, len(tasks))))


def is_world_task(task: EditTask) -> bool:
    """Whether the task's `meta` holds a scene of the built-in world, so that the oracle can judge its edits."""
    try:
        return "scene" in json.loads(task.meta or "{}")
    except ValueError:
        return False


def oracle_truths(edits: Sequence[Edit]) -> list[Truth] | None:
    """The oracle's word on every edit; None unless all tasks are of the built-in world."""
    tasks = {id(edit.task): edit.task for edit in edits}
    if not all(is_world_task(task) for task in tasks.values()):
        return None
    known = {key: world_task(task) for key, task in tasks.items()}
    return judge_edits([known[id(edit.task)] for edit in edits], np.stack([from_image(edit.image) for edit in edits]))


def edit_metrics(edits: Sequence[Edit]) -> dict[str, float]:
    """Shares in [0, 1] of some edits: `noop_rate`, and `oracle_success|follow|keep|quality` in the built-in world.

    Follow, keep and quality: every principle of that category is met; success: every principle.
    """
    truths = oracle_truths(edits)
    if truths is None:
        return {"noop_rate": _share([looks_unchanged(edit.task.source, edit.image) for edit in edits])}
    metrics = {
        "noop_rate": _share([truth.noop for truth in truths]),
        "oracle_success": _share([truth.success for truth in truths]),
    }
    for category in ("follow", "keep", "quality"):
        metrics[f"oracle_{category}"] = _share(
            [
                all(
                    finding.met
                    for finding, principle in zip(truth.findings, edit.task.principles, strict=True)
                    if principle.category == category
                )
                for edit, truth in zip(edits, truths, strict=True)
            ]
        )
    return metrics


def looks_unchanged(source: Image.Image, edited: Image.Image) -> bool:
    """Whether an edit hardly differs from its source: less than 0.5% of the pixels moved by more than 0.1 (ours)."""
    before = source if source.size == edited.size else source.resize(edited.size, Image.Resampling.BICUBIC)
    moved = np.abs(to_array(edited) - to_array(before)).max(0) > _CHANGED
    return bool(moved.mean() < _UNCHANGED_SHARE)


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
