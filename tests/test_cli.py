"""The command line: quick help, one clear line for every mistake, and the right values at the right functions."""

import errno
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import edit_r1.stages
from edit_r1.cli.main import app
from edit_r1.config import Config
from edit_r1.errors import UserError
from edit_r1.records import Check, EditTask, Failure, Principle, Provenance, Verdict
from edit_r1.stages import EditConfig

COMMANDS: tuple[tuple[str, ...], ...] = (
    (),
    ("demo",),
    ("doctor",),
    ("world",),
    ("world", "make"),
    ("verifier",),
    ("verifier", "traces"),
    ("verifier", "pairs"),
    ("verifier", "cold-start"),
    ("verifier", "gcpo"),
    ("editor",),
    ("edit",),
    ("editor", "tasks"),
    ("editor", "sample"),
    ("editor", "grpo"),
    ("editor", "export"),
    ("evaluate",),
    ("evaluate", "verifier"),
    ("evaluate", "editor"),
    ("evaluate", "calibration"),
    ("evaluate", "edits"),
    ("evaluate", "sanity"),
    ("evaluate", "best-of"),
    ("evaluate", "claims"),
    ("evaluate", "editor-claims"),
    ("report",),
    ("score",),
    ("pretrain",),
    ("pretrain", "verifier"),
    ("pretrain", "editor"),
)
STAGES = {
    # command: (module, section, class, what it needs besides the common options)
    ("world", "make"): ("edit_r1.data.make_world", "world", "WorldConfig", ()),
    ("verifier", "cold-start"): ("edit_r1.training.cold_start", "cold_start", "ColdStartConfig", ("data", "model")),
    ("verifier", "gcpo"): ("edit_r1.training.gcpo", "gcpo", "GcpoConfig", ("data", "model")),
    ("editor", "grpo"): (
        "edit_r1.training.editor_grpo",
        "editor_grpo",
        "EditorGrpoConfig",
        ("data", "model", "verifier"),
    ),
    ("evaluate", "verifier"): ("edit_r1.evaluation.verifier", "evaluate", "EvaluateConfig", ("data", "model")),
    ("evaluate", "editor"): ("edit_r1.evaluation.editor", "evaluate", "EvaluateConfig", ("data", "model", "verifier")),
    ("evaluate", "sanity"): ("edit_r1.evaluation.sanity", "sanity", "SanityConfig", ("data", "model")),
    ("pretrain", "verifier"): (
        "edit_r1.training.pretrain_verifier",
        "pretrain_verifier",
        "PretrainVerifierConfig",
        ("model",),
    ),
    ("pretrain", "editor"): ("edit_r1.training.pretrain_editor", "pretrain_editor", "PretrainEditorConfig", ()),
}


class StageConfig(Config):
    steps: int = 3


@dataclass
class Calls:
    """Stand-ins for the functions behind the commands, which have tests of their own."""

    patch: pytest.MonkeyPatch
    made: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def stand_in(self, module: str, function: str, answer: Callable[[], Any] = lambda: None) -> None:
        def record(*arguments: Any, **options: Any) -> Any:
            self.made.append((arguments, options))
            return answer()

        fake = ModuleType(module)
        vars(fake)[function] = record
        self.patch.setitem(sys.modules, module, fake)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line sets defaults for threads; they must not outlive a test."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ.get(name, "x"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_line(result: Result) -> str:
    """The one line that a user's mistake costs."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


# Help


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "edit-r1")
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Usage: edit-r1 {' '.join(command)}".rstrip() in " ".join(result.stdout.split())
    is_group = command in {(), ("world",), ("verifier",), ("editor",), ("evaluate",), ("pretrain",)}
    assert ("Commands:" in result.stdout) == is_group
    if not is_group:
        assert f"Examples:\n    edit-r1 {' '.join(command)}" in result.stdout


def test_help_imports_nothing_heavy() -> None:
    """In a fresh process: every help text, then a look at what has been loaded."""
    code = f"""
