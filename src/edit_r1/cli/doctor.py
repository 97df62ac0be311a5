"""`edit-r1 doctor`: what a recipe needs, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edit_r1.cli.options import VERIFIER_MEND, Overrides, examples, model_folder

if TYPE_CHECKING:
    from edit_r1.training.doctor import Report, Stage

EXAMPLES = examples(
    "edit-r1 doctor qwen_vl/qwen2_5_vl_3b",
    "edit-r1 doctor qwen_vl/qwen2_5_vl_7b --gpus 8 --set gcpo.backbone.lora_rank=0",
    "edit-r1 doctor my_recipe.toml --model models/my_verifier --gpu-memory 24",
)
GIB = 2**30


def doctor(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A packaged recipe, or the path of one of your own.")],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FOLDER",
            help="The verifier to start from. By default the one that the recipe is made for: NAME.json beside "
            "NAME.toml; without such a file the shipped tiny base.",
        ),
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Shard by FSDP2 over so many GPUs.")] = 1,
    gpu_memory: Annotated[
        float, typer.Option("--gpu-memory", metavar="GIB", min=0.1, help="Memory of one GPU, in GiB.")
    ] = 80.0,
    overrides: Overrides = None,
) -> None:
    """Count the memory, disk and packages that the training of a verifier needs; nothing is loaded or run.

    The exit code is 2 when a stage does not fit the GPUs; the line says what to change.
    """
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.training.doctor import check_fit, examine

    card = round(gpu_memory * GIB)
    report = examine(recipe, model, gpus, card, overrides or [])
    typer.echo(as_text(report, recipe, gpus, card))
    for stage in report.stages:
        check_fit(stage, card)


def as_text(report: Report, recipe: str, gpus: int, card: int) -> str:
    """The report for people."""
    size = report.size
    cards = f"{gpus} GPU{'s, sharded by FSDP2,' if gpus > 1 else ''} of {_bytes(card)}"
    lines = [
        f"{recipe}: {size.kind}, {size.parameters:,} parameters ({size.vision_parameters:,} for seeing); {cards}",
        *(line for stage in report.stages for line in _stage_lines(stage)),
        *(f"not installed: {package}" for package in report.missing),
    ]
    return "\n".join(lines)


def _stage_lines(stage: Stage) -> list[str]:
    work, memory, disk = stage.work, stage.memory, stage.disk
    writing = f"; {work.written} traces written at once" if work.written else ""
    rows = [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimiser states", memory.optimiser),
        ("activations", memory.activations),
        ("key-value cache", memory.cache),
        ("vLLM", memory.reserved),
        ("peak on each GPU", memory.peak),
        ("disk: model", disk.model),
        ("disk: checkpoints", disk.checkpoints),
        ("disk: result", disk.result),
        ("loading, each process", stage.host),
    ]
    return [
        "",
        f"[{stage.name}] {stage.trained:,} parameters trained; {work.rows} rows at once, each {work.prompt} tokens of "
        f"prompt and {work.answer} of trace{writing}",
        *(f"  {name:<22}{_bytes(value):>12}" for name, value in rows if value),
    ]


def _bytes(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"
