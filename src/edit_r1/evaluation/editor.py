"""Held-out measurement of editors: which of their edits are right, as the oracle reads them.

All editors get the same tasks, of the split that the world is measured on, and start from the same noise; sampling is
deterministic (ODE). The oracle decides what is right; the verifier's score is reported beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from edit_r1 import assets
from edit_r1.editors.base import edit, to_pil
from edit_r1.editors.loading import load_editor
from edit_r1.evaluation.editor_metrics import EditOutcome, editor_metrics, edits_by_category
from edit_r1.files import atomic_write, disk_errors
from edit_r1.records import Edit, EditTask, Failure
from edit_r1.runs.progress import Tracker, track
from edit_r1.runs.run import Run, made_from, weights_of
from edit_r1.stages import EvaluateConfig, Measured
from edit_r1.verifier.local import load_verifier
from edit_r1.verifier.verifier import Judgement, Verifier
from edit_r1.world.render import from_image, render, to_image
from edit_r1.world.tasks import Truth, WorldTask, judge_edits, sample_task

TRACES = 1
"""One greedy trace per edit, as in the recipes' training; of it the score that it writes."""

_STREAM = 32  # keeps these tasks apart from the held-out pairs of the same split and seed
_CHUNK = 50


@dataclass(frozen=True)
class Sample:
    """One editor's edit of one task, with the oracle's word and the verifier's."""

    edit: Edit
    truth: Truth
    judgement: Judgement


def held_out_tasks(count: int, seed: int, split: Measured = "test") -> list[WorldTask]:
    """Tasks of a split that no training saw: new scenes, and in `test` new phrasings."""
    rng = np.random.default_rng([seed, _STREAM])
    return [sample_task(rng, split) for _ in range(count)]


def sample_and_judge(
    folder: Path,
    tasks: Sequence[WorldTask],
    records: Sequence[EditTask],
    verifier: Verifier,
    *,
    steps: int,
    seed: int,
    bar: Tracker,
) -> list[Sample]:
    """One edit per task by the editor in `folder`. Noise and traces depend on the seed and a task's position alone."""
    editor = load_editor(folder).to("cuda" if torch.cuda.is_available() else "cpu")
    samples: list[Sample] = []
    for start in range(0, len(tasks), _CHUNK):
        part = records[start : start + _CHUNK]
        images = to_pil(edit(editor, part, steps, seed + start))
        edits = [Edit(task, image, editor.name, seed + start) for task, image in zip(part, images, strict=True)]
        truths = judge_edits(tasks[start : start + _CHUNK], np.stack([from_image(image) for image in images]))
        judgements = verifier.score(edits, TRACES, seed + start)
        samples += [Sample(*row) for row in zip(edits, truths, judgements, strict=True)]
        bar.advance(len(part))
    return samples


def judged(samples: Sequence[Sample]) -> list[EditOutcome]:
    """Samples as the metrics want them; every task is a group of its own."""
    return [
        EditOutcome(
            truth=tuple(
                (principle.category, finding.met)
                for principle, finding in zip(sample.edit.task.principles, sample.truth.findings, strict=True)
            ),
            noop=sample.truth.noop,
            reward=sample.judgement.score,
            group=str(index),
            category=sample.edit.task.category,
        )
        for index, sample in enumerate(samples)
    ]