import sys
from typer.testing import CliRunner
from edit_r1.cli.main import app
for command in {COMMANDS!r}:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
heavy = ("torch", "transformers", "diffusers", "datasets", "trl", "peft", "accelerate", "numpy", "PIL")
print([name for name in heavy if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("option", ["--data", "--verifier", "--preset", "--set"])
def test_mistakes_are_reported_before_torch_is_loaded(option: str, tmp_path: Path) -> None:
    value = {"--preset": "smok", "--set": "zzz=1"}.get(option, str(tmp_path / "none"))
    code = f"""
import sys
from typer.testing import CliRunner
from edit_r1.cli.main import app
result = CliRunner().invoke(app, ["editor", "grpo", "--data", {str(tmp_path)!r}, {option!r}, {value!r}])
print(result.exit_code, "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "2 False"


def given_input(folder: Path) -> Path:
    """A folder that passes for a model, and for a world with every data set."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name in ("edits", "pairs_train", "pairs_test", "pairs_heldout", "probe"):
        (folder / name).mkdir()
        (folder / name / "dataset_info.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("command", "lacking"),
    [
        ("verifier cold-start", "edits"),
        ("verifier gcpo", "pairs_train"),
        ("evaluate verifier", "pairs_test"),
        ("evaluate editor", "edits"),
    ],
)
def test_a_folder_that_is_no_world_is_named_and_nothing_is_begun(command: str, lacking: str, tmp_path: Path) -> None:
    data, out = given_input(tmp_path / "data"), tmp_path / "out"
    (data / lacking / "dataset_info.json").unlink()
    line = one_line(run(*command.split(), "--data", data, "--out", out))
    assert line.startswith(f"--data {data} has no data set {lacking}; make one with")
    assert not out.exists()


def test_a_run_directory_stands_for_its_model(tmp_path: Path, calls: Calls) -> None:
    calls.patch.setattr(edit_r1.stages, "GcpoConfig", StageConfig)
    calls.stand_in("edit_r1.training.gcpo", "run")
    given_input(tmp_path / "cold_start" / "model")
    data = given_input(tmp_path / "data")
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[gcpo]\n")
    for given in ("cold_start", "cold_start/model"):
        result = run("verifier", "gcpo", "--recipe", recipe, "--data", data, "--model", tmp_path / given)
        assert result.exit_code == 0, result.output
        assert calls.made[-1][1]["model"] == tmp_path / "cold_start" / "model"
    unfinished = ("verifier", "gcpo", "--recipe", recipe, "--data", data, "--model", tmp_path / "cold_start")
    (tmp_path / "cold_start" / "environment.json").write_text("{}")
    assert one_line(run(*unfinished)).endswith("cold_start is a run that has not ended; go on with it first")
    (tmp_path / "cold_start" / "done.json").write_text("{}")
    assert run(*unfinished).exit_code == 0


def test_version() -> None:
    assert run("--version").stdout == f"edit-r1 {importlib.metadata.version('edit-r1')}\n"


def test_the_installed_command(tmp_path: Path) -> None:
    """The entry point itself, in a process: exit code 2 and one line on standard error."""
    command = [sys.executable, "-m", "edit_r1.cli.main", "score", str(tmp_path / "no.png"), "b.png", "make it red"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == f"error: no image at {tmp_path}/no.png; check the path\n"


# Stages


@pytest.mark.parametrize("command", list(STAGES), ids=" ".join)
def test_stages_get_their_recipe_and_options(command: tuple[str, str], tmp_path: Path, calls: Calls) -> None:
    module, section, config_class, needs = STAGES[command]
    calls.patch.setattr(edit_r1.stages, config_class, StageConfig)
    calls.stand_in(module, "make_world" if command == ("world", "make") else "run")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f"[{section}]\nsteps = 4\n")
    inputs: list[object] = []
    expected: dict[str, object] = {}
    for name in needs:
        folder = given_input(tmp_path / name)
        inputs += [f"--{name}", folder]
        expected[name] = folder
    out = tmp_path / "out"
    result = run(*command, "--recipe", recipe, "--seed", 7, "--out", out, "--resume", *inputs)
    assert result.exit_code == 0, result.output
    result = run(*command, "--preset", recipe, "--set", "steps=5", "--set", "steps=6", "--out", out, *inputs)
    assert result.exit_code == 0, result.output
    assert calls.made == [
        ((StageConfig(steps=4),), {"out": out, "seed": 7, "resume": True, **expected}),
        ((StageConfig(steps=6),), {"out": out, "seed": 0, "resume": False, **expected}),
    ]


@pytest.mark.parametrize("command", list(STAGES), ids=" ".join)
def test_stages_report_unknown_keys_and_missing_inputs(command: tuple[str, str], tmp_path: Path, calls: Calls) -> None:
    module, section, config_class, needs = STAGES[command]
    calls.patch.setattr(edit_r1.stages, config_class, StageConfig)
    calls.stand_in(module, "make_world" if command == ("world", "make") else "run")
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f"[{section}]\nsteps = 4\n")
    inputs: list[object] = []
    for name in needs:
        inputs += [f"--{name}", given_input(tmp_path / name)]
    line = one_line(run(*command, "--recipe", recipe, "--set", "step=1", *inputs))
    assert "unknown key 'step'; did you mean 'steps'?" in line
    for missing in needs:
        given: list[object] = []
        for name in needs:
            folder = tmp_path / (name if name != missing else "nowhere")
            given += [f"--{name}", folder]
        line = one_line(run(*command, "--recipe", recipe, *given))
        assert line.startswith(f"--{missing} {tmp_path}/nowhere does not exist; ")
    assert calls.made == []


def test_demo(tmp_path: Path, calls: Calls) -> None:
    calls.stand_in("edit_r1.evaluation.demo", "run_demo", lambda: tmp_path / "report.html")
    result = run("demo", "--preset", "smoke", "--seed", 1, "--out", tmp_path, "--resume", "--set", "gcpo.steps=2")
    assert result.stdout == f"report: {tmp_path}/report.html\n"
    options = {"out": tmp_path, "seed": 1, "resume": True, "overrides": ["gcpo.steps=2"]}
    assert calls.made == [(("smoke",), options)]
    run("demo")
    assert calls.made[1] == (
        ("default",),
        {"out": Path("runs/demo"), "seed": 0, "resume": False, "overrides": []},
    )


def test_report(tmp_path: Path, calls: Calls) -> None:
    calls.stand_in("edit_r1.evaluation.report", "write_report", lambda: tmp_path / "report.html")
    assert one_line(run("report", tmp_path / "none")).endswith("make one with `edit-r1 demo`, or give its folder")
    assert run("report", tmp_path).stdout == f"report: {tmp_path}/report.html\n"
    assert calls.made == [((tmp_path,), {})]


# Errors


def failing(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def test_a_users_error_is_one_line(calls: Calls) -> None:
    calls.stand_in("edit_r1.evaluation.demo", "run_demo", failing(UserError("two\n  lines; mend it")))
    assert one_line(run("demo")) == "two lines; mend it"


AGAIN = "run the same command again, with --resume where it has that option"


def test_ctrl_c_says_how_to_go_on(calls: Calls) -> None:
    calls.stand_in("edit_r1.evaluation.demo", "run_demo", failing(KeyboardInterrupt()))
    result = run("demo")
    assert (result.exit_code, result.stderr) == (130, f"interrupted; {AGAIN}\n")


def test_a_full_disk_is_one_line(calls: Calls) -> None:
    calls.stand_in("edit_r1.evaluation.demo", "run_demo", failing(OSError(errno.ENOSPC, "No space left on device")))
    assert one_line(run("demo")) == f"the disk is full; free some space and {AGAIN}"


def test_a_full_gpu_is_one_line(calls: Calls) -> None:
    calls.stand_in("edit_r1.evaluation.demo", "run_demo", failing(torch.OutOfMemoryError("CUDA out of memory")))
    assert (
        one_line(run("demo")) == "the GPU's memory is full; lower micro_batch, `edit-r1 doctor RECIPE` says what fits"
    )


def test_our_own_mistakes_are_not_hidden(calls: Calls) -> None:
    calls.stand_in("edit_r1.evaluation.demo", "run_demo", failing(ZeroDivisionError("ours")))
    result = run("demo")
    assert isinstance(result.exception, ZeroDivisionError)
    calls.stand_in("edit_r1.evaluation.demo", "run_demo", failing(FileNotFoundError(errno.ENOENT, "ours")))
    assert isinstance(run("demo").exception, FileNotFoundError)
    calls.stand_in("edit_r1.evaluation.demo", "run_demo", failing(RuntimeError("ours")))
    assert isinstance(run("demo").exception, RuntimeError)


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--seed", "x"], ["--sed", "1"], ["extra"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = run("demo", *arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr


# Score


PRINCIPLES = (Principle("Is the circle blue?", "follow"), Principle("Is the rest the same?", "keep"))
PROVENANCE = Provenance("tiny", "r1", "h", "{}", 64)


def verdict(score: float, *met: bool) -> Verdict:
    pairs = zip(PRINCIPLES, met, strict=True)
    checks = tuple(Check(p, yes, f"because\x1b[31m {score}", (1, 2, 3, 4) if yes else None) for p, yes in pairs)
    return Verdict(checks, score, f"trace {score}", PROVENANCE)


@dataclass
class Judgement:
    verdicts: tuple[Verdict | Failure, ...]
    score: float | None
    spread: float | None


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    before, after = tmp_path / "before.png", tmp_path / "after.png"
    Image.new("RGB", (4, 4), "red").save(before)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(after)
    return before, after


def scored(calls: Calls, judgement: Judgement) -> None:
    task = EditTask(Image.new("RGB", (4, 4)), "make it blue", "colour", PRINCIPLES)
    calls.stand_in("edit_r1.evaluation.score", "score_edit", lambda: (task, judgement))


MIXED = Judgement(
    (verdict(2.0, False, True), verdict(8.0, True, True), Failure("no_score", "..."), verdict(8.0, True, True)),
    6.0,
    2.83,
)


def test_score_for_people(calls: Calls, pictures: tuple[Path, Path]) -> None:
    """The mean is 6: the trace shown is the first with 8, which is nearer than 2."""
    scored(calls, MIXED)
    result = run("score", *pictures, " make it blue ", "--traces", 4, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "[1] follow   Is the circle blue?",
        "    yes (2 of 3 yes): because [31m 8.0",
        "[2] keep     Is the rest the same?",
        "    yes (3 of 3 yes): because [31m 8.0",
        "1 of 4 traces could not be read (no_score)",
        "score 6.0 of 10 (mean of 3, spread 2.8)",
    ]
    ((before, after, instruction, config), options) = calls.made[0]
    assert (before.getpixel((0, 0)), after.getpixel((0, 0))) == ((255, 0, 0), (255, 255, 255))
    assert (instruction, options) == ("make it blue", {"model": None, "traces": 4, "seed": 3})
    assert config == EditConfig()
    assert run("score", *pictures, "make it blue", "--preset", "qwen_vl/edit", "--set", "max_tokens=9").exit_code == 0
    ((*_, config), _) = calls.made[1]
    assert (config.template, config.max_tokens) == ("verify", 9)


def test_score_for_programs(calls: Calls, pictures: tuple[Path, Path]) -> None:
    scored(calls, MIXED)
    document = json.loads(run("score", *pictures, "make it blue", "--json").stdout)
    assert {key: document[key] for key in ("schema", "score", "spread", "traces", "failures")} == {
        "schema": 1,
        "score": 6.0,
        "spread": 2.83,
        "traces": 4,
        "failures": 1,
    }
    assert document["principles"][1] == {"question": "Is the rest the same?", "category": "keep", "weight": 1.0}
    assert document["verdicts"][0]["checks"][1] == {
        "question": "Is the rest the same?",
        "met": True,
        "reason": "because\x1b[31m 2.0",
        "box": [1, 2, 3, 4],
    }
    assert document["verdicts"][2] == {"failure": "no_score", "text": "..."}


def test_no_readable_trace_is_no_score(calls: Calls, pictures: tuple[Path, Path]) -> None:
    scored(calls, Judgement((Failure("truncated", "x"), Failure("no_score", "y")), None, None))
    result = run("score", *pictures, "make it blue")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-2:] == ["2 of 2 traces could not be read (no_score, truncated)", "no score"]
    result = run("score", *pictures, "make it blue", "--json")
    assert (result.exit_code, json.loads(result.stdout)["score"]) == (1, None)
    gone = Failure("unreachable", "no answer from http://127.0.0.1:8000/v1/: ConnectError\x1b[31m")
    scored(calls, Judgement((gone,), None, None))
    lines = run("score", *pictures, "make it blue").stdout.splitlines()
    assert "the verifier gave no answer: no answer from http://127.0.0.1:8000/v1/: ConnectError [31m" in lines


def test_score_refuses_bad_input(calls: Calls, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    scored(calls, MIXED)
    assert one_line(run("score", *pictures, "  ")).startswith("the instruction is empty; say what was asked for")
    assert one_line(run("score", pictures[0], tmp_path / "no.png", "x")).startswith(f"no image at {tmp_path}/no.png")
    line = one_line(run("score", *pictures, "x", "--model", tmp_path / "none"))
    assert line.startswith(f"--model {tmp_path}/none does not exist; train one with")
    assert one_line(run("score", *pictures, "x", "--model", pictures[0])).startswith(f"--model {pictures[0]} is a file")
    assert run("score", *pictures, "x", "--traces", 0).exit_code == 2
    assert "unknown key 'token'" in one_line(run("score", *pictures, "x", "--set", "token=1"))
    assert calls.made == []
