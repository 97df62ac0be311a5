"""Evaluation of editors on a random tiny Kontext, an editor that copies and one that knows the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edit_r1.editors.tiny import TinyEditorSize, build_tiny_kontext
from edit_r1.evaluation import editor as evaluation
from edit_r1.evaluation.results import EditorResult, read_result
from edit_r1.records import EditTask
from edit_r1.runs.run import Run
from edit_r1.stages import EvaluateConfig, WorldConfig
from edit_r1.verifier.engines.scripted import ScriptedEngine
from edit_r1.verifier.prompting import Prompt
from edit_r1.verifier.verifier import Verifier
from edit_r1.world.render import from_image, render
from edit_r1.world.tasks import Truth, WorldTask, judge_edits, split_of_scene, world_task
from edit_r1.world.words import vocabulary

CONFIG = EvaluateConfig(tasks=6, editor_steps=2, examples=4)


class FakeEditor:
    """Stands in for a loaded editor; `edit` below asks it."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.device = "cpu"

    def to(self, device: str) -> FakeEditor:
        self.device = device
        return self


def fake_edit(editor: FakeEditor, tasks: Sequence[EditTask], steps: int, seed: int) -> Tensor:
    """`copy` changes nothing, `right` does what is asked."""
    worlds = [world_task(task) for task in tasks]
    scenes = [world.operation.apply(world.scene) if editor.name == "right" else world.scene for world in worlds]
    return torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2)


def script(prompt: Prompt, sample: int, seed: int) -> str:
    """Every check met, and a score that tells a copy from a change; one trace in five is unreadable."""
    source, edited = (from_image(image) for image in prompt.images)
    if float(source.mean() * 1000) % 5 < 1:
        return "nonsense"
    questions = [line for line in prompt.text.splitlines() if line.startswith("[")]
    checks = "".join(f"[{k}] clean => yes\n" for k in range(1, len(questions) + 1))
    return f"{checks}<average> 1.0 </average>\n<score> {2.0 if np.array_equal(source, edited) else 9.0} </score>"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "load_verifier", lambda *_args, **_kwargs: Verifier(ScriptedEngine(script)))


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, scripted: None) -> None:
    monkeypatch.setattr(evaluation, "load_editor", FakeEditor)
    monkeypatch.setattr(evaluation, "edit", fake_edit)


def measure(
    out: Path, models: dict[str, Path], resume: bool = False, data: Path = Path("world"), **changes: Any
) -> dict[str, Any]:
    config = CONFIG.model_copy(update=changes)
    return evaluation.evaluate(config, data=data, models=models, verifier=Path("v"), out=out, seed=0, resume=resume)


def test_a_copier_and_a_perfect_editor(tmp_path: Path, faked: None) -> None:
    """A copy keeps everything, does nothing and is no success; the rendered goal is right in every point."""
    stages = measure(tmp_path / "e", {"base": Path("copy"), "grpo": Path("right")}, tasks=60, examples=6)
    base, grpo = stages["base"], stages["grpo"]
    assert base["tasks"] == grpo["tasks"] == 60
    assert (base["oracle_success"], base["oracle_follow"], base["noop_rate"]) == (0.0, 0.0, 1.0)
    assert (base["oracle_keep"], base["oracle_quality"], base["reward"]) == (1.0, 1.0, 2.0)  # failures are left out
    assert (grpo["oracle_success"], grpo["noop_rate"], grpo["reward"]) == (1.0, 0.0, 9.0)
    assert grpo["ci95"] == [1.0, 1.0]

    result = read_result(EditorResult, tmp_path / "e/editor.json")
    assert result is not None
    assert sum(numbers.tasks for numbers in result.by_category["grpo"].values()) == 60
    assert len(result.examples) == 6
    assert len({example.category for example in result.examples}) == 6  # the categories take turns
    for example in result.examples:
        assert not example.edits["base"].success
        assert example.edits["grpo"].success
        for check in example.edits["grpo"].checks:
            assert check.truth is True
        for name in (example.source, example.goal, example.edits["base"].image, example.edits["grpo"].image):
            with Image.open(tmp_path / "e" / str(name)) as image:
                assert image.size == (64, 64)
    unreadable = [example.edits["base"] for example in result.examples if example.edits["base"].score is None]
    assert all(edit.checks == () for edit in unreadable)


def test_the_text_has_a_line_per_editor(tmp_path: Path, faked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.assets, "EDITOR", Path("copy"))
    places: dict[str, Any] = {"data": Path("world"), "verifier": Path("v"), "out": tmp_path / "e"}
    text = evaluation.run(CONFIG, **places, model=Path("right"), seed=0, resume=False).splitlines()
    assert text[1].split()[:6] == ["base", "0.0%", "0.0%", "100.0%", "100.0%", "100.0%"]
    assert text[2].split() == ["grpo", "100.0%", "100.0%", "100.0%", "100.0%", "0.0%", "9.00", "100.0%", "to", "100.0%"]


