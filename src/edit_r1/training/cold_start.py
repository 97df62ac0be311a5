"""Cold start (paper section 2): imperfect teachers write texts on each edit, gold picks one, SFT on what was kept.

In the built-in world the teachers are simulated and gold is the oracle. On real images both are models, whose texts
`edit-r1 verifier traces` has gathered and selected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from edit_r1 import assets
from edit_r1.data.gold import truth_of
from edit_r1.data.store import JudgedEdit, KeptTrace, read_edits, read_traces
from edit_r1.errors import UserError
from edit_r1.records import Failure, Provenance
from edit_r1.runs.run import made_from, weights_of
from edit_r1.stages import EDITS, TRACES, ColdStartConfig, TraceForm
from edit_r1.training.backbone import load_backbone
from edit_r1.training.hard_cases import harden, with_other_questions
from edit_r1.training.processes import counted, open_run
from edit_r1.training.sft import example, fine_tune, finish
from edit_r1.verifier.prompting import build_prompt
from edit_r1.verifier.selection import agreement, select
from edit_r1.verifier.trace import format_trace, parse_trace, thoughts
from edit_r1.world.annotators import COST
from edit_r1.world.principles import compare
from edit_r1.world.scene import Scene
from edit_r1.world.tasks import Truth, world_task
from edit_r1.world.teachers import TEACHERS, Lesson, teach


def written(form: TraceForm, source: Scene, truth: Truth, kept: Lesson) -> str:
    """The text to be learnt from a lesson, whole or in part; thoughts say what there is to see, without principles."""
    if form == "full":
        return format_trace(kept.checks, kept.score)
    if form == "verify":
        return format_trace([replace(check, reason="") for check in kept.checks], kept.score)
    thoughts = f"<think>\n{compare(source, truth.reading.scene)}\n</think>\n" if form == "think" else ""
    return thoughts + format_trace([], kept.score)


def selected_traces(
    edits: Iterable[JudgedEdit], config: ColdStartConfig, seed: int, statistics: Counter[str]
) -> Iterator[dict[str, Any]]:
    """One SFT row per edit: the kept text. `statistics` counts who was kept, and the checks kept right and in all."""
    weights = COST if config.teacher_weights == "annotators" else None
    asks = config.form in ("full", "verify")
    rng, hard, other = (np.random.default_rng([seed, stream]) for stream in (7, 8, 9))
    for judged in edits:
        task, edit = world_task(judged.edit.task), judged.edit
        truth, source = truth_of(edit, judged.truth), task.scene
        if hard.random() < config.hard_share:
            edit, truth, source = harden(hard, task, edit, truth)
        elif asks and other.random() < config.question_share:
            edit, truth, source = with_other_questions(other, task, edit, truth)
        gold = [finding.met for finding in truth.findings]
        lessons = [teach(rng, teacher, edit.task.principles, truth, weights) for teacher in TEACHERS]
        kept = lessons[select(lessons, gold)]
        statistics[kept.teacher] += 1
        statistics["checks"] += len(gold)
        statistics["right"] += round(agreement(kept.checks, gold) * len(gold))
        asked = edit.task.principles if asks else ()
        prompt = build_prompt(edit.task, edit.image, asked, config.backbone.template)
        yield example(edit.task.source, edit.image, prompt.text, written(config.form, source, truth, kept))


def recorded(kept: KeptTrace, form: TraceForm, template: str) -> dict[str, Any]:
    """One SFT row of a text that was kept: its thoughts, checks and score in the form that the verifier shall write.

    Whatever else the teacher wrote (fences, prose around the checks) is left out.

    Raises:
        UserError: the text cannot be read; the data set was not written by this version.
    """
    task = kept.edit.task
    verdict = parse_trace(kept.text, task.principles, Provenance(kept.teacher, "", "", "", 0))
    if isinstance(verdict, Failure):
        raise UserError(f"a kept text cannot be read ({verdict.kind}); make the traces anew")
    reasoning = thoughts(kept.text) if form in ("full", "think") else ""
    checks = verdict.checks if form in ("full", "verify") else ()
    shown = [replace(check, reason="") for check in checks] if form == "verify" else checks
    text = (f"<think>\n{reasoning}\n</think>\n" if reasoning else "") + format_trace(shown, verdict.score)
    prompt = build_prompt(task, kept.edit.image, task.principles if checks else (), template)
    return example(task.source, kept.edit.image, prompt.text, text)


def lessons(config: ColdStartConfig, data: Path, seed: int) -> tuple[Dataset, dict[str, int]]:
    """The SFT rows, and what there is to say of them: of the data set `traces` if `data` has one, else of `edits`.

    Real images are read, and their texts made rows of, when their turn comes: they may not all fit into memory.
    """
    template = config.backbone.template
    if (data / TRACES / "dataset_info.json").is_file():
        for name in ("hard_share", "question_share", "teacher_weights"):
            if getattr(config, name):
                raise UserError(f"{name} needs the edits of a built-in world, and {data} has kept texts: leave it out")
        kept = read_traces(data / TRACES)

        def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            found = [recorded(kept[index], config.form, template) for index in batch["index"]]
            return {key: [row[key] for row in found] for key in found[0]}

        return Dataset.from_dict({"index": list(range(len(kept)))}).with_transform(rows), {"traces": len(kept)}
    statistics: Counter[str] = Counter()
    selected = list(selected_traces(read_edits(data / EDITS), config, seed, statistics))
    return Dataset.from_list(selected), {"traces": len(selected), **statistics}


def run(config: ColdStartConfig, *, data: Path, model: Path | None, out: Path, seed: int, resume: bool) -> None:
    """Fine-tune the verifier in `model` (default: the shipped base) on what `data` holds; the result is `out/model`.

    Raises:
        UserError: `data` holds a text that cannot be read, or no truth where a setting needs it.
    """
    base = model or assets.VERIFIER
    inputs = {"seed": seed, **made_from(data), "model": str(model), **weights_of(base), **counted()}
    folder = open_run(out, config, resume, inputs)
    if folder.done is not None:
        return
    torch.manual_seed(seed)
    with folder.unless_refused():
        verifier, processor = load_backbone(base, config.backbone)
        dataset, summary = lessons(config, data, seed)
    trainer = fine_tune(verifier, processor, dataset, config, folder, "Cold start", seed=seed, resume=resume)
    finish(folder, trainer, processor, summary)
