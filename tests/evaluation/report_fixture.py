"""A run folder as the stages leave it: pictures and principles of the built-in world, invented verdicts and curves.

`python tests/evaluation/report_fixture.py FOLDER` writes one with its report, to look at.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from edit_r1.evaluation.editor_metrics import EditOutcome, editor_metrics, edits_by_category
from edit_r1.evaluation.metrics import (
    JudgedTrace,
    ScoredPair,
    confusion,
    failure_counts,
    pairs_by_category,
    verifier_metrics,
)
from edit_r1.evaluation.report import write_report
from edit_r1.records import Check, Choice, Failure, PrincipleCategory, Provenance, Verdict
from edit_r1.verifier.trace import format_trace
from edit_r1.world.faults import Candidate, candidate, draw_faults
from edit_r1.world.oracle import Reading
from edit_r1.world.render import render, to_image
from edit_r1.world.tasks import Truth, WorldTask, sample_task

PROVENANCE = Provenance("tiny", "0", "0", "{}", 64)
ERRORS = {"base": 0.5, "cold_start": 0.2, "gcpo": 0.08}
SPREAD = {"base": 3.0, "cold_start": 2.0, "gcpo": 0.5}


def build_run(path: Path, *, pairs: int = 24, tasks: int = 12, steps: int = 40, seed: int = 0) -> Path:
    """Write a complete run folder without its report."""
    rng = np.random.default_rng(seed)
    (path / "evaluation" / "images").mkdir(parents=True)
    write(path / "evaluation" / "verifier.json", verifier_json(rng, path / "evaluation", pairs))
    write(path / "evaluation" / "editor.json", editor_json(rng, path / "evaluation", tasks))
    command = ["edit-r1", "demo", "--preset", "default"]
    write(
        path / "demo.json", {"preset": "default", "seed": 0, "commit": "f" * 40, "seconds": 692.4, "command": command}
    )
    for name in ("cold_start", "gcpo", "editor"):
        stage_folder(path / name, curves(rng, name, steps))
    return path


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def stage_folder(path: Path, lines: Sequence[Mapping[str, float | None]]) -> None:
    environment = {
        "time": "2026-11-23T18:15:00+00:00",
        "command": ["edit-r1", "demo"],
        "commit": "f" * 40,
        "changed": False,
        "python": "3.11.4",
        "platform": "Linux x86_64",
        "cpus": 2,
        "threads": None,
        "gpus": [],
        "libraries": {"torch": "2.13.0", "trl": "1.16.0"},
    }
    write(path / "config.json", {"steps": len(lines), "learning_rate": 3e-5})
    write(path / "environment.json", environment)
    write(path / "done.json", {"steps": len(lines)})
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def curves(rng: Generator, name: str, steps: int) -> list[dict[str, float | None]]:
    """Made-up metrics of a stage; the probe set is measured every fifth step only."""
    lines: list[dict[str, float | None]] = []
    for step in range(1, steps + 1):
        rise = 1 - math.exp(-3 * step / steps)
        noise = float(rng.normal(0, 0.03))
        if name == "cold_start":
            line = {
                "loss": 2.4 - 2 * rise + noise,
                "mean_token_accuracy": 0.3 + 0.6 * rise,
                "learning_rate": 1e-3 / step,
            }
        elif name == "gcpo":
            line = {
                "reward": 0.6 + 0.2 * rise + noise,
                "pair_accuracy": 0.7 + 0.08 * rise + noise,
                "length": 92 - 6 * rise + 40 * noise,
                "grad_norm": 1 + noise,
            }
            if step % 5 == 0:
                line |= {"probe_check_accuracy": 0.9 + noise / 3}
                line |= {"failure_rate": 0.03 - 0.03 * rise, "tie_rate": 0.2 - 0.1 * rise}
        else:
            line = {
                "reward": 5.5 + 1.5 * rise + 10 * noise,
                "signal_share": 0.9 + noise,
                "kl": 0.02 * rise,
                "noop_rate": 0.1 - 0.04 * rise,
            }
            line |= {
                "failure_rate": 0.01,
                "clip_share": 0.1 + noise / 2,
                "oracle_success": 0.4 + 0.1 * rise + noise,
                "queue/left": float(steps - step),
            }
            if step % 5 == 0:
                line |= {"probe_oracle_success": 0.45 + 0.12 * rise + noise / 3, "probe_reward": 6 + 1.2 * rise}
        lines.append({"step": step, **line})
    lines[0] |= {"grad_norm": None}
    return lines


def task_with_candidates(
    rng: Generator, count: int, right: float = 0.0
) -> tuple[WorldTask, list[Candidate], list[Truth]]:
    """A held-out task, edits of it (a share `right` without faults), and the truth of each."""
    task = sample_task(rng, "test")
    faults = [() if rng.random() < right else draw_faults(rng) for _ in range(count)]
    drawn = [candidate(rng, task.scene, task.operation, each) for each in faults]
    return task, drawn, [task.judge(Reading(each.scene, each.defects, 0.0)) for each in drawn]


def categories(task: WorldTask) -> list[PrincipleCategory]:
    return [claim.principle.category for claim in task.claims]


def verdict(rng: Generator, task: WorldTask, truth: Truth, stage: str) -> Verdict | Failure:
    """What a verifier with this stage's rate of errors writes; the base often writes no score."""
    checks = tuple(
        Check(claim.principle, found.met != (rng.random() < ERRORS[stage]), found.evidence)
        for claim, found in zip(task.claims, truth.findings, strict=True)
    )
    share = sum(check.met for check in checks) / len(checks)
    score = float(np.clip(round(2 * (10 * share + rng.normal(0, SPREAD[stage]))) / 2, 0, 10))
    text = format_trace(checks, score)
    if rng.random() < {"base": 0.6, "cold_start": 0.04, "gcpo": 0.0}[stage]:
        return Failure("no_score", text.rpartition("\n")[0])
    return Verdict(checks, score, text, PROVENANCE)


