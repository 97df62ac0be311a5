"""One step of editor GRPO in two forms: as this code makes it, and the naive one (see `update_time`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from edit_r1.editors.base import Conditioning
from edit_r1.editors.kontext import KontextEditor
from edit_r1.editors.loading import load_editor
from edit_r1.records import EditTask
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.editor_advantages import advantages
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.training.editor_rewards import RewardFn, component_weights, reward_tensor
from edit_r1.training.editor_rollout import Draw, Part, sample_groups
from edit_r1.training.editor_update import update
from edit_r1.world.tasks import sample_task

T = TypeVar("T")
Objective = Literal["clip", "nft"]
PARTS: tuple[str, ...] = ("encode", "sample", "verify", "update")


class Timed(KontextEditor):
    """An editor that counts the seconds which encoding takes."""

    seconds: float = 0.0

    def encode(self, tasks: Sequence[EditTask]) -> Conditioning:
        """See `KontextEditor`."""
        start = time.perf_counter()
        found = super().encode(tasks)
        self.seconds += time.perf_counter() - start
        return found


class EachEdit(Timed):
    """The same without any reuse: every member of a group is encoded by itself."""

    group: int = 1

    def encode(self, tasks: Sequence[EditTask]) -> Conditioning:
        """A row per task, as a rollout wants them. The rows of a group are equal, and all of them were paid for."""
        every = self.encode_each([task for task in tasks for _ in range(self.group)])
        return every.select(slice(None, None, self.group))

    def encode_each(self, tasks: Sequence[EditTask]) -> Conditioning:
        """A row for each, one call after the other."""
        rows = [super(EachEdit, self).encode([task]) for task in tasks]
        return Conditioning({name: torch.cat([row[name] for row in rows]) for name in rows[0].tensors})


@dataclass(frozen=True)
class Form:
    """A way to make a step. `at_once`: how many edits the verifier is asked about at once."""

    editor: Timed
    config: EditorGrpoConfig
    at_once: int


@dataclass(frozen=True)
class Cell:
    """What is varied: edits per group, steps of the sampling, pixels on the side of an image, and the objective."""

    group: int
    steps: int
    side: int
    objective: Objective = "clip"


def forms(editor: KontextEditor, cell: Cell) -> dict[str, Form]:
    """Both forms of a cell, on the same weights."""
    kind: dict[str, Any] = {"kernel": "ode", "beta": 0.0} if cell.objective == "nft" else {}
    config = EditorGrpoConfig(group_size=cell.group, sample_steps=cell.steps, objective=cell.objective, **kind)
    ours = Timed(editor.pipeline, height=cell.side, width=cell.side)
    each = EachEdit(editor.pipeline, height=cell.side, width=cell.side)
    each.group = cell.group
    steps = config.sde_steps if cell.objective == "nft" else tuple(range(cell.steps - 1))
    whole = config.model_copy(update={"sde_steps": steps})
    return {"ours": Form(ours, config, sys.maxsize), "naive": Form(each, whole, 1)}


def rollout(form: Form, tasks: Sequence[EditTask], draw: Draw) -> list[Part]:
    """The edits of a step."""
    return list(sample_groups(form.editor, tasks, form.config, draw))


def encoded_again(form: Form, parts: Sequence[Part]) -> list[Part]:
    """What the update gets: the rollout's conditioning, or in the naive form a new one of every edit."""
    if not isinstance(form.editor, EachEdit):
        return list(parts)
    editor = form.editor
    return [replace(part, conditioning=editor.encode_each([edit.task for edit in part.edits])) for part in parts]


def fixed_advantages(tasks: int, group: int) -> Tensor:
    """Evenly from -1 to 1 in every group, [tasks * group]."""
    return torch.linspace(-1, 1, group).repeat(tasks)


def one_step(
    form: Form, policy: EditorPolicy, reward: RewardFn, tasks: Sequence[EditTask], draw: Draw
) -> tuple[dict[str, float], float]:
    """Seconds of each of `PARTS` in one step, with `processor`, the processor's; and the share of unreadable edits."""
    config, clock = form.config, _Clock(form.editor)
    parts = clock.timed("sample", lambda: rollout(form, tasks, draw))
    edits = [edit for part in parts for edit in part.edits]
    calls = [edits[start : start + form.at_once] for start in range(0, len(edits), form.at_once)]
    rewards = clock.timed("verify", lambda: [found for asked in calls for found in reward(asked)])
    rewards_CPG = reward_tensor(rewards, config.group_size, config)
    found = advantages(rewards_CPG, component_weights(config), eps=config.advantage_eps)
    values, readable = found.values.flatten(), found.readable.flatten()
    if not bool(readable.any()):
        values, readable = fixed_advantages(len(tasks), config.group_size), torch.ones(len(edits)).bool()
    clock.timed("update", lambda: update(form.editor, policy, encoded_again(form, parts), values, readable, config))
    clock.seconds["processor"] = time.process_time() - clock.processor
    return clock.seconds, float(rewards_CPG.isnan().double().mean())


def gradient_difference(folder: Path, cell: Cell, window: Sequence[int], tasks: Sequence[EditTask]) -> float:
    """How far the two forms' gradients are apart when both train the steps in `window`.

    Each form makes its own rollout, with the same noise and the same fixed advantages. B of LoRA is random here, for
    with B = 0 the gradient of A would be 0.

    Returns:
        The largest, over tensors, of max|naive - ours| / max|ours|.
    """
    editor = open_editor(folder)
    pair = forms(editor, cell)
    policy = open_policy(editor, learning_rate=0.0)
    seen: list[dict[str, Tensor]] = []

    def keep(*_: Any) -> None:
        seen.append({name: p.grad.clone() for name, p in policy.parameters.items() if p.grad is not None})

    policy.optimizer.register_step_pre_hook(keep)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.parameters.items():
            if ".lora_B." in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=noise))
    values = fixed_advantages(len(tasks), cell.group)
    for form in pair.values():
        same = form.config.model_copy(update={"sde_steps": tuple(window), "max_grad_norm": float("inf")})
        form = replace(form, config=same)
        parts = encoded_again(form, rollout(form, tasks, Draw(0, 0)))
        update(form.editor, policy, parts, values, torch.ones(len(values)).bool(), same)
    ours, naive = seen
    assert ours.keys() == naive.keys() == policy.parameters.keys()
    return max(((naive[name] - ours[name]).abs().max() / ours[name].abs().max()).item() for name in ours)


def sample_tasks(count: int, turn: int) -> list[EditTask]:
    """Tasks of the built-in world."""
    return [sample_task(np.random.default_rng([turn, index]), "train").record() for index in range(count)]


class _Clock:
    """Seconds of each of `PARTS`. Encoding happens within others, and counts by itself."""

    def __init__(self, editor: Timed) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.processor = time.process_time()
        self._editor = editor

    def timed(self, part: str, work: Callable[[], T]) -> T:
        start, before = time.perf_counter(), self._editor.seconds
        result = work()
        encoding = self._editor.seconds - before
        self.seconds["encode"] += encoding
        self.seconds[part] += time.perf_counter() - start - encoding
        return result


def open_editor(folder: Path) -> KontextEditor:
    """The Kontext in a folder."""
    editor = load_editor(folder)
    assert isinstance(editor, KontextEditor), f"{folder} is no Kontext editor"
    return editor


def open_policy(editor: KontextEditor, learning_rate: float) -> EditorPolicy:
    """Adapters with the default settings of `editor_grpo`."""
    config = EditorGrpoConfig()
    return EditorPolicy(
        editor,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        learning_rate=learning_rate,
        ema_decay=config.ema_decay,
        seed=0,
    )