@pytest.mark.parametrize("there", [True, False])
def test_editors_sample_on_the_gpu_where_there_is_one(
    tmp_path: Path, faked: None, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    used: list[str] = []

    def noted(editor: FakeEditor, tasks: Sequence[EditTask], steps: int, seed: int) -> Tensor:
        used.append(editor.device)
        return fake_edit(editor, tasks, steps, seed)

    monkeypatch.setattr(evaluation, "edit", noted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    measure(tmp_path / "e", {"base": Path("copy")})
    assert used == ["cuda" if there else "cpu"]


def test_a_finished_measurement_is_not_repeated(tmp_path: Path, faked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure(tmp_path / "e", {"base": Path("copy")})
    monkeypatch.setattr(evaluation, "load_editor", None)
    assert measure(tmp_path / "e", {"base": Path("copy")}, resume=True) == first


def test_tasks_are_held_out_and_follow_the_seed() -> None:
    tasks = evaluation.held_out_tasks(20, 0)
    assert {split_of_scene(task.scene) for task in tasks} == {"test"}
    assert [task.instruction for task in tasks] == [task.instruction for task in evaluation.held_out_tasks(20, 0)]
    assert [task.instruction for task in tasks] != [task.instruction for task in evaluation.held_out_tasks(20, 1)]


def test_the_world_says_which_split_is_measured(tmp_path: Path, faked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are chosen on `val`: a world made with that split is measured on its tasks, any other on `test`."""
    seen: list[set[str]] = []

    def noted(tasks: Sequence[WorldTask], images: Any) -> list[Truth]:
        seen.append({split_of_scene(task.scene) for task in tasks})
        return judge_edits(tasks, images)

    monkeypatch.setattr(evaluation, "judge_edits", noted)
    Run.open(tmp_path / "world", WorldConfig(split="val"))
    measure(tmp_path / "a", {"base": Path("copy")}, data=tmp_path / "world")
    measure(tmp_path / "b", {"base": Path("copy")})
    assert seen == [{"val"}, {"test"}]


def test_choose_mixes_what_changed() -> None:
    """Twelve: six gained, two lost, two right, two wrong; kinds that are missing leave their place to others."""
    before = [False] * 10 + [True] * 20 + [False] * 10
    after = [True] * 10 + [False] * 10 + [True] * 10 + [False] * 10
    categories = ["a", "b"] * 20
    chosen = evaluation.choose(before, after, categories, 12)
    assert [sum(low <= i < low + 10 for i in chosen) for low in (0, 10, 20, 30)] == [6, 2, 2, 2]
    assert {categories[i] for i in chosen if 10 <= i < 20} == {"a", "b"}
    assert evaluation.choose([True] * 5, [True] * 5, ["a"] * 5, 4) == [0, 1, 2, 3]
    assert evaluation.choose([True], [True], ["a"], 4) == [0]


def test_the_same_editor_twice_makes_the_same_edits(tmp_path: Path, scripted: None) -> None:
    """The real adapter on a random tiny pipeline: stages differ by their weights, not by tasks or noise."""
    size = TinyEditorSize(
        width=32, head_dim=16, double_blocks=1, single_blocks=1, text_width=16, vae_channels=(8, 8, 8)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline: Any = build_tiny_kontext(size, vocabulary())
    pipeline.vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    pipeline.save_pretrained(tmp_path / "model")
    stages = measure(tmp_path / "e", {"base": tmp_path / "model", "grpo": tmp_path / "model"}, tasks=3)
    assert stages["base"] == stages["grpo"]
    example = json.loads((tmp_path / "e/editor.json").read_text())["examples"][0]
    images = [(tmp_path / "e" / example["edits"][stage]["image"]).read_bytes() for stage in ("base", "grpo")]
    assert images[0] == images[1]


def test_a_verifier_that_is_not_asked_about_principles_says_nothing_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its trace is a score alone; the examples have no checks, whatever the oracle knows."""
    blunt = Verifier(ScriptedEngine(lambda *_: "<score> 7.0 </score>"), checklist=False)
    monkeypatch.setattr(evaluation, "load_verifier", lambda *_args, **_kwargs: blunt)
    monkeypatch.setattr(evaluation, "load_editor", FakeEditor)
    monkeypatch.setattr(evaluation, "edit", fake_edit)
    Run.open(tmp_path / "world", WorldConfig())
    places: dict[str, Any] = {"data": tmp_path / "world", "models": {"base": tmp_path / "copy"}, "verifier": tmp_path}
    found = evaluation.evaluate(CONFIG, **places, out=tmp_path / "out", seed=0, resume=False, checklist=False)
    assert found["base"]["reward"] == 7.0
    shown = json.loads((tmp_path / "out/editor.json").read_text())["examples"]
    assert [example["edits"]["base"]["checks"] for example in shown] == [[]] * CONFIG.examples
