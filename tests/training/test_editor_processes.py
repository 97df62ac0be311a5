"""Several processes of editor GRPO learn what one learns, and a run goes on with another number of them."""

from __future__ import annotations

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
from edit_r1.runs.run import read_metrics
from edit_r1.training import editor_grpo

WEIGHTS = "model/transformer/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("kind", ["lora", "nft", "sharded"])
def test_two_processes_then_one_learn_what_one_learns(kind: str, tmp_path: Path) -> None:
    """Two steps on two processes, two more on one, against four on one: the weights, and what is logged.

    With one task each, the processes hold different numbers of readable edits; sums over them are made in another
    order, which is all that may differ. `sharded` trains all weights, of which each process holds a part.
    """
    moved, apart, says = _both(kind, tmp_path)
    assert says == f"parameters: {'parts' if kind == 'sharded' else 'whole'}"
    assert moved > 0.01
    assert apart < 0.005 * moved  # AdamW makes large steps of small gradients too, of their rounding as well
    for line, other in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True):
        assert {name for name in line if line[name] is None} == {name for name in other if other[name] is None}
        timeless = [name for name in line if not name.startswith("seconds_") and line[name] is not None]
        assert [other[name] for name in timeless] == pytest.approx(
            [line[name] for name in timeless], rel=1e-3, abs=1e-4
        )


def test_sharded_adapters_over_frozen_weights_in_bfloat16(tmp_path: Path) -> None:
    """What recipes of real editors ask for: FSDP2 over two dtypes, gradient checkpointing, a size of one's own.

    bfloat16 rounds otherwise when it sums in another order, and AdamW makes that larger: a twentieth of the way.
    """
    moved, apart, says = _both("recipe", tmp_path)
    assert says == "parameters: parts"
    assert moved > 0.01
    assert apart < 0.05 * moved


def _both(kind: str, tmp_path: Path) -> tuple[float, float, str]:
    """How far the weights of one process moved, how far those of two are from them, and what the two said."""
    model = tiny_editor(tmp_path / "editor")
    script = Path(__file__).with_name("editor_process.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    done = subprocess.run(
        [*map(str, command), str(model), str(tmp_path / "two"), kind, "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [says] = set(done.stdout.split("\n")) - {""}
    torch.manual_seed(5)
    for name in ("two", "one"):
        editor_process.run(model, tmp_path / name, kind, 0)
    base = load_file(model / WEIGHTS.removeprefix("model/"))
    two, one = (load_file(tmp_path / name / WEIGHTS) for name in ("two", "one"))
    moved, apart = (
        sum((first[key] - second[key]).square().sum().item() for key in base) ** 0.5
        for first, second in ((one, base), (one, two))
    )
    return moved, apart, says


def test_tasks_that_cannot_be_shared_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Third:
        num_processes, process_index = 3, 2

    monkeypatch.setattr(editor_grpo, "process", Third)
    assert editor_grpo._share(12) == range(8, 12)
    with pytest.raises(UserError, match="prompts_per_step 10 cannot be shared by 3 processes"):
        editor_grpo._share(10)
