"""`edit-r1 editor`: training of the editor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    examples,
    existing_folder,
    model_folder,
)

app = typer.Typer(no_args_is_help=True, help="Train the image editor with the verifier as its only reward.")


@app.callback()
def group() -> None:
    """Train the image editor with the verifier as its only reward."""


@app.command(
    "grpo",
    epilog=examples(
        "edit-r1 editor grpo --data runs/world --verifier runs/gcpo",
        "edit-r1 editor grpo --set steps=10 --resume",
    ),
)
def grpo(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/editor"),
    resume: Resume = False,
    data: Data = Path("runs/world"),
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FOLDER", help="The editor to start from; the shipped tiny base by default."),
    ] = None,
    verifier: Annotated[
        Path | None,
        typer.Option(
            "--verifier",
            metavar="FOLDER",
            help="The verifier that gives the rewards; runs/gcpo by default, if the recipe names none.",
        ),
    ] = None,
) -> None:
    """Improve the editor with the verifier as its reward (paper section 4)."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import EditorGrpoConfig

    config = load_recipe(EditorGrpoConfig, preset, overrides or [], section="editor_grpo")
    existing_folder(data, "--data", WORLD_MEND)
    if verifier is not None or not config.rewards:
        verifier = model_folder(verifier or Path("runs/gcpo"), "--verifier", VERIFIER_MEND)
    if model is not None:
        model = model_folder(model, "--model", EDITOR_MEND)

    from edit_r1.training.editor_grpo import run

    run(config, data=data, model=model, verifier=verifier, out=out, seed=seed, resume=resume)


@app.command(
    "export",
    epilog=examples(
        "edit-r1 editor export --run runs/editor --out my-lora --kind lora",
        "edit-r1 editor export --run runs/editor --out my-editor --kind merged --base-model owner/name",
    ),
)
def export(
    run: Annotated[Path, typer.Option("--run", metavar="FOLDER", help="A finished run of `edit-r1 editor grpo`.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The folder to make.")],
    kind: Annotated[
        Literal["lora", "merged"],
        typer.Option("--kind", help="LoRA for load_lora_weights, or a whole pipeline for from_pretrained."),
    ] = "lora",
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="ID", help="Id of the trained editor on Hugging Face, for the card."),
    ] = None,
) -> None:
    """Copy a trained editor into a folder to publish, with a model card (README.md)."""
    existing_folder(run, "--run", "give the --out of `edit-r1 editor grpo`")

    from edit_r1.training.export import export as copy

    copy(run, out, kind, base_model)
    typer.echo(f"{out}: {kind} weights and README.md")
