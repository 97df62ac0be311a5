"""Run directories, checkpoints and progress: whole or not at all, and resumable wherever they stop."""

import errno
import io
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import save_file

import edit_r1.runs.checkpoint
import edit_r1.runs.environment
import edit_r1.runs.progress
import edit_r1.runs.run
from edit_r1.config import Config
from edit_r1.errors import UserError
from edit_r1.files import atomic_path, atomic_write
from edit_r1.runs.checkpoint import (
    flatten_state,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
    unflatten_state,
)
from edit_r1.runs.environment import environment
from edit_r1.runs.progress import metrics_text, track
from edit_r1.runs.run import Run, made_from, read_metrics, weights_of


class Inner(Config):
    rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)


class Patient(Config):
    operational: ClassVar[frozenset[str]] = frozenset({"patience"})
    patience: int = 10
    steps: int = 3


class Stage(Config):
    steps: int = 3
    inner: Inner = Inner()


def no_space(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Files


def test_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_write(path, "old and long")
    atomic_write(path, "nêw")
    assert path.read_bytes() == "nêw".encode()
    atomic_write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["a.json"]


def test_files_have_ordinary_permissions(tmp_path: Path) -> None:
    """Temporary files are private; what replaces a result must be readable as any new file is."""
    plain = tmp_path / "plain"
    plain.touch()
    atomic_write(tmp_path / "a", "x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("culprit", ["os.fsync", "os.replace", "pathlib.Path.write_bytes", "tempfile.mkstemp"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    culprit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "done.json"
    atomic_write(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(culprit, no_space)
        with pytest.raises(UserError, match=r"cannot write .*done\.json: the disk is full; free some space"):
            atomic_write(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["done.json"]


def test_a_disk_that_is_full_indeed(tmp_path: Path) -> None:
    """`/dev/full` refuses every byte, as a full disk does; the error comes from the system, not from the test."""
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full on this system")

    def write() -> None:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.unlink()
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"x")

    with pytest.raises(UserError, match="the disk is full"):
        write()
    assert names(tmp_path) == []


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == []


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a"):
        _ = 1 / 0
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "none" / "a", "x")


# Runs


def test_a_run_from_beginning_to_end(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "deep" / "run", Stage(), inputs={"seed": 1})
    assert run.done is None
    assert run.config == {"steps": 3, "inner": {"rate": 0.1, "betas": [0.9, 0.99]}, "inputs": {"seed": 1}}
    run.log(0, reward=0.5, kl=float("nan"))
    run.log(1, **{"reward/mean": 1})
    assert run.metrics() == [{"step": 0, "reward": 0.5, "kl": None}, {"step": 1, "reward/mean": 1.0}]
    run.finish({"score": 7.5})
    assert run.done == {"score": 7.5}
    assert {entry.name for entry in run.path.iterdir()} == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "groups",
        "checkpoint",
        "done.json",
        ".lock",
    }


def test_a_run_is_worked_on_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process is refused in one line and changes nothing; once the first has ended the run goes on."""
    code = (
        "import sys; from pathlib import Path; from edit_r1.config import Config; from edit_r1.runs.run import Run\n"
        "class Stage(Config): pass\n"
        "run = Run.open(Path(sys.argv[1]), Stage()); print('open', flush=True); sys.stdin.read()"
    )
    monkeypatch.setattr(edit_r1.runs.run, "_PATIENCE", 0.3)
    command, pipe = [sys.executable, "-c", code, str(tmp_path / "run")], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(UserError, match="another process works on"):
            Run.open(tmp_path / "run", Inner(), resume=True)
        assert Run(tmp_path / "run").config == {}
        other.communicate("")
    with pytest.raises(UserError, match="other settings"):
        Run.open(tmp_path / "run", Inner(), resume=True)


def test_a_run_that_another_began_meanwhile_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While this process waits another begins here and ends: its configuration stays, and this one is refused."""
    path, hold = tmp_path / "run", Run._hold

    def wait(run: Run) -> None:
        monkeypatch.setattr(Run, "_hold", hold)
        Run.open(path, Stage(steps=7)).finish({})
        hold(run)

    for resume, refusal in ((False, "is not empty"), (True, "other settings")):
        shutil.rmtree(path, ignore_errors=True)
        monkeypatch.setattr(Run, "_hold", wait)
        with pytest.raises(UserError, match=refusal):
            Run.open(path, Stage(), resume=resume)
        assert Run(path).config["steps"] == 7


@pytest.mark.parametrize(("missing", "finish", "settled"), [(0, False, True), (2, False, False), (2, True, True)])
def test_a_run_that_asks_others_is_settled(tmp_path: Path, missing: int, finish: bool, settled: bool) -> None:
    """Where answers are missing it goes on unless it is to finish; where what is asked about has changed, always."""
    run = Run.open(tmp_path / "run", Stage())
    assert run.settled("a", finish=finish) is None
    summary = {"content": "a", "missing": missing, "kept": 3}
    run.finish(summary)
    assert run.settled("a", finish=finish) == (summary if settled else None)
    assert run.settled("b", finish=finish) is None
    assert run.done == summary  # until the new answers are there


def test_other_data_under_the_same_path_are_other_inputs(tmp_path: Path) -> None:
    data = Run.open(tmp_path / "data", Stage(), inputs={"seed": 1})
    data.finish({"kept": 3})
    before = made_from(tmp_path / "data")
    assert before == made_from(tmp_path / "data")
    assert before["data"] == str(tmp_path / "data")
    data.finish({"kept": 4})
    assert made_from(tmp_path / "data")["content"] != before["content"]


def test_weights_are_told_apart_wherever_they_lie(tmp_path: Path) -> None:
    """A copy has the same name; one number of a small file is seen, and of a file of 40 MB what training changes."""
    models = [tmp_path / name for name in ("one", "copy", "trained")]
    for folder in models:
        (folder / "part").mkdir(parents=True)
        tensors = {
            "frozen": torch.zeros(9_000_000),
            "trained": torch.full((1_000_000,), float(folder.name == "trained")),
        }
        save_file(tensors, folder / "part" / "model.safetensors")
    one, copy, trained = (weights_of(folder) for folder in models)
    assert one == copy != trained
    save_file({"head": torch.tensor([1.0, 2.0])}, models[0] / "head.safetensors")
    first = weights_of(models[0])
    save_file({"head": torch.tensor([1.0, 2.5])}, models[0] / "head.safetensors")
    assert len({*map(str, (one, first, weights_of(models[0]), weights_of(*models[:2])))}) == 4


def test_metrics_are_on_disk_at_once(tmp_path: Path) -> None:
    """A process that is killed right after `log` has logged."""
    code = (
        "import os, signal, sys; from pathlib import Path; from edit_r1.config import Config\n"
        "from edit_r1.runs.run import Run\n"
        "class Stage(Config): pass\n"
        "Run.open(Path(sys.argv[1]), Stage()).log(5, loss=0.25); os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, check=False)
    assert result.returncode == -9, result.stderr
    assert read_metrics(tmp_path / "run") == [{"step": 5, "loss": 0.25}]


def test_a_folder_with_something_in_it_needs_resume(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", Stage())
    with pytest.raises(UserError, match=r"run is not empty; add --resume to go on with it, or give --out another"):
        Run.open(tmp_path / "run", Stage())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty"):
        Run.open(tmp_path / "notes", Stage())
    with pytest.raises(UserError, match=r"holds no run \(no config.json\)"):
        Run.open(tmp_path / "notes", Stage(), resume=True)
    with pytest.raises(UserError, match="is a file; give --out a folder"):
        Run.open(tmp_path / "notes" / "a.txt", Stage())
    assert names(tmp_path / "notes") == ["a.txt"]


def test_resume_of_nothing_begins(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert Run.open(tmp_path / "run", Stage(), resume=True).metrics() == []


def test_resume_wants_the_same_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Run.open(path, Stage(), inputs={"seed": 1, "model": None}).log(1, loss=1)
    before = (path / "config.json").read_bytes()
    resumed = Run.open(path, Stage(), resume=True, inputs={"seed": 1, "model": None})
    assert resumed.metrics() == [{"step": 1, "loss": 1.0}]
    with pytest.raises(UserError, match=r"made with other settings \(inner\.rate, steps\); resume with the same"):
        Run.open(path, Stage(steps=4, inner=Inner(rate=0.2)), resume=True, inputs={"seed": 1, "model": None})
    with pytest.raises(UserError, match=r"\(inputs\.seed\)"):
        Run.open(path, Stage(), resume=True, inputs={"seed": 2, "model": None})
    assert (path / "config.json").read_bytes() == before


def test_operational_settings_may_change(tmp_path: Path) -> None:
    """The last ones are in config.json; others are still refused, and nothing is written then."""
    Run.open(tmp_path / "run", Patient(), inputs={"seed": 1})
    resumed = Run.open(tmp_path / "run", Patient(patience=50), resume=True, inputs={"seed": 1})
    assert resumed.config == {"patience": 50, "steps": 3, "inputs": {"seed": 1}}
    with pytest.raises(UserError, match=r"made with other settings \(steps\)"):
        Run.open(tmp_path / "run", Patient(patience=60, steps=4), resume=True, inputs={"seed": 1})
    assert resumed.config["patience"] == 50


def test_every_resumption_is_on_record(tmp_path: Path) -> None:
    for _ in range(3):
        Run.open(tmp_path / "run", Stage(), resume=True)
    recorded = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert len(recorded["resumed"]) == 2
    assert recorded["resumed"][0]["libraries"] == recorded["libraries"]


def test_a_half_made_directory_is_completed(tmp_path: Path) -> None:
    """Killed while config.json was written: it counts as empty. Killed right after: resuming makes the rest."""
    path = tmp_path / "run"
    path.mkdir()
    (path / ".config.json.abc.tmp").write_text("{")
    Run.open(path, Stage())
    assert ".config.json.abc.tmp" not in names(path)
    for name in ("environment.json", "metrics.jsonl"):
        (path / name).unlink()
    assert Run.open(path, Stage(), resume=True).metrics() == []
    assert (path / "environment.json").exists()


def test_damaged_json_is_named(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", Stage())
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        Run.open(tmp_path / "run", Stage(), resume=True)


def test_rewind_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", Stage())
    for step in (1, 2, 2, 3, 10):
        run.log(step, loss=step)
        (run.group_dir(step) / "best.txt").write_text("x")
    run.finish({})
    run.rewind(2)
    assert [line["step"] for line in run.metrics()] == [1, 2, 2]
    assert names(run.path / "groups") == ["000001", "000001/best.txt", "000002", "000002/best.txt"]
    assert run.done is None
    run.log(3, loss=0)
    assert [line["step"] for line in run.metrics()] == [1, 2, 2, 3]


def test_the_unfinished_line_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", Stage())
    run.log(1, loss=1)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert [line["step"] for line in read_metrics(run.path)] == [1]
    resumed = Run.open(run.path, Stage(), resume=True)
    resumed.log(2, loss=2)
    assert [line["step"] for line in resumed.metrics()] == [1, 2]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes a part of the line only: the part is taken back, and the error is a user's."""
    run = Run.open(tmp_path / "run", Stage())
    run.log(1, loss=1)
    whole = (run.path / "metrics.jsonl").read_bytes()
    real_open = Path.open

    def short(self: Path, *arguments: Any, **options: Any) -> Any:
        file = real_open(self, *arguments, **options)

        class Short:
            def __enter__(self) -> "Short":
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> int:
                return file.write(data[:7])

            tell, truncate = file.tell, file.truncate

        return Short()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", short)
        with pytest.raises(UserError, match=r"metrics\.jsonl: the disk is full"):
            run.log(2, loss=2)
    assert (run.path / "metrics.jsonl").read_bytes() == whole


def test_finish_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(tmp_path / "run", Stage())
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", no_space)
        with pytest.raises(UserError, match="the disk is full"):
            run.finish({"score": 1})
    assert run.done is None
    assert not (run.path / "done.json").exists()


def test_opening_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", no_space)
        with pytest.raises(UserError, match="the disk is full"):
            Run.open(tmp_path / "run", Stage())
    assert names(tmp_path) == []


# Environment


def test_environment_is_json_and_names_versions() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["libraries"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpus"] == os.cpu_count()


def checkout(folder: Path) -> Callable[..., str]:
    """A git repository in `folder` that neither asks for nor writes any configuration outside."""

    def git(*arguments: str) -> str:
        options = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(folder), *options, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    folder.mkdir()
    git("init", "-q")
    return git


def test_commit_is_that_of_the_package_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file must be tracked: a package installed in a virtual environment inside another repository is not.

    A table of results beside the package may grow: the source is the same.
    """
    git = checkout(tmp_path / "repository")
    file = tmp_path / "repository" / "package" / "runs" / "environment.py"
    file.parent.mkdir(parents=True)
    file.write_text("1")
    (tmp_path / "repository" / "results.json").write_text("[]")
    monkeypatch.setattr(edit_r1.runs.environment, "__file__", str(file))
    version = edit_r1.runs.environment.commit()
    assert re.fullmatch(r"v\d+\.\d+\.\d+", version[0])
    git("add", ".")
    assert edit_r1.runs.environment.commit() == version  # tracked, but there is no commit yet
    git("commit", "-qm", "one")
    assert edit_r1.runs.environment.commit() == (git("rev-parse", "HEAD"), False)
    (tmp_path / "repository" / "results.json").write_text("[1]")
    assert edit_r1.runs.environment.commit() == (git("rev-parse", "HEAD"), False)
    (file.parents[1] / "other.py").write_text("1")
    git("add", ".")
    assert edit_r1.runs.environment.commit() == (git("rev-parse", "HEAD"), True)
    monkeypatch.setenv("PATH", "")
    assert edit_r1.runs.environment.commit() == version


# Checkpoints


def test_checkpoint_keeps_values_types_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint" / "state.safetensors"
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {
        "base": base,
        "view": base[1:],
        "transposed": base.T,
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 2),
        "half": torch.tensor([1.5, -0.0, float("inf")], dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    state = {"step": 3, "rate": 0.1 + 0.2, "nested": {"list": [1, None, "ü"]}}
    save_checkpoint(path, tensors, state)
    loaded, loaded_state = load_checkpoint(path)
    assert loaded_state == state
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(loaded[name], tensor.detach()), name
    save_checkpoint(path, {"base": base + 1}, {"step": 4})
    loaded, loaded_state = load_checkpoint(path)
    assert (list(loaded), loaded_state) == (["base"], {"step": 4})
    assert names(tmp_path) == ["checkpoint", "checkpoint/state.safetensors"]


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left (os error 28)")],
)
def test_a_full_disk_keeps_the_old_checkpoint(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"a": torch.ones(3)}, {"step": 1})

    def half(_: object, file: Path, **__: object) -> None:
        Path(file).write_bytes(b"half")
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(edit_r1.runs.checkpoint, "save_file", half)
        with pytest.raises(UserError, match=r"cannot write .*state\.safetensors: the disk is full"):
            save_checkpoint(path, {"a": torch.zeros(3)}, {"step": 2})
    assert load_checkpoint(path)[1] == {"step": 1}
    assert names(tmp_path) == ["state.safetensors"]


def test_missing_damaged_and_foreign_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(UserError, match="no checkpoint at"):
        load_checkpoint(path)
    save_checkpoint(path, {"a": torch.ones(1000)}, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(UserError, match="is no checkpoint of this version"):
        load_checkpoint(path)


def test_nested_state_comes_back(tmp_path: Path) -> None:
    tree = {
        "state": {0: {"step": torch.tensor(1.0), "x": [1, (2.5, None)]}, 7: {}},
        "groups": [{"lr": 1e-3, "on": True}],
    }
    tensors, skeleton = flatten_state(tree, "optimizer")
    assert list(tensors) == ["optimizer.state.0.step"]
    save_checkpoint(tmp_path / "c", tensors, {"optimizer": skeleton})
    loaded, state = load_checkpoint(tmp_path / "c")
    assert unflatten_state(loaded, state["optimizer"]) == tree
    with pytest.raises(TypeError, match=r"cannot store object at 'optimizer\.bad'"):
        flatten_state({"bad": object()}, "optimizer")


def test_interrupted_and_resumed_training_is_bitwise_the_same(tmp_path: Path) -> None:
    """Ten AdamW steps with random inputs, against five, a checkpoint, another process's state, and five more."""

    def parts() -> tuple[torch.nn.Linear, torch.optim.Optimizer, torch.Generator]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1), torch.Generator().manual_seed(5)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            inputs = torch.nn.functional.dropout(torch.randn(8, 4, generator=generator))  # dropout: the global state
            model(inputs).square().mean().backward()
            optimizer.step()

    straight = parts()
    train(*straight, steps=10)

    model, optimizer, generator = parts()
    train(model, optimizer, generator, steps=5)
    moments, skeleton = flatten_state(optimizer.state_dict(), "optimizer")
    rng_tensors, rng = rng_state({"noise": generator})
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path / "c", {**weights, **moments, **rng_tensors}, {"optimizer": skeleton, **rng})

    model, optimizer, generator = parts()
    tensors, state = load_checkpoint(tmp_path / "c")
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    optimizer.load_state_dict(unflatten_state(tensors, state["optimizer"]))
    set_rng_state(tensors, state, {"noise": generator})
    train(model, optimizer, generator, steps=5)
    for left, right in zip(straight[0].parameters(), model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_every_source_of_randomness_continues(tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(1)
    pcg, twister = np.random.default_rng(2), np.random.Generator(np.random.MT19937(3))
    own = {"torch": noise, "pcg": pcg, "mt": twister}

    def draw() -> list[float]:
        return [
            random.gauss(0, 1),
            float(np.random.standard_normal()),
            float(torch.randn(())),
            float(torch.randn((), generator=noise)),
            float(pcg.standard_normal()),
            float(twister.integers(1000)),
        ]

    draw()  # an odd number of normal draws: Python's and numpy's generators keep the second of a pair
    tensors, state = rng_state(own)
    save_checkpoint(tmp_path / "c", tensors, {"step": 1, **state})
    expected = [draw() for _ in range(3)]
    set_rng_state(*load_checkpoint(tmp_path / "c"), own)
    assert [draw() for _ in range(3)] == expected
    with pytest.raises(UserError, match="holds no state of the generator 'other'"):
        set_rng_state(tensors, state, {"other": torch.Generator()})


# Progress


def test_logs_get_lines_with_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 4 s: a line whenever 10 s have passed, which is after every third step of the resumed run."""
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(edit_r1.runs.progress.time, "monotonic", lambda: float(next(clock)))
    out = io.StringIO()
    with track("GCPO [x]", total=12, start=2, console=Console(file=out)) as bar:
        for step in range(10):
            bar.advance(reward=0.5 + step / 100, steps_seen=20000)
    assert out.getvalue().splitlines() == [
        "GCPO [x] 2/12 (16%) · resumed",
        "GCPO [x] 5/12 (41%) · 0:00:28 left · reward 0.52 · steps_seen 20000",
        "GCPO [x] 8/12 (66%) · 0:00:16 left · reward 0.55 · steps_seen 20000",
        "GCPO [x] 11/12 (91%) · 0:00:04 left · reward 0.58 · steps_seen 20000",
        "GCPO [x] 12/12 (100%) · finished in 0:00:44 · reward 0.59 · steps_seen 20000",
    ]


def test_an_interrupted_log_does_not_say_finished() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), track("A", total=2, console=Console(file=out)):
        raise KeyboardInterrupt
    assert out.getvalue() == "A 0/2 (0%) · started\n"


def test_terminals_get_a_bar() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None, legacy_windows=False)
    with track("Editor [GRPO]", total=3, start=1, console=console) as bar:
        bar.advance(reward=0.712)
        with track("inner", total=1, console=console) as inner:
            inner.advance()
        bar.advance()
    text = out.getvalue()
    assert "Editor [GRPO]" in text
    assert "3/3" in text
    assert "reward 0.712" in text
    assert "inner" in text


def test_metrics_text() -> None:
    assert metrics_text({"kl": 0.00312, "steps": 12345, "score": 7.5}) == "kl 0.00312 · steps 12345 · score 7.5"
