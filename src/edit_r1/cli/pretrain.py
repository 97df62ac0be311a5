"""`edit-r1 pretrain`: how the shipped tiny bases were made."""

from __future__ import annotations

from pathlib import Path

import typer

from edit_r1.cli.options import Out, Overrides, Preset, Resume, Seed, examples

app = typer.Typer(no_args_is_help=True, help="Make the shipped tiny bases again.")


@app.command(
    "verifier",
    epilog=examples("edit-r1 pretrain verifier", "edit-r1 pretrain verifier --preset smoke --out runs/tiny_test"),
)
def verifier(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/pretrain_verifier"),
    resume: Resume = False,
) -> None:
    """Train the tiny verifier base: it learns to see, then to compare."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import PretrainVerifierConfig

    config = load_recipe(PretrainVerifierConfig, preset, overrides or [], section="pretrain_verifier")

    from edit_r1.training.pretrain_verifier import run

    run(config, out=out, seed=seed, resume=resume)


@app.command(
    "editor",
    epilog=examples("edit-r1 pretrain editor", "edit-r1 pretrain editor --preset smoke --out runs/tiny_test"),
)
def editor(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/pretrain_editor"),
    resume: Resume = False,
) -> None:
    """Train the tiny editor base: good enough to be worth judging, bad enough to improve."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import PretrainEditorConfig

    config = load_recipe(PretrainEditorConfig, preset, overrides or [], section="pretrain_editor")

    from edit_r1.training.pretrain_editor import run

    run(config, out=out, seed=seed, resume=resume)
