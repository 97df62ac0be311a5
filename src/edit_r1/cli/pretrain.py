"""`edit-r1 pretrain`: how the shipped tiny bases were made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_r1.cli.options import VERIFIER_MEND, Out, Overrides, Preset, Resume, Seed, examples, model_folder

app = typer.Typer(no_args_is_help=True, help="Make the shipped tiny bases again.")


@app.command(
    "verifier",
    epilog=examples(
        "edit-r1 pretrain verifier",
        "edit-r1 pretrain verifier --preset smoke --out runs/tiny_test",
        "edit-r1 pretrain verifier --model runs/pretrain_verifier --set questions=0.35 --set describe_only=0",
    ),
)
def verifier(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/pretrain_verifier"),
    resume: Resume = False,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FOLDER", help="A base to go on from, of any size; from nothing by default."),
    ] = None,
) -> None:
    """Train the tiny verifier base: it learns to see, then to compare; in a second run, with --model, to read.

    The two commands of the shipped base are in its metrics.json.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import PretrainVerifierConfig

    config = load_recipe(PretrainVerifierConfig, preset, overrides or [], section="pretrain_verifier")
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.training.pretrain_verifier import run

    run(config, out=out, seed=seed, resume=resume, model=model)


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
