"""`edit-r1 evaluate`: held-out measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_r1.cli import claims
from edit_r1.cli.options import (
    EDITOR_MEND,
    PAIRS_MEND,
    VERIFIER_MEND,
    WORLD_MEND,
    Data,
    Out,
    Overrides,
    Preset,
    Resume,
    Seed,
    VerifierModel,
    World,
    examples,
    model_folder,
    world_folder,
)

app = typer.Typer(no_args_is_help=True, help="Measure a verifier or an editor on held-out data.")
app.add_typer(claims.app)


@app.command(
    "verifier",
    epilog=examples(
        "edit-r1 evaluate verifier --model runs/gcpo --data runs/world",
        "edit-r1 evaluate verifier --model runs/gcpo --data runs/pairs   (your own preferences)",
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
    """Count the held-out pairs that a verifier orders as the annotators did, and its checks that are true.

    Of real edits, as `edit-r1 verifier pairs` leaves them, nobody knows which checks are true.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import TEST_PAIRS, EvaluateConfig

    config = load_recipe(EvaluateConfig, preset, overrides or [], section="evaluate")
    world_folder(data, TEST_PAIRS, mend=PAIRS_MEND)
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.evaluation.verifier import run

    typer.echo(run(config, data=data, model=model, out=out, seed=seed, resume=resume))


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
    data: World = Path("runs/world"),
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
    from edit_r1.stages import EDITS, EvaluateConfig

    config = load_recipe(EvaluateConfig, preset, overrides or [], section="evaluate")
    world_folder(data, EDITS, mend=f"{WORLD_MEND}, or judge edits of your own tasks with `edit-r1 evaluate edits`")
    verifier = model_folder(verifier, "--verifier", VERIFIER_MEND)
    if model is not None:
        model = model_folder(model, "--model", EDITOR_MEND)

    from edit_r1.evaluation.editor import run

    typer.echo(run(config, data=data, model=model, verifier=verifier, out=out, seed=seed, resume=resume))


@app.command(
    "edits",
    epilog=examples(
        "edit-r1 evaluate edits --edits runs/base/edits.jsonl --edits runs/trained/edits.jsonl --model VERIFIER",
        "edit-r1 evaluate edits --edits edits.jsonl --preset my_recipe.toml     (a verifier behind a server)",
    ),
)
def edits(
    edits: Annotated[
        list[Path],
        typer.Option(
            "--edits", metavar="FILE.jsonl", help="Edits, one JSON object a line. May be given several times."
        ),
    ],
    preset: Preset = "qwen_vl/edits",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/evaluate_edits"),
    resume: Resume = False,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FOLDER", help="The verifier; by default the server that the recipe names."),
    ] = None,
    finish: Annotated[bool, typer.Option("--finish", help="Leave out edits without principles or answer.")] = False,
) -> None:
    """Compare editors by a verifier's word on their edits of the same tasks, of which nobody knows the truth.

    Ask another verifier than the one that an editor was trained with.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import EditsConfig

    config = load_recipe(EditsConfig, preset, overrides or [], section="edits")
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.evaluation.edits import run
    from edit_r1.evaluation.edits_table import as_text

    found = run(config, manifests=edits, model=model, out=out, seed=seed, resume=resume, finish=finish)
    typer.echo(as_text(found.editors, found.contests))
    if found.left_out:
        typer.echo(f"left out: {len(found.left_out)} (see {out / 'edits.json'})")


@app.command(
    "calibration",
    epilog=examples("edit-r1 evaluate calibration --model runs/demo/gcpo --data runs/demo/world"),
)
def calibration(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/calibration"),
    resume: Resume = False,
    data: Data = Path("runs/world"),
    model: VerifierModel = None,
) -> None:
    """Tell what more traces buy: accuracy, ties and spread against the number of traces and of tokens written."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import TEST_PAIRS, CalibrationConfig

    config = load_recipe(CalibrationConfig, preset, overrides or [], section="calibration")
    world_folder(data, TEST_PAIRS, mend=PAIRS_MEND)
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.evaluation.calibration import run

    typer.echo("score           traces  tokens  accuracy  ties half      95%       ties  spread  points/1000 tokens")
    for r in run(config, data=data, model=model, out=out, seed=seed, resume=resume):
        spread = "     –" if r.spread is None else f"{r.spread:6.2f}"
        gain = "–" if r.gain_per_1000_tokens is None else f"{r.gain_per_1000_tokens:.1f}"
        low, high = (100 * bound for bound in r.ci95)
        typer.echo(
            f"{r.score:<15} {r.traces:6d} {r.tokens:7.0f} {100 * r.pairwise_accuracy:8.1f}% {100 * r.tie_half:9.1f}%"
            f" {low:6.1f}-{high:.1f} {100 * r.tie_rate:7.1f}% {spread} {gain:>19}"
        )


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
    data: World = Path("runs/world"),
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


@app.command(
    "best-of",
    epilog=examples(
        "edit-r1 evaluate best-of --editor runs/editor --verifier runs/gcpo",
        "edit-r1 evaluate best-of --verifier runs/gcpo --verifier runs/cold_start --set tasks=100",
    ),
)
def best_of(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/best_of"),
    resume: Resume = False,
    editor: Annotated[
        Path | None,
        typer.Option("--editor", metavar="FOLDER", help="The editor; the shipped tiny base by default."),
    ] = None,
    verifier: Annotated[
        list[Path] | None,
        typer.Option("--verifier", metavar="FOLDER", help="Who chooses; may be given several times. [runs/gcpo]"),
    ] = None,
) -> None:
    """Tell what choosing among N edits gains: by verifiers, at random, and the most that there is to gain."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import BestOfConfig

    config = load_recipe(BestOfConfig, preset, overrides or [], section="best_of")
    judges = [model_folder(folder, "--verifier", VERIFIER_MEND) for folder in verifier or [Path("runs/gcpo")]]
    if editor is not None:
        editor = model_folder(editor, "--editor", EDITOR_MEND)

    from edit_r1.evaluation.best_of_curve import run
    from edit_r1.evaluation.best_of_result import as_text

    typer.echo(as_text(run(config, editor=editor, verifiers=judges, out=out, seed=seed, resume=resume)))
    typer.echo(f"curves: {out / 'best_of.png'}")
