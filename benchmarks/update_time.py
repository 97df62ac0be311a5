"""What one step of editor GRPO costs in this code, and in the naive form of the same algorithm.

    python -m benchmarks.update_time [--verifier runs/gcpo] [--repeats 3] [--threads 1] [--out update_time.json]

A step is sample -> verify -> advantage -> update. Both forms are the project's own functions on the same weights,
tasks, noise and micro batches, with the same kernel, KL and optimiser; they take turns in one process. They differ in
three things only:

- *Encoding.* Ours encodes a task once; all members of its group, all steps and the update use that. The naive form
  encodes instruction and source for every edit by itself, and again for the update, as a loop over single samples does.
- *Window.* With `clip` ours makes the first step stochastic and trains that one (the default of `editor_grpo`). The
  naive form trains every step that has a log-probability, which is Flow-GRPO without a window: all but the last, for
  the kernel is CPS. `nft` trains no steps of the sampling, and has no window.
- *Verifier.* Ours asks it about all edits of a step in one call, the naive form once per edit.

A cheaper step is no gain if it learns less: that needs training runs, not a stopwatch. What is checked here is that the
two forms are the same algorithm: with the same window they give the same gradient, up to rounding.

`ratio` is of seconds as they pass; `cpu` of the processor's time, which other programs disturb less. Where the verifier
cannot be read (the shipped base is not yet trained to judge) advantages are fixed ones. That changes no cost but the
length of traces: such a one may run to `max_tokens`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.update_forms import (
    PARTS,
    Cell,
    Objective,
    forms,
    gradient_difference,
    one_step,
    open_editor,
    open_policy,
    sample_tasks,
)

from edit_r1 import assets
from edit_r1.editors.kontext import KontextEditor
from edit_r1.errors import UserError
from edit_r1.files import atomic_write
from edit_r1.runs.environment import environment
from edit_r1.stages import EditorGrpoConfig, RewardConfig
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.training.editor_rewards import one_reward
from edit_r1.training.editor_rollout import Draw

TOLERANCE = 1e-3
"""Largest relative difference between the two gradients: float32, and batches of another size in the encoders."""


def measure(
    cell: Cell, editor: KontextEditor, policy: EditorPolicy, verifier: Path, repeats: int, prompts: int
) -> dict[str, Any]:
    """Medians of both forms, which take turns; every turn has tasks of its own, the same for both."""
    pair = forms(editor, cell)
    rewards = {name: one_reward(RewardConfig(folder=str(verifier)), form.config) for name, form in pair.items()}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in pair}
    unreadable: list[float] = []
    for turn in range(1, repeats + 1):
        for name, form in pair.items():
            seconds, share = one_step(form, policy, rewards[name], sample_tasks(prompts, turn), Draw(0, turn))
            taken[name].append(seconds)
            unreadable.append(share)
    result: dict[str, Any] = {**asdict(cell), "unreadable": sum(unreadable) / len(unreadable)}
    for name, turns in taken.items():
        parts = {part: median(turn[part] for turn in turns) for part in PARTS}
        result[name] = {
            "seconds": median(sum(turn[part] for part in PARTS) for turn in turns),
            "processor_seconds": median(turn["processor"] for turn in turns),
            "parts": parts,
            "shares": {part: value / sum(parts.values()) for part, value in parts.items()},
            "turns": turns,
        }
    for kind in ("", "processor_"):
        result[f"{kind}ratio"] = result["naive"][f"{kind}seconds"] / result["ours"][f"{kind}seconds"]
    return result


def cells(
    groups: Sequence[int], steps: Sequence[int], sides: Sequence[int], objectives: Sequence[Objective]
) -> list[Cell]:
    """The first of each list together, and every other value with the first of the other lists."""
    first = Cell(groups[0], steps[0], sides[0], objectives[0])
    return [
        first,
        *(replace(first, objective=objective) for objective in objectives[1:]),
        *(replace(first, group=group) for group in groups[1:]),
        *(replace(first, steps=count) for count in steps[1:]),
        *(replace(first, side=side) for side in sides[1:]),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Check the gradients, measure, print the table and write the JSON."""
    arguments = _arguments(argv)
    torch.set_num_threads(arguments.threads)
    try:
        document = run(arguments)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if arguments.out:
        atomic_write(arguments.out, json.dumps(document, indent=2) + "\n")


