"""`edit-r1 doctor`: what a recipe needs, before it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edit_r1.cli.options import EDITOR_MEND, VERIFIER_MEND, Overrides, examples, model_folder
from edit_r1.errors import UserError

if TYPE_CHECKING:
    from edit_r1.training.doctor import Report, Stage
    from edit_r1.training.editor_doctor import EditorReport

EXAMPLES = examples(
    "edit-r1 doctor qwen_vl/qwen2_5_vl_3b",
    "edit-r1 doctor qwen_vl/qwen2_5_vl_7b --gpus 8 --set gcpo.backbone.lora_rank=0",
    "edit-r1 doctor flux_kontext/gpus_8 --gpus 8",
    "edit-r1 doctor my_recipe.toml --model models/my_verifier --gpu-memory 24",
)
SECTIONS = ("cold_start", "gcpo", "editor_grpo")
GIB = 2**30


def doctor(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A packaged recipe, or the path of one of your own.")],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FOLDER",
            help="The verifier to start from; the editor, for a recipe with nothing but [editor_grpo]. By default the "
            "one that the recipe is made for: NAME.json beside NAME.toml, or editor.json; without such a file the "
            "shipped tiny base.",
        ),
    ] = None,
    gpus: Annotated[
        int,
        typer.Option(
            "--gpus",
            min=1,
            help="Spread training over so many GPUs: a verifier by FSDP2, an editor as its recipe says.",
        ),
    ] = 1,
    gpu_memory: Annotated[
        float, typer.Option("--gpu-memory", metavar="GIB", min=0.1, help="Memory of one GPU, in GiB.")
    ] = 80.0,
    overrides: Overrides = None,
) -> None:
    """Count the memory, disk and packages that training needs; nothing is loaded or run.

    The exit code is 2 when a stage does not fit the GPUs; the line says what to change.
    """
    from edit_r1.config import overrides_by_section, sections

    known = [name for name in SECTIONS if name in sections(recipe)]
    if not known:
        raise UserError(f"recipe {recipe} has none of the sections {', '.join(SECTIONS)}; there is nothing to examine")
    given, card = overrides or [], round(gpu_memory * GIB)
    overrides_by_section(given, known)  # a mistake in their form is found before torch is loaded
    of_editor = [override for override in given if override.startswith("editor_grpo.")]
    checks: list[Callable[[], None]] = []
    if known != ["editor_grpo"]:
        others = [override for override in given if override not in of_editor]
        checks += _verifier(recipe, model, gpus, card, others)
    if "editor_grpo" in known:
        checks += _editor(recipe, model if known == ["editor_grpo"] else None, gpus, card, of_editor)
    for check in checks:
        check()


def _verifier(recipe: str, model: Path | None, gpus: int, card: int, overrides: list[str]) -> list[Callable[[], None]]:
    """Print what the verifier's stages need; returns what says whether each fits."""
    folder = model_folder(model, "--model", VERIFIER_MEND) if model else None

    from edit_r1.training.doctor import check_fit, examine

    report = examine(recipe, folder, gpus, card, overrides)
    typer.echo(as_text(report, recipe, gpus, card))
    return [partial(check_fit, stage, card) for stage in report.stages]


def _editor(recipe: str, model: Path | None, gpus: int, card: int, overrides: list[str]) -> list[Callable[[], None]]:
    """The same for the editor."""
    folder = model_folder(model, "--model", EDITOR_MEND) if model else None

    from edit_r1.training.editor_doctor import check_editor_fit, examine_editor

    report = examine_editor(recipe, folder, gpus, overrides)
    typer.echo(editor_text(report, recipe, gpus, card))
    return [partial(check_editor_fit, report, card)]


def as_text(report: Report, recipe: str, gpus: int, card: int) -> str:
    """The report for people."""
    size = report.size
    cards = _cards(gpus, card, sharded=True)
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
        *_table(rows),
    ]


def editor_text(report: EditorReport, recipe: str, gpus: int, card: int) -> str:
    """The report of an editor for people."""
    size, work, config, memory = report.size, report.work, report.config, report.memory
    pixels = f" of {config.width}x{config.height}" if config.width and config.height else ""
    rows = [
        ("transformer", memory.transformer),
        ("text encoders, VAE", memory.frozen),
        ("running mean", memory.copies),
        ("gradients", memory.gradients),
        ("optimiser states", memory.optimiser),
        ("activations", memory.activations),
        ("sampling, VAE", memory.sampling),
        ("kept of the edits", memory.rollout),
        ("verifier", memory.beside.weights),
        ("its key-value cache", memory.beside.cache),
        ("peak on each GPU", memory.peak),
        ("disk: model", report.disk.model),
        ("disk: checkpoints", report.disk.checkpoints),
        ("disk: result", report.disk.result),
        ("loading, each process", report.host),
    ]
    return "\n".join(
        [
            f"{recipe}: {report.kind}, {size.transformer + size.frozen:,} parameters ({size.transformer:,} in the "
            f"transformer); {_cards(gpus, card, sharded=config.shard)}",
            "",
            f"[editor_grpo] {size.trained:,} parameters trained; {work.rows} edits{pixels} at once, {work.edits} in a "
            "step on each GPU",
            *_table(rows),
            *(f"verifier counted as a Qwen2.5-VL-7B, for it is not there: {folder}" for folder in report.assumed),
            *(f"not installed: {package}" for package in report.missing),
        ]
    )


def _cards(gpus: int, card: int, *, sharded: bool) -> str:
    return (
        f"{gpus} GPU{'s' if gpus > 1 else ''}{', sharded by FSDP2,' if sharded and gpus > 1 else ''} of {_bytes(card)}"
    )


def _table(rows: Iterable[tuple[str, int]]) -> list[str]:
    return [f"  {name:<22}{_bytes(value):>12}" for name, value in rows if value]


def _bytes(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"
