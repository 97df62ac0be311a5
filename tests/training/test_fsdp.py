"""Two processes: sharded by FSDP2 they learn what plain data parallelism learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from tests.training.tiny_qwen2_5 import tiny_qwen2_5
from tests.training.tiny_run import tiny_world

from edit_r1.runs.run import Run

SHARDING = {  # as in recipes/accelerate/gpus_8.yaml, which `accelerate launch` turns into these
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def test_sharded_processes_learn_what_others_do(tmp_path: Path) -> None:
    """Cold start and GCPO, checkpoints and results included: weights agree to 1e-6, where a step is 1e-3 and 4e-4.

    With FSDP2 the parameters are DTensors, and sums over processes are made in another order. One process ends its
    traces before the other, which still needs its part of the weights; and all take part in a probe.
    """
    world, model = tiny_world(tmp_path), tiny_qwen2_5(tmp_path)
    script = Path(__file__).with_name("fsdp_process.py")
    for name in ("sharded", "plain"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
        environment = os.environ | (SHARDING if name == "sharded" else {}) | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*map(str, command), str(world), str(model), str(tmp_path / name), name],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        kinds = "['DTensor']" if name == "sharded" else "['Parameter']"
        steps = [line for line in done.stdout.splitlines() if line.startswith("parameters:")]
        assert steps
        assert set(steps) == {f"parameters: {kinds}"}
        assert {line for line in done.stdout.splitlines() if line.startswith("traces:")} == {
            "traces: 0 8",
            "traces: 1 3",
        }
    [sharded, plain] = [Run(tmp_path / name / "gcpo").metrics()[0] for name in ("sharded", "plain")]
    assert sharded["probe_check_accuracy"] == plain["probe_check_accuracy"] > 0
    before = load_file(model / "model.safetensors")
    for stage in ("start", "gcpo"):
        [sharded, plain] = [
            load_file(tmp_path / name / stage / "model" / "model.safetensors") for name in ("sharded", "plain")
        ]
        assert max((plain[key] - before[key]).abs().max().item() for key in before) > 1e-4
        assert max((plain[key] - sharded[key]).abs().max().item() for key in before) < 1e-6
        before = plain
