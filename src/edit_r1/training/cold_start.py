"""Cold start (paper section 2): imperfect teachers write texts on each edit, gold picks one, SFT on what was kept.

In the built-in world the teachers are simulated and gold is the oracle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from edit_r1 import assets
from edit_r1.data.gold import truth_of
from edit_r1.data.store import JudgedEdit, read_edits
from edit_r1.stages import EDITS, ColdStartConfig, TraceForm
from edit_r1.training.backbone import load_backbone
from edit_r1.training.processes import open_run
from edit_r1.training.sft import example, fine_tune, finish
from edit_r1.verifier.prompting import build_prompt
from edit_r1.verifier.selection import agreement, select
from edit_r1.verifier.trace import format_trace
from edit_r1.world.principles import compare
from edit_r1.world.tasks import Truth, WorldTask, world_task
from edit_r1.world.teachers import TEACHERS, Lesson, teach


def written(form: TraceForm, task: WorldTask, truth: Truth, kept: Lesson) -> str:
    """The text to be learnt from a lesson, whole or in part; thoughts say what there is to see, without principles."""
    if form == "full":
        return format_trace(kept.checks, kept.score)
    if form == "verify":
        return format_trace([replace(check, reason="") for check in kept.checks], kept.score)
    thoughts = f"<think>\n{compare(task.scene, truth.reading.scene)}\n</think>\n" if form == "think" else ""
    return thoughts + format_trace([], kept.score)


def selected_traces(
    edits: Iterator[JudgedEdit],
    seed: int,
    statistics: Counter[str],
    form: TraceForm = "full",
    template: str = "compact",
) -> Iterator[dict[str, Any]]:
    """One SFT row per edit: the kept text. `statistics` counts who was kept, and the checks kept right and in all."""
    rng = np.random.default_rng([seed, 7])
    for judged in edits:
        task = world_task(judged.edit.task)
        truth = truth_of(judged.edit, judged.truth)
        gold = [finding.met for finding in truth.findings]
        lessons = [teach(rng, teacher, task, truth) for teacher in TEACHERS]
        kept = lessons[select(lessons, gold)]
        statistics[kept.teacher] += 1
        statistics["checks"] += len(gold)
        statistics["right"] += round(agreement(kept.checks, gold) * len(gold))
        record = judged.edit.task
        asked = record.principles if form in ("full", "verify") else ()
        prompt = build_prompt(record, judged.edit.image, asked, template)
        yield example(record.source, judged.edit.image, prompt.text, written(form, task, truth, kept))


def run(config: ColdStartConfig, *, data: Path, model: Path | None, out: Path, seed: int, resume: bool) -> None:
    """Fine-tune the verifier in `model` (default: the shipped base) on edits in `data`; the result is `out/model`."""
    folder = open_run(out, config, resume, {"seed": seed, "data": str(data), "model": str(model)})
    if folder.done is not None:
        return
    torch.manual_seed(seed)
    verifier, processor = load_backbone(model or assets.VERIFIER, config.backbone)
    statistics: Counter[str] = Counter()
    rows = list(selected_traces(read_edits(data / EDITS), seed, statistics, config.form, config.backbone.template))
    trainer = fine_tune(
        verifier, processor, Dataset.from_list(rows), config, folder, "Cold start", seed=seed, resume=resume
    )
    finish(folder, trainer, processor, {"traces": len(rows), **statistics})
