"""The whole loop: from the shipped bases to a report, every stage a directory that `--resume` goes on with."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edit_r1 import assets
from edit_r1.config import Config, load_recipe, overrides_by_section
from edit_r1.files import atomic_write
from edit_r1.runs.environment import commit
from edit_r1.runs.run import Run
from edit_r1.stages import ColdStartConfig, EditorGrpoConfig, EvaluateConfig, GcpoConfig, WorldConfig


class DemoConfig(Config):
    """The sections of a recipe that the demo runs, in order."""

    world: WorldConfig
    cold_start: ColdStartConfig
    gcpo: GcpoConfig
    editor_grpo: EditorGrpoConfig
    evaluate: EvaluateConfig


def run_demo(preset: str, *, out: Path, seed: int, resume: bool, overrides: Sequence[str]) -> Path:
    """Run every stage that is not done yet and write the report; returns the page's path."""
    parts = overrides_by_section(overrides, list(DemoConfig.model_fields))
    config = DemoConfig(
        world=load_recipe(WorldConfig, preset, parts["world"], section="world"),
        cold_start=load_recipe(ColdStartConfig, preset, parts["cold_start"], section="cold_start"),
        gcpo=load_recipe(GcpoConfig, preset, parts["gcpo"], section="gcpo"),
        editor_grpo=load_recipe(EditorGrpoConfig, preset, parts["editor_grpo"], section="editor_grpo"),
        evaluate=load_recipe(EvaluateConfig, preset, parts["evaluate"], section="evaluate"),
    )
    run = Run.open(out, config, resume, inputs={"preset": preset, "seed": seed})
    for name, stage in _stages(config, out, seed):
        _timed(out, name, stage)
    seconds = _seconds(out)
    revision, changed = commit()
    facts = {
        "preset": preset,
        "seed": seed,
        "split": config.world.split,
        "commit": revision + ("+changes" if changed else ""),
        "seconds": round(sum(seconds.values())),
        "stage_seconds": {name: round(value) for name, value in seconds.items()},
        "command": " ".join(["edit-r1", *sys.argv[1:]]),
    }
    atomic_write(out / "demo.json", json.dumps(facts, indent=1) + "\n")
    from edit_r1.evaluation.report import write_report

    page = write_report(out)
    run.finish(facts)
    return page


def _stages(config: DemoConfig, out: Path, seed: int) -> list[tuple[str, Callable[[], Any]]]:
    """The loop. A stage that is done returns at once; one that was interrupted goes on."""
    from edit_r1.data.make_world import make_world
    from edit_r1.evaluation import editor, verifier
    from edit_r1.training import cold_start, editor_grpo, gcpo

    world, cold, best, edits = out / "world", out / "cold_start", out / "gcpo", out / "editor"
    verifiers = {"base": assets.VERIFIER, "cold_start": cold / "model", "gcpo": best / "model"}
    editors = {"base": assets.EDITOR, "grpo": edits / "model"}
    again: dict[str, Any] = {"seed": seed, "resume": True}
    return [
        ("world", lambda: make_world(config.world, out=world, **again)),
        ("cold_start", lambda: cold_start.run(config.cold_start, data=world, model=None, out=cold, **again)),
        ("gcpo", lambda: gcpo.run(config.gcpo, data=world, model=cold / "model", out=best, **again)),
        (
            "editor",
            lambda: editor_grpo.run(
                config.editor_grpo, data=world, model=None, verifier=best / "model", out=edits, **again
            ),
        ),
        (
            "evaluate_verifier",
            lambda: verifier.evaluate(
                config.evaluate, data=world, models=verifiers, out=out / "evaluation" / "verifier", **again
            ),
        ),
        (
            "evaluate_editor",
            lambda: editor.evaluate(
                config.evaluate, data=world, models=editors, verifier=best / "model",
                out=out / "evaluation" / "editor", **again,
            ),
        ),
    ]  # fmt: skip


def _seconds(out: Path) -> dict[str, float]:
    """Time spent in each stage so far, interrupted attempts included."""
    file = out / "seconds.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _timed(out: Path, name: str, stage: Callable[[], Any]) -> None:
    """Run a stage and add its time, also when it is interrupted."""
    before = _seconds(out)
    started = time.monotonic()
    try:
        stage()
    finally:
        spent = before | {name: before.get(name, 0.0) + time.monotonic() - started}
        atomic_write(out / "seconds.json", json.dumps(spent))
