"""`edit-r1 world`: the built-in world."""

from __future__ import annotations

from pathlib import Path

import typer

from edit_r1.cli.options import Out, Overrides, Preset, Resume, Seed, examples

app = typer.Typer(no_args_is_help=True, help="Make the built-in world of small scenes.")


@app.command(
    "make",
    epilog=examples(
        "edit-r1 world make",
        "edit-r1 world make --preset smoke --seed 1 --out runs/small_world",
    ),
)
def make(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/world"),
    resume: Resume = False,
) -> None:
    """Make scenes, instructions, candidate edits, oracle truth and simulated preferences as data sets on disk."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import WorldConfig

    config = load_recipe(WorldConfig, preset, overrides or [], section="world")

    from edit_r1.data.make_world import make_world

    make_world(config, out=out, seed=seed, resume=resume)
