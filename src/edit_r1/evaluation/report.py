"""The report of a run folder: report.json for programs, report.html for people (one file, no script, no request)."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from edit_r1.errors import UserError
from edit_r1.evaluation import report_view, report_words
from edit_r1.evaluation.plots import format_value
from edit_r1.evaluation.results import (
    EDITOR_STAGES,
    VERIFIER_STAGES,
    DemoResult,
    EditorResult,
    StageFolder,
    VerifierResult,
    read_result,
)
from edit_r1.files import atomic_write
from edit_r1.runs.run import read_metrics

SCHEMA = 1
STAGE_FOLDERS = ("cold_start", "gcpo", "editor")

_NONE = "–"


@dataclass(frozen=True)
class RunFolder:
    """All that a run folder holds for the report; missing parts are None, and missing stages are not listed.

    The paths of pictures are relative to `verifier_folder` and `editor_folder`.
    """

    path: Path
    demo: DemoResult | None
    verifier: VerifierResult | None
    verifier_folder: Path
    editor: EditorResult | None
    editor_folder: Path
    stages: dict[str, StageFolder]


def write_report(run_dir: Path) -> Path:
    """Write report.json and report.html into a run folder, from what its stages left there.

    Parts that are missing (a stage that was not run) are stated on the page.

    Args:
        run_dir: the folder of a demo run; `results.py` says what is read.

    Returns:
        The path of report.html.

    Raises:
        UserError: the folder is missing, holds no part of a run or a damaged file, or cannot be written.
    """
    run = read_run(run_dir)
    document = report_document(run)
    page = render_page(run, document)
    atomic_write(run_dir / "report.json", json.dumps(document, indent=2) + "\n")
    atomic_write(run_dir / "report.html", page)
    return run_dir / "report.html"


def read_run(run_dir: Path) -> RunFolder:
    """Read the parts of a run folder that the report is made of. Raises `UserError` as `write_report` does."""
    if not run_dir.is_dir():
        raise UserError(f"no run folder at {run_dir}; make one with `edit-r1 demo`, or give its path")
    stages = {name: _read_stage(run_dir / name) for name in STAGE_FOLDERS if (run_dir / name).is_dir()}
    verifier_file, editor_file = _result_file(run_dir, "verifier"), _result_file(run_dir, "editor")
    run = RunFolder(
        path=run_dir,
        demo=read_result(DemoResult, run_dir / "demo.json"),
        verifier=read_result(VerifierResult, verifier_file),
        verifier_folder=verifier_file.parent,
        editor=read_result(EditorResult, editor_file),
        editor_folder=editor_file.parent,
        stages=stages,
    )
    if run.demo is None and run.verifier is None and run.editor is None and not stages:
        raise UserError(
            f"{run_dir} holds no run (no demo.json, no stage); make one with `edit-r1 demo --out {run_dir}`"
        )
    return run


def report_document(run: RunFolder) -> dict[str, Any]:
    """report.json: the headline numbers. Stages that were not measured are left out; unknown values are null."""
    demo = run.demo or DemoResult()
    verifier = run.verifier.stages if run.verifier else {}
    editor = run.editor.stages if run.editor else {}
    return {
        "schema": SCHEMA,
        "preset": demo.preset,
        "commit": demo.commit,
        "seconds": demo.seconds,
        "verifier": {name: verifier[name].to_json() for name in VERIFIER_STAGES if name in verifier},
        "editor": {name: editor[name].to_json() for name in EDITOR_STAGES if name in editor},
    }


def render_page(run: RunFolder, document: Mapping[str, Any]) -> str:
    """The HTML page of a run; `document` is its report.json, and the headline numbers are read from there."""
    loader = jinja2.PackageLoader("edit_r1", "evaluation")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"share": _share, "score": _score, "count": _count, "duration": _duration, "code": _code}
    helpers: dict[str, Any] = {
        "lookup": partial(lookup, document),
        "points": _points,
        "words": report_words,
        "view": report_view,
    }
    environment.globals.update(helpers)
    demo = run.demo or DemoResult()
    return environment.get_template("report.html.j2").render(
        run=run,
        demo=demo,
        document=document,
        verifier=run.verifier or VerifierResult(),
        editor=run.editor or EditorResult(),
        command=demo.command if isinstance(demo.command, str | None) else shlex.join(demo.command),
        environments=[(name, stage.environment) for name, stage in run.stages.items() if stage.environment],
    )


def lookup(document: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key such as `verifier.gcpo.ci95.0`; None where a part is missing."""
    value: Any = document
    for part in key.split("."):
        if value is not None:
            value = value[int(part)] if isinstance(value, list) else value.get(part)
    return value


def _result_file(run_dir: Path, name: str) -> Path:
    """evaluation/NAME.json, or evaluation/NAME/NAME.json where the evaluation is a run directory of its own."""
    own = run_dir / "evaluation" / name / f"{name}.json"
    return own if own.exists() else run_dir / "evaluation" / f"{name}.json"


def _read_stage(folder: Path) -> StageFolder:
    try:
        metrics = read_metrics(folder)
    except ValueError as error:
        raise UserError(f"{folder / 'metrics.jsonl'} is damaged ({error}); run its stage again") from error
    parts = {name: _read_object(folder / f"{name}.json") for name in ("config", "environment", "done")}
    return StageFolder(name=folder.name, metrics=tuple(metrics), **parts)


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); run its stage again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (not a JSON object); run its stage again")
    return value


def _share(value: float | None) -> str:
    return _NONE if value is None else format_value(value, "share")


def _score(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def _count(value: int | None) -> str:
    return _NONE if value is None else f"{value:,}"


def _points(before: float | None, after: float | None) -> str:
    """The difference of two shares in percentage points, with its sign."""
    if before is None or after is None:
        return _NONE
    difference = round(100 * (after - before), 1)
    return f"{'+' if difference > 0 else '−' if difference < 0 else '±'}{abs(difference):.1f} points"


def _duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return _NONE
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _code(value: Any) -> str:
    """A JSON value as indented text; a list of words as a command line."""
    if isinstance(value, list):
        return shlex.join(str(word) for word in value)
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
