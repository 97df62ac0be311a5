"""The tasks that an editor practises on, the groups that are recorded, and what the oracle says of edits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from edit_r1.data.store import write_tasks
from edit_r1.errors import UserError
from edit_r1.records import Edit, EditTask
from edit_r1.stages import EDITOR_TASKS
from edit_r1.training.editor_groups import best_and_worst
from edit_r1.training.editor_tasks import Tasks, edit_metrics, looks_unchanged, open_tasks, resized
from edit_r1.world.instructions import CATEGORIES
from edit_r1.world.render import render, to_image
from edit_r1.world.tasks import generator, sample_task, split_of_scene, world_task

NAN = float("nan")


def test_best_and_worst_groups_by_readable_mean() -> None:
    rewards = torch.tensor([[NAN, NAN], [3.0, NAN], [9.0, 1.0], [2.0, 2.0]])
    assert best_and_worst(rewards) == {"best": 2, "worst": 3}
    assert best_and_worst(rewards[:1]) == {}


def test_world_tasks_are_functions_of_their_index_and_of_their_split(tmp_path: Path) -> None:
    one, other = open_tasks(tmp_path, 0, 6), open_tasks(tmp_path, 1, 6)
    assert one.train(5).meta == open_tasks(tmp_path, 0, 2).train(5).meta
    assert one.train(5).meta != one.train(6).meta
    assert one.train(5).meta != other.train(5).meta
    assert {split_of_scene(world_task(one.train(index)).scene) for index in range(20)} == {"train"}
    assert {split_of_scene(world_task(task).scene) for task in one.probe} == {"val"}
    assert {one.train(index).category for index in range(60)} <= set(CATEGORIES) - {"material"}


def test_a_data_set_of_tasks_takes_the_place_of_the_world(tmp_path: Path) -> None:
    source = sample_task(generator(0, "train"), "train").record().source
    write_tasks(tmp_path / EDITOR_TASKS, [EditTask(source, f"task {i}", "x") for i in range(10)])
    found = open_tasks(tmp_path, 0, 48)
    assert [task.instruction for task in found.probe] == ["task 8", "task 9"]
    epochs = [[found.train(8 * epoch + i).instruction for i in range(8)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [f"task {i}" for i in range(8)]
    assert epochs[0] != epochs[1]
    metrics = edit_metrics([Edit(found.train(0), found.train(0).source, "copy", 0)])
    assert metrics == {"noop_rate": 1.0}  # the oracle knows nothing of these tasks


def test_sources_get_the_size_of_their_edits() -> None:
    """What the verifier compares with the edit is what the editor has seen; of the right size, the picture itself."""
    wide = EditTask(Image.new("RGB", (200, 100), "red"), "make it blue", "x")
    fitted = resized(Tasks(lambda _: wide, (wide,)), 64, 48)
    assert fitted.train(0).source.size == fitted.probe[0].source.size == (64, 48)
    same = replace(wide, source=Image.new("RGB", (64, 48)))
    assert resized(Tasks(lambda _: same, ()), 64, 48).train(0) is same


def test_a_damaged_data_set_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "editor_tasks").mkdir()
    with pytest.raises(UserError, match="editor_tasks is no data set"):
        open_tasks(tmp_path, 0, 4)


def test_oracle_metrics_of_right_and_untouched_edits(tmp_path: Path) -> None:
    """Two right edits and two copies: success 1/2, no-ops 1/2; copies keep everything and follow nothing."""
    records = [open_tasks(tmp_path, 0, 1).train(index) for index in range(4)]
    worlds = [world_task(record) for record in records]
    images = [to_image(render(world.operation.apply(world.scene))) for world in worlds[:2]]
    images += [record.source for record in records[2:]]
    metrics = edit_metrics([Edit(record, image, "x", 0) for record, image in zip(records, images, strict=True)])
    assert metrics["oracle_success"] == metrics["oracle_follow"] == metrics["noop_rate"] == 0.5
    assert metrics["oracle_keep"] == metrics["oracle_quality"] == 1.0


def test_looks_unchanged() -> None:
    source = Image.new("RGB", (64, 64), "gray")
    dot, patch = source.copy(), source.copy()
    dot.paste("red", (0, 0, 4, 4))  # 16 of 4096 pixels: 0.4%
    patch.paste("red", (0, 0, 6, 6))  # 36: 0.9%
    assert looks_unchanged(source, dot)
    assert not looks_unchanged(source, patch)