def choose(before: Sequence[bool], after: Sequence[bool], categories: Sequence[str], count: int) -> list[int]:
    """Tasks worth a look: half newly right, then newly wrong, right both times and wrong both times, a sixth each.

    What one kind lacks goes to the next. Within a kind the categories take turns.
    """
    kinds = [(False, True), (True, False), (True, True), (False, False)]
    shares = [count - 3 * (count // 6), *[count // 6] * 3]
    found = [
        _in_turn([i for i, pair in enumerate(zip(before, after, strict=True)) if pair == kind], categories)
        for kind in kinds
    ]
    chosen = [index for rows, share in zip(found, shares, strict=True) for index in rows[:share]]
    rest = [index for rows, share in zip(found, shares, strict=True) for index in rows[share:]]
    return sorted([*chosen, *rest[: count - len(chosen)]])


def examples(
    tasks: Sequence[WorldTask], stages: Mapping[str, Sequence[Sample]], count: int, images: Path
) -> list[dict[str, Any]]:
    """Examples for the report (`results.EditExample`); their pictures are written into `images`."""
    first, *_, last = [*stages.values(), *stages.values()]
    chosen = choose(
        [sample.truth.success for sample in first],
        [sample.truth.success for sample in last],
        [sample.edit.task.category for sample in first],
        count,
    )
    shown: list[dict[str, Any]] = []
    with disk_errors(images):
        images.mkdir(parents=True, exist_ok=True)
        for index in chosen:
            task, record = tasks[index], first[index].edit.task
            goal = to_image(render(task.operation.apply(task.scene)))
            pictures = {"source": record.source, "goal": goal}
            files = {name: _save(image, images / f"task{index}_{name}.png") for name, image in pictures.items()}
            edits = {
                stage: {
                    "image": _save(rows[index].edit.image, images / f"task{index}_{stage}.png"),
                    **_said(rows[index]),
                }
                for stage, rows in stages.items()
            }
            shown.append({"instruction": record.instruction, "category": record.category, **files, "edits": edits})
    return shown


def evaluate(
    config: EvaluateConfig,
    *,
    data: Path,
    models: Mapping[str, Path],
    verifier: Path,
    out: Path,
    seed: int,
    resume: bool,
    checklist: bool = True,
) -> dict[str, Any]:
    """Measure editors on the same held-out tasks and noise, and write `out/editor.json` (`results.EditorResult`).

    Args:
        config: `tasks`, `editor_steps` and `examples` say how much; the rest is the verifier's.
        data: the world's folder; it says which split the tasks are drawn from.
        models: editors by the name of their stage, `base` first.
        verifier: whose score is reported beside the truth.
        out: the run directory.
        seed: of tasks, noise and traces.
        resume: go on with what is in `out`; an interrupted measurement begins again.
        checklist: whether the verifier is asked about principles.

    Returns:
        The metrics of every stage, `E` of report.json.

    Raises:
        UserError: a folder holds no editor, or no verifier, or `out` cannot be used.
    """
    places = {name: str(path) for name, path in models.items()}
    inputs = {"seed": seed, **made_from(data), "models": places, "verifier": str(verifier)}
    inputs |= weights_of(*models.values(), verifier)
    run = Run.open(out, config, resume, inputs=inputs)
    if run.done is not None:
        return run.done
    judge = load_verifier(
        verifier,
        template=config.template,
        temperature=0.0,
        max_tokens=config.max_tokens,
        batch_size=config.batch_size,
        checklist=checklist,
    )
    tasks = held_out_tasks(config.tasks, seed, Run(data).config.get("split", "test"))
    records = [task.record() for task in tasks]
    with track("Judging editors", total=len(models) * len(tasks)) as bar:
        stages = {
            name: sample_and_judge(path, tasks, records, judge, steps=config.editor_steps, seed=seed, bar=bar)
            for name, path in models.items()
        }
    rows = {name: judged(samples) for name, samples in stages.items()}
    result: dict[str, Any] = {
        "stages": {name: editor_metrics(edits, seed=seed).to_json() for name, edits in rows.items()},
        "by_category": {name: edits_by_category(edits) for name, edits in rows.items()},
        "examples": examples(tasks, stages, config.examples, out / "images"),
    }
    atomic_write(out / "editor.json", json.dumps(result, indent=1) + "\n")
    run.finish(result["stages"])
    return result["stages"]


def run(
    config: EvaluateConfig, *, data: Path, model: Path | None, verifier: Path, out: Path, seed: int, resume: bool
) -> str:
    """Measure the editor in `model` beside the shipped base (the base alone without a model); text for people."""
    models = {"base": assets.EDITOR} | ({"grpo": model} if model is not None else {})
    found = evaluate(config, data=data, models=models, verifier=verifier, out=out, seed=seed, resume=resume)
    shares = ("oracle_success", "oracle_follow", "oracle_keep", "oracle_quality", "noop_rate")
    lines = ["editor   success  follow    keep  quality  copies  reward  95% of success"]
    for name, row in found.items():
        numbers = "".join(f"{row[key]:{width}.1%}" for key, width in zip(shares, (9, 8, 8, 9, 8), strict=True))
        reward = "–" if row["reward"] is None else f"{row['reward']:.2f}"
        lines.append(f"{name:<7}{numbers}{reward:>8}  {row['ci95'][0]:.1%} to {row['ci95'][1]:.1%}")
    return "\n".join([*lines, f"examples, categories: {out / 'editor.json'}"])


def _said(sample: Sample) -> dict[str, Any]:
    """The verifier's score and its first readable checks, each beside the truth."""
    readable = (verdict for verdict in sample.judgement.verdicts if not isinstance(verdict, Failure))
    verdict = next(readable, None)
    said = verdict.checks if verdict else ()  # a verifier that is not asked about principles says nothing of them
    checks = [
        {
            "question": check.principle.question,
            "category": check.principle.category,
            "met": check.met,
            "reason": check.reason,
            "truth": finding.met,
        }
        for check, finding in zip(said, sample.truth.findings, strict=bool(said))
    ]
    return {"score": sample.judgement.score, "success": sample.truth.success, "checks": checks}


def _in_turn(rows: Sequence[int], categories: Sequence[str]) -> list[int]:
    """The rows with their categories taking turns: the first of each, then the second of each, ..."""
    seen: dict[str, int] = {}
    turns: list[tuple[int, int]] = []
    for row in rows:
        seen[categories[row]] = seen.get(categories[row], -1) + 1
        turns.append((seen[categories[row]], row))
    return [row for _, row in sorted(turns)]


def _save(image: Image, path: Path) -> str:
    """Write a picture; returns its path relative to the run directory."""
    image.save(path)
    return f"{path.parent.name}/{path.name}"
