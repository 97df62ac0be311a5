"""`edit-r1 demo`: the whole loop."""

from __future__ import annotations

from pathlib import Path

import typer

from edit_r1.cli.options import Out, Overrides, Preset, Resume, Seed, examples

EXAMPLES = examples(
    "edit-r1 demo",
    "edit-r1 demo --preset smoke --out runs/smoke",
    "edit-r1 demo --seed 1 --out runs/demo1 --set gcpo.steps=40",
    "edit-r1 demo --resume                                    (after Ctrl-C)",
    "edit-r1 demo --out runs/trial --set world.split=val      (to choose settings by)",
)


def demo(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/demo"),
    resume: Resume = False,
) -> None:
    """Run every stage on the built-in world, from the shipped tiny bases to a report.

    Presets: smoke (about a minute, proves nothing), default (about 16 minutes on two cores), full (two to three
    hours on one core). With --set, keys start with the section of the recipe, as in gcpo.steps=40.
    """
    from edit_r1.evaluation.demo import run_demo

    page = run_demo(preset, out=out, seed=seed, resume=resume, overrides=overrides or [])
    typer.echo(f"report: {page}")
