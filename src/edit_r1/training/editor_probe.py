"""What is measured beside an editor's training: rewards, a probe on fixed tasks, and signs of reward hacking.

Shapes: P tasks, G edits of each (a group).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from edit_r1.editors.base import Editor, edit, to_pil
from edit_r1.images import to_array
from edit_r1.records import Edit, EditTask
from edit_r1.runs.progress import notice
from edit_r1.runs.run import Run
from edit_r1.stages import EditorGrpoConfig, GuardsConfig
from edit_r1.training.editor_guards import compare, diversity, image_metrics, run_probes
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.training.editor_rewards import Reward, RewardFn
from edit_r1.training.editor_tasks import edit_metrics
from edit_r1.training.processes import device, process


@dataclass(frozen=True)
class Judges:
    """`reward` is learned from; `judge`, if there is one, only looks on."""

    reward: RewardFn
    judge: RewardFn | None = None


def probe(
    editor: Editor, policy: EditorPolicy, tasks: Sequence[EditTask], judges: Judges, config: EditorGrpoConfig, seed: int
) -> dict[str, float]:
    """Measure the mean weights on fixed tasks, with fixed noise and deterministic sampling."""
    with policy.averaged(), torch.autocast(device().type, torch.bfloat16, enabled=config.bf16):
        images = to_pil(edit(editor, tasks, config.probe_steps, seed, batch=config.micro_batch))
    if not process().is_main_process:  # all took part in the sampling, for each may hold a part of the weights
        return {}
    edits = [Edit(task, image, editor.name, seed) for task, image in zip(tasks, images, strict=True)]
    rewards = judges.reward(edits)
    metrics = reward_metrics(scores(rewards)[:, None]) | trace_failures(rewards)
    metrics |= edit_metrics(edits) | image_metrics(edits, 1)
    if judges.judge is not None:
        metrics["judge"] = reward_metrics(scores(judges.judge(edits))[:, None])["reward"] / 10
    return {f"probe_{name}": value for name, value in metrics.items()}


def raise_alarms(run: Run, step: int, metrics: dict[str, float], config: EditorGrpoConfig) -> dict[str, str]:
    """Compare the probe in `metrics` with the base's, in the run's first line; only the first process does.

    Every alarm is said, and returned with its sentence. `metrics` gets `alarm_NAME` of every guard: 1, 0, or NaN (null
    in the file) where there is nothing to compare; and `alarms`, how many are 1.
    """
    if not process().is_main_process:
        return {}
    said = compare(*run_probes(run.metrics(), metrics), config.guards)
    found = {name: sentence for name, sentence in said.items() if sentence}
    for name, sentence in found.items():
        notice(f"alarm at step {step}, {name}: {sentence}")
    names = [name for name in GuardsConfig.model_fields if name != "stop"]
    metrics |= {f"alarm_{name}": float(name in found) if name in said else math.nan for name in names}
    metrics["alarms"] = float(len(found))
    return found


def reward_metrics(rewards_PG: Tensor) -> dict[str, float]:
    """`reward` and `reward_std` over readable rewards (NaN without any), and `failure_rate`."""
    readable = rewards_PG[~rewards_PG.isnan()].double()
    mean = readable.mean()
    return {
        "reward": mean.item(),
        "reward_std": (readable - mean).square().mean().sqrt().item(),
        "failure_rate": rewards_PG.isnan().double().mean().item(),
    }


def trace_failures(rewards: Sequence[Reward]) -> dict[str, float]:
    """`trace_failure_rate`: the share of traces that cannot be read; an edit fails only where all of its traces do."""
    failed = sum(sum(reward.failures.values()) for reward in rewards)
    return {"trace_failure_rate": failed / sum(reward.traces for reward in rewards)}


def scores(rewards: Sequence[Reward]) -> Tensor:
    """Their scores, NaN where there is none."""
    return torch.tensor([float("nan") if reward.score is None else reward.score for reward in rewards])


def group_diversity(edits: Sequence[Edit], config: EditorGrpoConfig) -> dict[str, float]:
    """How far the edits of a task are apart, as a mean over groups."""
    groups = [edits[start : start + config.group_size] for start in range(0, len(edits), config.group_size)]
    return {"guard_diversity": fmean(diversity([to_array(edit.image) for edit in group]) for group in groups)}
