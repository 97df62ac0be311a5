"""The whole loop through the real command line, at a size that proves nothing but that every stage really runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edit_r1.world.render import render, to_image
from edit_r1.world.tasks import generator, sample_task

V = {"pairwise_accuracy", "tie_half", "ci95", "pairs", "traces", "check_accuracy", "failure_rate", "tie_rate"}
E = {"oracle_success", "ci95", "tasks", "oracle_follow", "oracle_keep", "oracle_quality", "reward", "noop_rate"}


def edit_r1(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a person would."""
    command = [str(Path(sys.executable).parent / "edit-r1"), *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke demo."""
    folder = tmp_path_factory.mktemp("demo")
    done = edit_r1("demo", "--preset", "smoke", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_report_holds_what_it_must(demo: Path) -> None:
    report: dict[str, Any] = json.loads((demo / "runs/demo/report.json").read_text())
    assert report["schema"] == 1
    assert report["preset"] == "smoke"
    assert set(report["verifier"]) == {"base", "cold_start", "gcpo"}
    assert set(report["editor"]) == {"base", "grpo"}
    assert all(set(v) == V for v in report["verifier"].values())
    assert all(set(e) == E for e in report["editor"].values())
    assert report["verifier"]["gcpo"]["pairs"] == 8
    page = (demo / "runs/demo/report.html").read_text()
    assert "<html" in page
    assert "data:image/png;base64," in page


def test_resuming_a_finished_demo_does_nothing_again(demo: Path) -> None:
    weights = demo / "runs/demo/gcpo/model/model.safetensors"
    before = weights.stat().st_mtime_ns
    again = edit_r1("demo", "--preset", "smoke", "--resume", cwd=demo)
    assert again.returncode == 0, again.stderr[-3000:]
    assert weights.stat().st_mtime_ns == before


def test_score_prints_principles_checks_and_a_score_or_says_why_not(demo: Path) -> None:
    task = sample_task(generator(0, "test"), "test")
    to_image(render(task.scene)).save(demo / "source.png")
    to_image(render(task.operation.apply(task.scene))).save(demo / "edited.png")
    arguments = ("score", "source.png", "edited.png", task.instruction, "--json", "--traces", "2")
    done = edit_r1(*arguments, cwd=demo)
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(done.stdout)
    assert [p["question"] for p in document["principles"]] == [c.principle.question for c in task.claims]
    assert (document["score"] is None) == (done.returncode == 1)
    assert document["traces"] == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("score", "missing.png", "missing.png", "remove the red circle"), "missing.png"),
        (("score", "text.png", "text.png", "remove the red circle"), "text.png"),
        (("score", "ok.png", "ok.png", "  "), "instruction"),
        (("score", "ok.png", "ok.png", "make it more poetic"), "grammar"),
        (("score", "ok.png", "ok.png", "remove the red circle", "--model", "empty"), "empty"),
        (("demo", "--set", "gcpo.step=4", "--out", "never"), "steps"),
        (("demo", "--preset", "smok", "--out", "never"), "smoke"),
        (("verifier", "gcpo", "--data", "empty", "--model", "empty", "--out", "never"), "empty"),
        (("evaluate", "editor", "--model", "empty", "--verifier", "empty", "--data", "empty"), "empty"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    """Exit code 2, one line that names the thing, and nothing left behind."""
    task = sample_task(generator(0, "test"), "test")
    to_image(render(task.scene)).save(tmp_path / "ok.png")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    done = edit_r1(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert named in lines[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == before
