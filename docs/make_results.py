"""Write docs/results.md from finished runs: `python docs/make_results.py runs/seed0 runs/seed1 runs/seed2`.

Each argument is the folder of an `edit-r1 demo` run; tables have a column per run, in the given order. Without any,
what the page says of the demo stays, and only the tables of the claims are written anew from `results/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edit_r1.config import load_recipe
from edit_r1.evaluation.claims_table import (
    NOISE,
    arms_table,
    curves_table,
    editors_table,
    gains_table,
    noise_table,
    table,
)
from edit_r1.evaluation.rows import read_rows
from edit_r1.files import atomic_write
from edit_r1.stages import ClaimsRecipe, EditorClaimsRecipe

ROOT = Path(__file__).parents[1]
Report = dict[str, Any]
Measure = Callable[[Report], float]

PAGE = """# Results

Written by `python docs/make_results.py {runs}`. Everything here is measured in the built-in world. Preferences are
*simulated*: an annotator with stated weights orders two edits by the oracle's truth. Held-out pairs have no label
noise, and other scenes and other sentences than training. Settings were chosen on validation data, with one exception:
the share of faulty edits in the editor base's training was set after a look at other tasks of `test`.

## Targets

{targets}

The runs:

{commands}

Seconds by stage (two threads ran on idle cores; runs with one thread side by side, which says nothing of the target):

{seconds}

## The verifier

The same pairs and 4 traces per edit for the cold start and for GCPO; the base is asked about fewer. A tie is wrong in
*pairwise accuracy* and half right in *ties half*; a coin has 50% there. *Checks*: share of checks that agree with the
oracle. Interval: 95%, bootstrap over sources, of the pairwise accuracy.

{verifiers}