def judge(rng: Generator, task: WorldTask, truth: Truth, stage: str) -> tuple[list[Verdict | Failure], dict[str, Any]]:
    """Two traces of one edit, and the edit's entry in the examples."""
    verdicts = [verdict(rng, task, truth, stage) for _ in range(2)]
    readable = [one for one in verdicts if isinstance(one, Verdict)]
    entry: dict[str, Any] = {"score": None, "trace": "", "checks": [], "failure": None}
    if readable:
        entry["score"] = sum(one.score for one in readable) / len(readable)
        entry |= {"trace": readable[0].trace, "checks": check_entries(readable[0].checks, truth)}
    else:
        failed = verdicts[0]
        assert isinstance(failed, Failure)
        entry |= {"trace": failed.text, "failure": failed.kind}
    return verdicts, entry


def check_entries(checks: Sequence[Check], truth: Truth) -> list[dict[str, Any]]:
    return [
        {
            "question": check.principle.question,
            "category": check.principle.category,
            "met": check.met,
            "reason": check.reason,
            "truth": found.met,
        }
        for check, found in zip(checks, truth.findings, strict=True)
    ]


def save(folder: Path, name: str, drawn: Candidate | WorldTask) -> str:
    """Save a picture under `images/`; the relative path."""
    array = drawn.image if isinstance(drawn, Candidate) else render(drawn.scene)
    to_image(array).save(folder / "images" / f"{name}.png")
    return f"images/{name}.png"


def verifier_json(rng: Generator, folder: Path, count: int) -> dict[str, Any]:
    examples: list[dict[str, Any]] = []
    scored: dict[str, list[ScoredPair]] = {stage: [] for stage in ERRORS}
    traces: dict[str, list[JudgedTrace]] = {stage: [] for stage in ERRORS}
    while len(examples) < count:
        task, drawn, truths = task_with_candidates(rng, 2)
        shares = [sum(found.met for found in truth.findings) for truth in truths]
        if shares[0] == shares[1]:
            continue
        name, choice = f"pair{len(examples)}", "first" if shares[0] > shares[1] else "second"
        example: dict[str, Any] = {"instruction": task.instruction, "category": task.operation.category}
        example |= {"source": save(folder, f"{name}_source", task), "choice": choice, "stages": {}}
        example |= {"first": save(folder, f"{name}_a", drawn[0]), "second": save(folder, f"{name}_b", drawn[1])}
        for stage in ERRORS:
            sides = [judge(rng, task, truth, stage) for truth in truths]
            for (verdicts, _), truth in zip(sides, truths, strict=True):
                gold = tuple(found.met for found in truth.findings)
                traces[stage] += [JudgedTrace(one, gold) for one in verdicts]
            first, second = (entry for _, entry in sides)
            example["stages"][stage] = {"first": first, "second": second}
            scored[stage].append(pair_of(first["score"], second["score"], choice, name, task))
        examples.append(example)
    return {
        "stages": {s: verifier_metrics(scored[s], traces[s], traces_per_edit=2).to_json() for s in ERRORS},
        "heldout": {s: verifier_metrics(scored[s][::2], traces[s][::2], traces_per_edit=2).to_json() for s in ERRORS},
        "by_category": {s: pairs_by_category(scored[s]) for s in ERRORS},
        "confusion": {s: {k: t.to_json() for k, t in confusion(traces[s]).items()} for s in ERRORS},
        "sampled": {s: {k: t.to_json() for k, t in confusion(traces[s][::2]).items()} for s in ERRORS},
        "failures": {s: failure_counts([trace.verdict for trace in traces[s]]) for s in ERRORS},
        "examples": examples,
    }


def pair_of(first: float | None, second: float | None, choice: str, group: str, task: WorldTask) -> ScoredPair:
    made: Choice = "first" if choice == "first" else "second"
    return ScoredPair(first, second, made, group, task.operation.category)


def editor_json(rng: Generator, folder: Path, count: int) -> dict[str, Any]:
    examples: list[dict[str, Any]] = []
    judged: dict[str, list[EditOutcome]] = {"base": [], "grpo": []}
    for index in range(count):
        task = sample_task(rng, "test")
        example: dict[str, Any] = {"instruction": task.instruction, "category": task.operation.category, "edits": {}}
        example["source"] = save(folder, f"task{index}_source", task)
        example["goal"] = save(folder, f"task{index}_goal", candidate(rng, task.scene, task.operation))
        for stage, right in (("base", 0.3), ("grpo", 0.6)):
            drawn = candidate(rng, task.scene, task.operation, () if rng.random() < right else draw_faults(rng))
            truth = task.judge(Reading(drawn.scene, drawn.defects, 0.0))
            _, entry = judge(rng, task, truth, "gcpo")
            met = [found.met for found in truth.findings]
            pairs = tuple(zip(categories(task), met, strict=True))
            judged[stage].append(EditOutcome(pairs, truth.noop, entry["score"], str(index), task.operation.category))
            example["edits"][stage] = {
                "image": save(folder, f"task{index}_{stage}", drawn),
                "score": entry["score"],
                "success": truth.success,
                "checks": entry["checks"],
            }
        examples.append(example)
    return {
        "stages": {stage: editor_metrics(edits).to_json() for stage, edits in judged.items()},
        "by_category": {stage: edits_by_category(edits) for stage, edits in judged.items()},
        "examples": examples,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not folder.exists():
        build_run(folder, pairs=60, tasks=16, steps=120)
    sys.stdout.write(f"{write_report(folder)}\n")
