"""`edit-r1 verifier`: training of the verifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_r1.cli.options import (
    VERIFIER_MEND,
    Data,
    Out,
    Overrides,
    Preset,
    Resume,
    Seed,
    VerifierModel,
    examples,
    model_folder,
    world_folder,
)

app = typer.Typer(no_args_is_help=True, help="Train the verifier: cold start first, then GCPO.")


@app.command(
    "cold-start",
    epilog=examples(
        "edit-r1 verifier cold-start --data runs/world",
        "edit-r1 verifier cold-start --set steps=200 --out runs/longer_cold_start",
    ),
)
def cold_start(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/cold_start"),
    resume: Resume = False,
    data: Data = Path("runs/world"),
    model: VerifierModel = None,
) -> None:
    """Fine-tune the verifier on selected chain-of-thought traces of a pool of imperfect teachers (paper section 2)."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import EDITS, ColdStartConfig

    config = load_recipe(ColdStartConfig, preset, overrides or [], section="cold_start")
    world_folder(data, EDITS)
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.training.cold_start import run

    run(config, data=data, model=model, out=out, seed=seed, resume=resume)


@app.command(
    "gcpo",
    epilog=examples(
        "edit-r1 verifier gcpo --data runs/world --model runs/cold_start",
        "edit-r1 verifier gcpo --preset my_recipe.toml --set learning_rate=3e-5",
    ),
)
def gcpo(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/gcpo"),
    resume: Resume = False,
    data: Data = Path("runs/world"),
    model: Annotated[
        Path, typer.Option("--model", metavar="FOLDER", help="The verifier to start from, after its cold start.")
    ] = Path("runs/cold_start"),
) -> None:
    """Improve the verifier on preference pairs by group contrastive preference optimization (paper section 3)."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import TRAIN_PAIRS, GcpoConfig

    config = load_recipe(GcpoConfig, preset, overrides or [], section="gcpo")
    world_folder(data, TRAIN_PAIRS)  # a probe is used where there is one
    model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.training.gcpo import run

    run(config, data=data, model=model, out=out, seed=seed, resume=resume)