Kinds never seen in training (split `heldout`: the category `material`, the pairing purple X, the fault `overshoot`;
the lessons in words of the verifier's base may hold one, no picture does):

{heldout}

## The editor

Tasks of the split `test`, the same noise for both editors, deterministic sampling. *Success*: every principle is met,
as the oracle reads the image. *Follow*, *keep*, *quality*: every principle of that category. *Reward*: the verifier's
mean score. *Copies*: edits that show the source's scene again.

{editors}

Success by category, all runs together:

{categories}

"""

CLAIMS_TITLE = "## The claims about verifiers"
CLAIMS_PAGE = (
    CLAIMS_TITLE
    + """

    edit-r1 evaluate claims        # docs/claims.md says what is compared and how it is kept equal, and what was found

Means over seeds, with the smallest and the largest; {rows} of {all_rows} rows are there. *Tokens*: written per trace.
*TFLOP*: training on top of pretraining. Gains are in points, with a 95% interval over seeds (Student's) where there
are several.

{arms}

{gains}

GCPO against wrong labels among the training pairs:

{noise}

## The claims about editors

    edit-r1 evaluate editor-claims

The same tasks and noise for all arms of a seed; {editor_rows} of {all_editor_rows} rows are there. *Reward*: the
mean score that the arm's own verifier writes (training may also weigh it with its probability). *Gain*: of success over
the base, in points. *Confirmed*: the gain of success over the gain of that score (as a share of 10; where it
rose by 0.1 or more). *Alarm*: the first step at which a guard alarmed (docs/guards.md), seed by seed.

{editor_arms}

On the probe (96 tasks of `val`) while they train, by images; in brackets the seconds until then (on busy cores, so that
they are no more than a hint):

{editor_curves}

## The oracle

    python benchmarks/oracle.py

reads 1000 clean images and 1000 with noise of 0.03 and a shift by one pixel without one error; docs/world.md has the
table.
"""
)


def _gain(part: str, before: str, after: str, key: str) -> Measure:
    return lambda r: 100 * (r[part][after][key] - r[part][before][key])


def _value(part: str, stage: str, key: str) -> Measure:
    return lambda r: 100 * r[part][stage][key]


TARGETS: tuple[tuple[str, Measure, Callable[[float], bool], str], ...] = (
    ("cold start, ties half: at least 65%", _value("verifier", "cold_start", "tie_half"), lambda v: v >= 65, "{:.1f}%"),
    (
        "GCPO over cold start, pairwise accuracy: at least +3 points",
        _gain("verifier", "cold_start", "gcpo", "pairwise_accuracy"),
        lambda v: v >= 3,
        "{:+.1f}",
    ),
    (
        "GCPO over cold start, ties half: at least +2 points",
        _gain("verifier", "cold_start", "gcpo", "tie_half"),
        lambda v: v >= 2,
        "{:+.1f}",
    ),
    (
        "GCPO over cold start, checks: not lower",
        _gain("verifier", "cold_start", "gcpo", "check_accuracy"),
        lambda v: v >= 0,
        "{:+.1f}",
    ),
    ("failure rate after GCPO: at most 2%", _value("verifier", "gcpo", "failure_rate"), lambda v: v <= 2, "{:.1f}%"),
    (
        "editor base, oracle success: 35 to 65%",
        _value("editor", "base", "oracle_success"),
        lambda v: 35 <= v <= 65,
        "{:.1f}%",
    ),
    (
        "editor after RL, oracle success: at least +5 points",
        _gain("editor", "base", "grpo", "oracle_success"),
        lambda v: v >= 5,
        "{:+.1f}",
    ),
    ("editor after RL, copies: not more", _gain("editor", "base", "grpo", "noop_rate"), lambda v: v <= 0, "{:+.1f}"),
)


def targets(reports: Sequence[Report], names: Sequence[str], threads: Sequence[int]) -> str:
    """What the project has set itself, and whether each run reached it; a run on one core says nothing of the time."""
    rows: list[list[str]] = []
    for text, measure, met, form in TARGETS:
        values = [measure(report) for report in reports]
        rows.append([text, *(f"{form.format(v)} {'✓' if met(round(v, 6)) else '✗'}" for v in values)])
    minutes = [report["seconds"] / 60 for report in reports]
    times = [f"{m:.1f} min {'✓' if m <= 15 else '✗'}" if n == 2 else "–" for m, n in zip(minutes, threads, strict=True)]
    rows.append(["the demo: at most 15 minutes on two cores", *times])
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


def categories(folders: Sequence[Path]) -> str:
    """Success by category, before and after, tasks of all runs together."""
    files = [json.loads((folder / "evaluation/editor/editor.json").read_text())["by_category"] for folder in folders]
    rows: list[list[str]] = []
    for category in sorted({name for file in files for stage in file.values() for name in stage}):
        counts = {
            stage: [
                (n["oracle_success"] * n["tasks"], n["tasks"])
                for f in files
                if (n := f[stage].get(category)) is not None
            ]
            for stage in ("base", "grpo")
        }
        tasks = sum(count for _, count in counts["base"])
        rows.append(
            [category, str(tasks), *(_percent(sum(s for s, _ in c) / sum(t for _, t in c)) for c in counts.values())]
        )
    return table(["category", "tasks", "base", "after RL"], rows)


def _threads(folder: Path) -> int:
    environment = json.loads((folder / "environment.json").read_text())
    return environment["threads"] or environment["cpus"]  # without a limit there is a thread per core


def claims() -> str:
    """The part of the page that the tables in `results/` give, and how much of them there is."""
    from edit_r1.evaluation import claims, editor_claims  # here, for they load torch

    verifiers, editors = (read_rows(ROOT / "results" / f"{name}_claims.json") for name in ("verifier", "editor"))
    expected = 2 * len(claims.plan(load_recipe(ClaimsRecipe, "claims").claims, NOISE))  # every result has two splits
    values = {
        "rows": len(verifiers),
        "all_rows": expected,
        "arms": arms_table(verifiers),
        "gains": gains_table(verifiers),
        "noise": noise_table(verifiers),
        "editor_rows": len(editors),
        "all_editor_rows": len(editor_claims.plan(load_recipe(EditorClaimsRecipe, "editor_claims"))),
        "editor_arms": editors_table(editors),
        "editor_curves": curves_table(editors),
    }
    return CLAIMS_PAGE.format(**values)


def page(folders: Sequence[Path]) -> str:
    """What the page says of the demo."""
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    demos = [json.loads((folder / "demo.json").read_text()) for folder in folders]
    heldout = [json.loads((f / "evaluation/verifier/verifier.json").read_text())["heldout"] for f in folders]
    if any(demo.get("split", "test") != "test" for demo in demos):
        sys.exit("a run was measured on validation data; results are of the split test")
    names = [f"seed {demo['seed']}" for demo in demos]
    threads = [_threads(folder) for folder in folders]
    commands = "\n".join(f"    {demo['command']}        # commit {demo['commit']}" for demo in demos)
    seconds = table(
        ["run", "threads", *demos[0]["stage_seconds"], "all"],
        [
            [name, str(count), *map(str, demo["stage_seconds"].values()), str(demo["seconds"])]
            for name, count, demo in zip(names, threads, demos, strict=True)
        ],
    )
    values = {
        "runs": " ".join(str(folder) for folder in folders),
        "targets": targets(reports, names, threads),
        "commands": commands,
        "seconds": seconds,
        "verifiers": verifiers(names, [report["verifier"] for report in reports]),
        "heldout": verifiers(names, heldout),
        "editors": editors(reports, names),
        "categories": categories(folders),
    }
    return PAGE.format(**values)


def main(folders: Sequence[Path], file: Path) -> None:
    """Write the page; without folders only its second part."""
    demo = page(folders) if folders else file.read_text(encoding="utf-8").split(CLAIMS_TITLE)[0]
    atomic_write(file, f"{demo.rstrip()}\n\n{claims()}")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]], Path(__file__).with_name("results.md"))
