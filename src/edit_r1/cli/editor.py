"""`edit-r1 editor`: training of the editor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edit_r1.cli.options import (
    EDITOR_MEND,
    TASKS_MEND,
    VERIFIER_MEND,
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
    "tasks",
    epilog=examples(
        "edit-r1 editor tasks --tasks tasks.jsonl",
        "edit-r1 editor tasks --tasks tasks.jsonl --preset my_recipe.toml --resume",
    ),
)
def tasks(
    tasks: Annotated[
        Path, typer.Option("--tasks", metavar="FILE.jsonl", help="One JSON object a line (docs/editor_grpo.md).")
    ],
    preset: Preset = "qwen_vl/tasks",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/tasks"),
    resume: Resume = False,
    finish: Annotated[bool, typer.Option("--finish", help="Leave out the tasks whose principles are missing.")] = False,
) -> None:
    """Turn pictures and instructions of your own into the tasks that `edit-r1 editor grpo` practises on.

    Principles that a task does not bring are asked of the chat model that the recipe names; --resume asks for those
    that are missing.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import TasksConfig

    config = load_recipe(TasksConfig, preset, overrides or [], section="tasks")

    from edit_r1.data.tasks import run

    found = run(config, manifest=tasks, out=out, seed=seed, resume=resume, finish=finish)
    counts, dropped = found["tasks"], found["dropped"]
    typer.echo(f"{out}: {counts['kept']} tasks on {found['sources']} images, of {counts['in']} in all")
    if any(dropped.values()):
        listed = ", ".join(f"{reason} {count}" for reason, count in dropped.items() if count)
        typer.echo(f"dropped: {listed} (see {out / 'summary.json'})")


@app.command(
    "grpo",
    epilog=examples(
        "edit-r1 editor grpo --data runs/world --verifier runs/gcpo",
        "edit-r1 editor grpo --data runs/tasks --preset my_recipe.toml --model EDITOR",
        "edit-r1 editor grpo --set steps=10 --out runs/short",
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
    existing_folder(data, "--data", TASKS_MEND)
    if verifier is not None or not config.rewards:
        verifier = model_folder(verifier or Path("runs/gcpo"), "--verifier", VERIFIER_MEND)
    if model is not None:
        model = model_folder(model, "--model", EDITOR_MEND)

    from edit_r1.training.editor_grpo import run

    run(config, data=data, model=model, verifier=verifier, out=out, seed=seed, resume=resume)


@app.command(
    "sample",
    epilog=examples(
        "edit-r1 editor sample --tasks tasks.jsonl --editor runs/editor --out runs/edits",
        "edit-r1 editor sample --tasks tasks.jsonl --editor models/flux_kontext --preset flux_kontext/gpus_1",
    ),
)
def sample(
    tasks: Annotated[
        Path, typer.Option("--tasks", metavar="FILE.jsonl", help="One JSON object a line (docs/editor_grpo.md).")
    ],
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/edits"),
    resume: Resume = False,
    editor: Annotated[
        Path | None, typer.Option("--editor", metavar="FOLDER", help="The editor; the shipped tiny base by default.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What the editor is called; by default the name of the given folder.")
    ] = None,
) -> None:
    """Have an editor do tasks of your own; the edits and their manifest, edits.jsonl, are for other commands.

    `edit-r1 evaluate edits` compares editors by them, `edit-r1 verifier traces` has teachers write on them, and people
    may say which of two they prefer (docs/pairs.md).
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import SampleConfig

    config = load_recipe(SampleConfig, preset, overrides or [], section="sample")
    name = name or (editor.resolve().name if editor is not None else "tiny")
    if editor is not None:
        editor = model_folder(editor, "--editor", EDITOR_MEND)

    from edit_r1.data.make_edits import run

    count = run(config, manifest=tasks, editor=editor, name=name, out=out, seed=seed, resume=resume)
    typer.echo(f"{out / 'edits.jsonl'}: {count} edits")


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
