"""Several processes of editor GRPO learn what one learns, and a run goes on with another number of them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training import editor_process
from tests.training.tiny_editor import tiny_editor

from edit_r1.errors import UserError
from edit_r1.runs.checkpoint import load_checkpoint
from edit_r1.runs.run import read_metrics
from edit_r1.stages import ColdStartConfig
from edit_r1.training import cold_start, editor_grpo, processes

WEIGHTS = "model/transformer/diffusion_pytorch_model.safetensors"


def two_processes(model: Path, out: Path, kind: str, stop: int) -> subprocess.CompletedProcess[str]:
    """A run of two processes, until step `stop` is saved (0: to the end)."""
    script = Path(__file__).with_name("editor_process.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    return subprocess.run(
        [*map(str, command), str(model), str(out), kind, str(stop)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kind", ["lora", "nft", "categories", "sharded", "sharded_lora"])
def test_two_processes_then_one_learn_what_one_learns(kind: str, tmp_path: Path) -> None:
    """Two steps on two processes, two more on one, against four on one: the weights, and what is logged.

    With one task each, the processes hold different numbers of readable edits; sums over them are made in another
    order, which is all that may differ. `sharded` trains all weights, of which each process holds a part;
    `sharded_lora` trains LoRA in parts, which the reference switches off, and goes on with two processes.
    """
    moved, apart, says = both(kind, tmp_path)
    assert says == f"parameters: {'parts' if kind.startswith('sharded') else 'whole'}"
    assert moved > 0.01
    assert apart < 0.005 * moved  # AdamW makes large steps of small gradients too, of their rounding as well
    for line, other in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True):
        timeless = [name for name in line if not name.startswith(("seconds_", "share_"))]
        got, expected = (
            [math.nan if each[name] is None else each[name] for name in timeless] for each in (other, line)
        )
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)


def test_sharded_adapters_over_frozen_weights_in_bfloat16(tmp_path: Path) -> None:
    """What recipes of real editors ask for: FSDP2 over two dtypes, gradient checkpointing, a size of one's own.

    bfloat16 rounds otherwise when it sums in another order, and AdamW makes that larger: a twentieth of the way.
    """
    moved, apart, says = both("recipe", tmp_path)
    assert says == "parameters: parts"
    assert moved > 0.01
    assert apart < 0.05 * moved


def both(kind: str, tmp_path: Path) -> tuple[float, float, str]:
    """How far the weights of one process moved, how far those of two are from them, and what the two said."""
    model = tiny_editor(tmp_path / "editor")
    done = two_processes(model, tmp_path / "two", kind, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    [says] = set(done.stdout.split("\n")) - {""}
    torch.manual_seed(5)
    if kind == "sharded_lora":
        assert two_processes(model, tmp_path / "two", kind, 0).returncode == 0
    for name in ("two", "one"):
        editor_process.run(model, tmp_path / name, kind, 0)
    base = load_file(model / WEIGHTS.removeprefix("model/"))
    two, one = (load_file(tmp_path / name / WEIGHTS) for name in ("two", "one"))
    moved, apart = (
        sum((first[key] - second[key]).square().sum().item() for key in base) ** 0.5
        for first, second in ((one, base), (one, two))
    )
    return moved, apart, says


def test_an_alarm_ends_both_processes_once_the_checkpoint_is_whole(tmp_path: Path) -> None:
    """The second process has nothing to write; if it ended at once, torchrun would end the first, which still does."""
    done = two_processes(tiny_editor(tmp_path / "editor"), tmp_path / "two", "alarm", 0)
    assert done.returncode != 0
    assert load_checkpoint(tmp_path / "two/checkpoint/state.safetensors")[1]["step"] == 2
    assert "UserError: stopped at step 2, for the editor seems to exploit its reward (gap" in done.stderr
    assert "its reward ()" not in done.stderr  # the second knows why, too


def test_a_metric_that_one_process_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle may know all tasks of one process and not those of another: there is no mean then."""
    other = {"noop_rate": 0.5}
    monkeypatch.setattr(processes, "gather_object", lambda mine: [*mine, other])
    assert processes.mean_of({"noop_rate": 0.0, "oracle_success": 1.0}) == {"noop_rate": 0.25}
    assert processes.mean_of({"noop_rate": 1.0}) == {"noop_rate": 0.75}


def test_several_gpus_without_a_launcher_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainers would split batches among them by itself; the folder of the refused run is not left behind."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="sees 2 GPUs: start one process for each with accelerate launch"):
        cold_start.run(ColdStartConfig(), data=tmp_path, model=None, out=tmp_path / "run", seed=0, resume=False)
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_holds_what_it_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"a": torch.ones(2, requires_grad=True)}
    assert processes.collected(tensors)["a"].tolist() == [1.0, 1.0]

    class Second:
        is_main_process = False

    monkeypatch.setattr(processes, "process", Second)
    assert processes.collected(tensors) == {}


def test_tasks_that_cannot_be_shared_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Third:
        num_processes, process_index = 3, 2

    monkeypatch.setattr(editor_grpo, "process", Third)
    assert editor_grpo._share(12) == range(8, 12)
    with pytest.raises(UserError, match="prompts_per_step 10 cannot be shared by 3 processes"):
        editor_grpo._share(10)
