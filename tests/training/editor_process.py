"""Not a test: one run of editor GRPO with a scripted reward, to be started by torchrun in as many processes as wanted.

python -m torch.distributed.run --standalone --nproc_per_node 2 editor_process.py MODEL OUT KIND STOP
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from edit_r1.records import Edit
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training import editor_grpo
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.training.editor_rewards import Reward, RewardFn

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"lora_rank": 4, "learning_rate": 1e-2, "advantages": "global"},
    "sharded": {"lora_rank": 0, "learning_rate": 1e-3, "shard": True},
    "recipe": {
        "lora_rank": 4,
        "learning_rate": 1e-2,
        "shard": True,
        "bf16": True,
        "gradient_checkpointing": True,
        "height": 32,
        "width": 32,
    },
    "sharded_lora": {"lora_rank": 4, "learning_rate": 3e-3, "shard": True},
    "categories": {
        "lora_rank": 4,
        "learning_rate": 1e-2,
        "categories": {"keep": 0.5},
        "window": "random",
        "overlap": True,
    },
    "alarm": {"lora_rank": 4, "guards": {"stop": True}},
    "nft": {"lora_rank": 4, "objective": "nft", "kernel": "ode", "kl": "velocity", "learning_rate": 1e-2},
}


def settings(kind: str) -> EditorGrpoConfig:
    """Four steps of two tasks, three edits each."""
    shape = {"steps": 4, "prompts_per_step": 2, "group_size": 3, "sample_steps": 3, "micro_batch": 2, "probe_tasks": 2}
    every = {"probe_every": 2, "checkpoint_every": 2, "groups_every": 2, "probe_steps": 2}
    return EditorGrpoConfig.model_validate({**shape, **every, "sde_steps": (0, 1), **SETTINGS[kind]})


def redness(edits: Sequence[Edit]) -> list[Reward]:
    """How red an edit is, and as checks how red and how little blue; a third, by their seeds, cannot be read."""
    found: list[Reward] = []
    for edit in edits:
        red, _, blue = (np.asarray(edit.image, np.float64).mean((0, 1)) / 255).tolist()
        readable = Reward(10 * red, {"follow": red, "keep": 1 - blue})
        found.append(readable if edit.seed % 3 != 1 else Reward(None, failures={"no_score": 1}))
    return found


def rising() -> RewardFn:
    """A reward that rises from call to call, whatever the edits are: the gap to the oracle is an alarm."""
    calls = count()
    return lambda edits: [Reward(min(10.0, 2.0 * asked)) for asked in [next(calls)] for _ in edits]


def run(model: Path, out: Path, kind: str, stop: int) -> None:
    """Go on with the run in `out`, if there is one, and break it off once step `stop` is saved (0: never)."""
    save, write, rewards = editor_grpo._save, editor_grpo.save_checkpoint, editor_grpo.reward_function

    def write_slowly(*arguments: Any) -> None:
        time.sleep(5 if kind == "alarm" and arguments[2]["step"] else 0)  # as a large checkpoint is
        write(*arguments)

    def save_and_stop(run: Any, policy: EditorPolicy, step: int) -> None:
        save(run, policy, step)
        if step == stop > 0:
            parts = all(isinstance(parameter, DTensor) for parameter in policy.parameters.values())
            sys.stdout.write(f"parameters: {'parts' if parts else 'whole'}\n")
            raise SystemExit(0)

    editor_grpo._save, editor_grpo.save_checkpoint = save_and_stop, write_slowly
    editor_grpo.reward_function = lambda *_: rising() if kind == "alarm" else redness
    arguments: dict[str, Any] = {"data": out.parent / "none", "model": model, "verifier": model, "out": out, "seed": 0}
    try:
        editor_grpo.run(settings(kind), **arguments, resume=True)
    finally:
        editor_grpo._save, editor_grpo.save_checkpoint, editor_grpo.reward_function = save, write, rewards


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
