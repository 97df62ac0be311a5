"""Runs of `edit-r1 demo` as tables for people: what was aimed at, and what each run has measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edit_r1.evaluation.claims_table import table
from edit_r1.evaluation.metrics import PRINCIPLE_CATEGORIES, Confusion

Report = dict[str, Any]
"""report.json of a run, or another of its documents."""
Measure = Callable[[Report], float]


def _gain(part: str, before: str, after: str, key: str) -> Measure:
    return lambda r: 100 * (r[part][after][key] - r[part][before][key])


def _value(part: str, stage: str, key: str) -> Measure:
    return lambda r: 100 * r[part][stage][key]


def _minutes(report: Report) -> float:
    return report["seconds"] / 60


class Target(NamedTuple):
    """A bound that a run should keep: `low <= measure <= high`, in percent or points. `preset`: of whose runs alone."""

    text: str
    measure: Measure
    low: float = -math.inf
    high: float = math.inf
    form: str = "{:+.1f}"
    preset: str | None = None

    def mark(self, report: Report) -> str:
        """The value and whether it is in bounds; a dash for a run of another preset."""
        if self.preset not in (None, report["preset"]):
            return "–"
        value = self.measure(report)
        return f"{self.form.format(value)} {'✓' if self.low <= round(value, 6) <= self.high else '✗'}"


_SHARE = "{:.1f}%"
_VERIFIER, _EDITOR = ("verifier", "cold_start", "gcpo"), ("editor", "base", "grpo")
TARGETS = (
    Target("cold start, ties half: at least 65%", _value("verifier", "cold_start", "tie_half"), 65, form=_SHARE),
    Target("GCPO over cold start, pairwise accuracy: at least +3 points", _gain(*_VERIFIER, "pairwise_accuracy"), 3),
    Target("GCPO over cold start, ties half: at least +2 points", _gain(*_VERIFIER, "tie_half"), 2),
    Target("GCPO over cold start, checks: not lower", _gain(*_VERIFIER, "check_accuracy"), 0),
    Target("failure rate after GCPO: at most 2%", _value("verifier", "gcpo", "failure_rate"), high=2, form=_SHARE),
    Target("editor base, oracle success: 35 to 65%", _value("editor", "base", "oracle_success"), 35, 65, _SHARE),
    Target("editor after RL, oracle success: at least +5 points", _gain(*_EDITOR, "oracle_success"), 5),
    Target("editor after RL, copies: not more", _gain(*_EDITOR, "noop_rate"), high=0),
    Target("full: oracle success at least +15 points", _gain(*_EDITOR, "oracle_success"), 15, preset="full"),
    Target("full: keep at most 1 point lower", _gain(*_EDITOR, "oracle_keep"), -1, preset="full"),
    Target("full: quality at most 1 point lower", _gain(*_EDITOR, "oracle_quality"), -1, preset="full"),
)
MINUTES = Target("default: at most 15 minutes on two cores", _minutes, high=15, form="{:.1f} min")


def targets(reports: Sequence[Report], names: Sequence[str], threads: Sequence[int]) -> str:
    """What the project has set itself, and whether each run reached it; a run on one core says nothing of the time."""
    rows = [[target.text, *(target.mark(report) for report in reports)] for target in TARGETS]
    timed = [count == 2 and report["preset"] == "default" for report, count in zip(reports, threads, strict=True)]
    rows.append([MINUTES.text, *(MINUTES.mark(r) if of else "–" for r, of in zip(reports, timed, strict=True))])
    return table(["target", *names], rows)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def verifiers(names: Sequence[str], reports: Sequence[Report]) -> str:
    """One row per run and verifier."""
    rows = [
        [
            name,
            stage.replace("_", " "),
            str(v["pairs"]),
            _percent(v["pairwise_accuracy"]),
            "–".join(f"{100 * x:.1f}" for x in v["ci95"]),
            *(_percent(v[key]) for key in ("tie_half", "tie_rate", "check_accuracy", "failure_rate")),
        ]
        for name, stages in zip(names, reports, strict=True)
        for stage, v in stages.items()
    ]
    head = ["run", "verifier", "pairs", "pairwise accuracy", "95%", "ties half", "ties", "checks", "failures"]
    return table(head, rows)


def faults(names: Sequence[str], evaluations: Sequence[Report]) -> str:
    """Which share of the faults a verifier sees, by category of principles: in drawn and in the editor's own edits."""
    lines: list[list[str]] = []
    for name, evaluation in zip(names, evaluations, strict=True):
        for stage, own in evaluation.get("sampled", {}).items():  # older runs have none
            if stage == "base":  # it writes no checks
                continue
            every = evaluation["confusion"][stage]
            drawn = {key: {n: every[key][n] - own[key][n] for n in own[key]} for key in PRINCIPLE_CATEGORIES}
            counts = [of[key] for of in (drawn, own) for key in PRINCIPLE_CATEGORIES]
            lines.append([name, stage.replace("_", " "), *(_percent(Confusion(**c).faults_seen) for c in counts)])
    kinds = [f"{key}, {kind}" for kind in ("drawn", "own") for key in PRINCIPLE_CATEGORIES]
    return table(["run", "verifier", *kinds], lines)


def editors(reports: Sequence[Report], names: Sequence[str]) -> str:
    """One row per run and editor."""
    rows = [
        [
            name,
            stage,
            str(e["tasks"]),
            _percent(e["oracle_success"]),
            "–".join(f"{100 * x:.1f}" for x in e["ci95"]),
            *(_percent(e[f"oracle_{key}"]) for key in ("follow", "keep", "quality")),
            f"{e['reward']:.2f}",
            _percent(e["noop_rate"]),
        ]
        for name, report in zip(names, reports, strict=True)
        for stage, e in report["editor"].items()
    ]
    return table(["run", "editor", "tasks", "success", "95%", "follow", "keep", "quality", "reward", "copies"], rows)


def categories(folders: Sequence[Path], presets: Sequence[str]) -> str:
    """Success by category, before and after, tasks of all runs of a preset together."""
    files = [json.loads((folder / "evaluation/editor/editor.json").read_text())["by_category"] for folder in folders]
    rows: list[list[str]] = []
    for category in sorted({name for file in files for stage in file.values() for name in stage}):
        row = [category]
        for preset in dict.fromkeys(presets):
            own = [file for file, of in zip(files, presets, strict=True) if of == preset]
            shares: list[str] = []
            for stage in ("base", "grpo"):
                numbers = [file[stage][category] for file in own if category in file[stage]]
                tasks = sum(n["tasks"] for n in numbers)
                shares.append(
                    _percent(sum(n["oracle_success"] * n["tasks"] for n in numbers) / tasks if tasks else None)
                )
            row += [str(tasks), *shares]
        rows.append(row)
    head = [f"{preset}: {what}" for preset in dict.fromkeys(presets) for what in ("tasks", "base", "after RL")]
    return table(["category", *head], rows)