def run(arguments: Any) -> dict[str, Any]:
    """Everything that is written; it is printed as it comes."""
    load = os.getloadavg()
    small = Cell(min(arguments.groups), min(arguments.steps), min(arguments.sides))
    cases: dict[str, tuple[Cell, tuple[int, ...]]] = {
        "first step": (small, (0,)),
        "all steps": (small, tuple(range(small.steps - 1))),
        "nft": (replace(small, objective="nft"), (0,)),
    }
    tasks = sample_tasks(arguments.prompts, 0)
    gaps = {name: gradient_difference(arguments.editor, *case, tasks) for name, case in cases.items()}
    assert max(gaps.values()) < TOLERANCE, f"the two forms give different gradients: {gaps}"
    _say(
        "same window, same gradient: largest relative difference "
        + ", ".join(f"{gap:.1e} ({name})" for name, gap in gaps.items())
    )
    editor = open_editor(arguments.editor)
    policy = open_policy(editor, learning_rate=EditorGrpoConfig().learning_rate)
    measured: list[dict[str, Any]] = []
    measure(small, editor, policy, arguments.verifier, 1, 1)  # the first passes through any model are slower
    _say(_HEAD)
    for cell in cells(arguments.groups, arguments.steps, arguments.sides, arguments.objectives):
        measured.append(measure(cell, editor, policy, arguments.verifier, arguments.repeats, arguments.prompts))
        _say(_line(measured[-1]))
    note = _note(measured)
    _say(note)
    return {
        "environment": environment(),
        "load": {"before": load, "after": os.getloadavg()},
        "settings": {name: getattr(arguments, name) for name in ("repeats", "threads", "prompts")},
        "gradient_difference": gaps,
        "cells": measured,
        "note": note,
    }


_HEAD = (
    f"{'':22s} {'ours':^37s}  {'naive':^37s}\n{'loss group steps  side':22s}"
    + f" {'s/step':>9s}{'encode':>7s}{'sample':>7s}{'verify':>7s}{'update':>7s} " * 2
    + f"{'ratio':>6s}{'cpu':>6s}"
)


def _line(cell: dict[str, Any]) -> str:
    text = f"{cell['objective']:4s} {cell['group']:5d} {cell['steps']:5d} {cell['side']:5d}"
    for name in ("ours", "naive"):
        shares = "".join(f"{cell[name]['shares'][part]:7.0%}" for part in PARTS)
        text += f" {cell[name]['seconds']:9.2f}{shares} "
    return f"{text}{cell['ratio']:6.1f}{cell['processor_ratio']:6.1f}"


def _note(measured: Sequence[dict[str, Any]]) -> str:
    unreadable = max(cell["unreadable"] for cell in measured)
    fixed = "; where none of a step could be read its advantages are fixed ones" if unreadable else ""
    return (
        f"Seconds of a whole step, and the share of each part. Up to {unreadable:.0%} of a cell's edits could not be "
        f"judged{fixed}. The two forms compute the same gradient for the steps that both train; the naive one trains "
        "more of them. Whether these are worth their cost is not measured here."
    )


def _arguments(argv: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description="seconds per step of editor GRPO: ours and the naive form")
    parser.add_argument("--editor", type=Path, default=assets.EDITOR, help="folder of a Kontext pipeline")
    parser.add_argument("--verifier", type=Path, default=assets.VERIFIER, help="folder of a verifier")
    parser.add_argument("--repeats", type=int, default=3, help="steps of each form; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=2, help="tasks of a step")
    parser.add_argument("--groups", type=int, nargs="+", default=[8, 4, 16], help="the first one goes with the others")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8], help="of the sampling; likewise")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128], help="pixels; likewise")
    parser.add_argument("--objectives", nargs="+", choices=("clip", "nft"), default=["clip", "nft"], help="likewise")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
