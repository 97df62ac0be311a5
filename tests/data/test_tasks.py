"""Tasks of one's own through the real command line and over real HTTP: from a manifest to what editor GRPO takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.data.trace_bench import QUESTIONS, instruction
from tests.verifier.chat_server import answer, serving
from typer.testing import CliRunner, Result

from edit_r1.cli.main import app
from edit_r1.config import load_recipe
from edit_r1.data.store import read_tasks
from edit_r1.errors import UserError
from edit_r1.records import EditTask
from edit_r1.stages import EditConfig, EditsConfig, SampleConfig, TasksConfig
from edit_r1.training.editor_tasks import open_tasks

NAMED = answer(json.dumps(QUESTIONS))


class Bench:
    """Pictures of one colour each, a manifest, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"

    def line(self, shade: int, wish: str, **more: Any) -> dict[str, Any]:
        """A task on the picture of a shade."""
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(self.folder / f"{shade}.png")
        return {"source": f"{shade}.png", "instruction": wish, "principles": QUESTIONS, **more}

    def manifest(self, *lines: dict[str, Any]) -> None:
        (self.folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")

    def run(self, *more: object, url: str = "") -> Result:
        settings = {"base_url": url, "model": "chat", "concurrency": 1, "retries": 0} if url else {}
        flags = [part for key, value in settings.items() for part in ("--set", f"decomposer.{key}={value}")]
        arguments = ["--tasks", self.folder / "tasks.jsonl", "--out", self.out, *more]
        return CliRunner().invoke(app, ["editor", "tasks", *flags, *map(str, arguments)])

    def kept(self) -> list[EditTask]:
        return list(read_tasks(self.out / "editor_tasks"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def last_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1].removeprefix("error: ")


def test_a_manifest_becomes_what_the_editor_practises_on(bench: Bench) -> None:
    """Thirteen lines, one of them twice: twelve tasks on six pictures in a drawn order, those of a picture together.

    Editor GRPO holds back the last fifth of them, two.
    """
    lines = [bench.line(10 * k, f"wish {n}", category="color") for n in range(2) for k in range(1, 7)]
    bench.manifest(*lines, lines[3])
    result = bench.run("--seed", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{bench.out}: 12 tasks on 6 images, of 13 in all",
        f"dropped: duplicate 1 (see {bench.out}/summary.json)",
    ]
    kept = bench.kept()
    shades = [str(task.source.getpixel((0, 0))) for task in kept]
    assert shades[::2] == shades[1::2]
    assert set(shades) == {str((10 * k, 0, 0)) for k in range(1, 7)}
    assert shades[::2] != [str((10 * k, 0, 0)) for k in range(1, 7)]
    assert {task.category for task in kept} == {"color"}
    assert [p.question for p in kept[0].principles] == [q["question"] for q in QUESTIONS]
    found = open_tasks(bench.out, 0, 48)
    assert [task.instruction for task in found.probe] == [task.instruction for task in kept[-2:]]
    practised = {(task.source.getpixel((0, 0)), task.instruction) for task in map(found.train, range(10))}
    assert practised == {(task.source.getpixel((0, 0)), task.instruction) for task in kept[:-2]}


def test_principles_that_are_missing_are_asked_for_until_they_are_there(bench: Bench) -> None:
    """Of four tasks one brings its own. The server names one, dies, comes back, and says nothing useful of the last."""
    bare = {"principles": None}
    bench.manifest(bench.line(10, "own"), *(bench.line(s, f"wish {s}", **bare) for s in (20, 30, 40)))
    assert "line 2 has no principles, and there is no [tasks.decomposer]" in last_line(bench.run())
    patience = ("--set", "give_up_after=1")
    with serving(lambda request, number: NAMED if number == 0 else (503, "going down")) as server:
        line = last_line(bench.run(*patience, url=server.url))
        url, port = server.url, server.port
    assert line.startswith("2 answers are missing (principles 2: status 503")
    assert not (bench.out / "editor_tasks").exists()
    with pytest.raises(UserError, match="out has no tasks yet; finish `edit-r1 editor tasks` with --resume"):
        open_tasks(bench.out, 0, 4)  # and not the built-in world's

    def reply(request: dict[str, Any], number: int) -> Any:
        return answer("I cannot.") if instruction(request) == "wish 40" else NAMED

    with serving(reply, port) as server:
        result = bench.run(*patience, "--resume", url=url)
        assert result.exit_code == 0, result.output
        assert [instruction(request) for request in server.requests] == ["wish 40", "wish 30"]  # never asked first
    assert sorted(task.instruction for task in bench.kept()) == ["own", "wish 20", "wish 30"]
    assert all(len(task.principles) == 3 for task in bench.kept())
    counts = json.loads((bench.out / "summary.json").read_text())
    assert counts["decomposer"] == {"asked": 3, "readable": 2, "failures": {"bad_answer": 1}}
    assert counts["left_out"] == {f"{bench.folder}/tasks.jsonl line 4": "no principles (bad_answer: I cannot.)"}
    bench.manifest(bench.line(10, "own"))  # other lines: the finished run goes on
    assert bench.run(*patience, "--resume", url=url).exit_code == 0
    assert [task.instruction for task in bench.kept()] == ["own"]


def test_tasks_without_principles_are_left_out_on_demand(bench: Bench) -> None:
    """The server refuses one of two: with --finish the other is written, and the refused one is named."""
    bench.manifest(*(bench.line(shade, f"wish {shade}", principles=None) for shade in (10, 20)))
    refuse = (400, "not this picture")
    with serving(lambda request, number: refuse if instruction(request) == "wish 20" else NAMED) as server:
        result = bench.run("--finish", url=server.url)
    assert result.exit_code == 0, result.output
    assert [task.instruction for task in bench.kept()] == ["wish 10"]
    [(place, why)] = json.loads((bench.out / "summary.json").read_text())["left_out"].items()
    assert place.endswith("line 2")
    assert why.startswith("no principles (engine: status 400")
    assert "dropped: no_principles 1" in result.stdout


def test_what_a_user_can_mend(bench: Bench) -> None:
    """Every mistake is one line that names it, and no run is begun."""
    cases = [
        (bench.line(10, "  "), "line 1: instruction is empty"),
        (bench.line(10, "wish", picture="x"), "line 1: unknown key 'picture'"),
        (bench.line(10, "wish") | {"source": "none.png"}, "line 1: no image at"),
    ]
    for line, said in cases:
        bench.manifest(line)
        assert said in last_line(bench.run())
    bench.manifest(bench.line(10, "wish"), bench.line(10, "wish ", principles=QUESTIONS[:1]))
    assert "line 2 repeats the task of" in last_line(bench.run())
    (bench.folder / "10.png").write_text("no image")
    bench.manifest({"source": "10.png", "instruction": "wish", "principles": QUESTIONS})
    assert "is not an image that can be read" in last_line(bench.run())
    assert not bench.out.exists()


def test_the_shipped_recipes() -> None:
    """The sections of the commands are there, and are what the documents say."""
    assert load_recipe(TasksConfig, "qwen_vl/tasks", section="tasks").decomposer is None
    assert load_recipe(EditsConfig, "qwen_vl/edits", section="edits").template == "verify"
    assert load_recipe(SampleConfig, "default", section="sample").steps == 5
    for preset in ("default", "smoke", "full"):
        assert load_recipe(EditConfig, preset, section="edit") == EditConfig()
    assert load_recipe(EditConfig, "qwen_vl/edit", section="edit").template == "verify"
    for name in ("flux_kontext", "qwen_image_edit"):
        assert load_recipe(SampleConfig, f"{name}/gpus_1", section="sample").height == 512
