"""`edit-r1 evaluate`: held-out measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_r1.cli.options import (
    EDITOR_MEND,
    VERIFIER_MEND,
    WORLD_MEND,
    Data,
    Out,
    Overrides,
    Preset,
    Resume,
    Seed,
    VerifierModel,
    examples,
    existing_folder,
    model_folder,
    world_folder,
)

app = typer.Typer(no_args_is_help=True, help="Measure a verifier or an editor on held-out data.")


@app.command(
    "verifier",
    epilog=examples(
        "edit-r1 evaluate verifier --model runs/gcpo --data runs/world",
        "edit-r1 evaluate verifier --out runs/evaluate_base     (the shipped base)",
    ),
)
def verifier(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/evaluate_verifier"),
    resume: Resume = False,
    data: Data = Path("runs/world"),
    model: VerifierModel = None,
) -> None:
    """Count the held-out pairs that a verifier orders as the annotators did, and its checks that are true."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import HELDOUT_PAIRS, TEST_PAIRS, EvaluateConfig

    config = load_recipe(EvaluateConfig, preset, overrides or [], section="evaluate")
    world_folder(data, TEST_PAIRS, HELDOUT_PAIRS)
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.evaluation.verifier import run

    run(config, data=data, model=model, out=out, seed=seed, resume=resume)


@app.command(
    "editor",
    epilog=examples(
        "edit-r1 evaluate editor --model runs/editor --verifier runs/gcpo --data runs/world",
        "edit-r1 evaluate editor --out runs/evaluate_base       (the shipped base)",
    ),
)
def editor(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/evaluate_editor"),
    resume: Resume = False,
    data: Data = Path("runs/world"),
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FOLDER", help="The editor to measure; the shipped tiny base by default."),
    ] = None,
    verifier: Annotated[
        Path,
        typer.Option("--verifier", metavar="FOLDER", help="The verifier whose reward is reported beside the truth."),
    ] = Path("runs/gcpo"),
) -> None:
    """Count the samples of an editor that do all that was asked and nothing else, as the world's oracle reads them."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import EvaluateConfig

    config = load_recipe(EvaluateConfig, preset, overrides or [], section="evaluate")
    existing_folder(data, "--data", WORLD_MEND)
    verifier = model_folder(verifier, "--verifier", VERIFIER_MEND)
    if model is not None:
        model = model_folder(model, "--model", EDITOR_MEND)

    from edit_r1.evaluation.editor import run

    run(config, data=data, model=model, verifier=verifier, out=out, seed=seed, resume=resume)


@app.command(
    "sanity",
    epilog=examples(
        "edit-r1 evaluate sanity --model runs/gcpo --data runs/world",
        "edit-r1 evaluate sanity --model FOLDER --set tasks=100 --set traces=4 --set temperature=1",
    ),
)
def sanity(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/evaluate_sanity"),
    resume: Resume = False,
    data: Data = Path("runs/world"),
    model: VerifierModel = None,
) -> None:
    """Attack a verifier with copies, wrong edits, defects and injected text, and say whether it is fit to be a reward.

    The verdict is in the output and in sanity.json; the exit code is 0 for either.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import TEST_PAIRS, SanityConfig

    config = load_recipe(SanityConfig, preset, overrides or [], section="sanity")
    world_folder(data, TEST_PAIRS)
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.evaluation.sanity import run

    typer.echo(run(config, data=data, model=model, out=out, seed=seed, resume=resume))
