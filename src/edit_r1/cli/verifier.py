"""`edit-r1 verifier`: training of the verifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edit_r1.cli.options import (
    EDITS_MEND,
    PAIRS_MEND,
    VERIFIER_MEND,
    Out,
    Overrides,
    Preset,
    Resume,
    Seed,
    VerifierModel,
    examples,
    existing_folder,
    has_data_set,
    model_folder,
    world_folder,
)
from edit_r1.errors import UserError

app = typer.Typer(
    no_args_is_help=True, help="Train the verifier: traces and pairs of real images, cold start, then GCPO."
)


@app.command(
    "traces",
    epilog=examples(
        "edit-r1 verifier traces --edits edits.jsonl --preset my_recipe.toml",
        "edit-r1 verifier traces --edits edits.jsonl --preset my_recipe.toml --resume",
        "edit-r1 verifier traces --data runs/world --set gold.base_url=http://127.0.0.1:9000/v1",
    ),
)
def traces(
    edits: Annotated[
        Path | None,
        typer.Option("--edits", metavar="FILE.jsonl", help="The edits: one JSON object a line (docs/traces.md)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FOLDER", help="Or a world, whose data set `edits` is taken.")
    ] = None,
    preset: Preset = "qwen_vl/traces",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/traces"),
    resume: Resume = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Select from the answers that there are, even if some are missing.")
    ] = False,
) -> None:
    """Have teacher models write traces on edits of real images, and keep for each the one that agrees best with gold.

    Teachers and gold are chat endpoints that the recipe names (paper section 2). Every answer is kept in a journal: a
    run that ends early, for want of a server or of quota, goes on with --resume and asks only for what is missing.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import EDITS, TracesConfig

    config = load_recipe(TracesConfig, preset, overrides or [], section="traces")
    given = edits or data
    if given is None or (edits and data):
        raise UserError("give the edits as --edits FILE.jsonl or as --data FOLDER, one of the two")
    if data is not None:
        world_folder(data, EDITS)

    from edit_r1.data.traces.run import run

    typer.echo(_traces_text(run(config, edits=given, out=out, seed=seed, resume=resume, finish=finish), out))


def _traces_text(statistics: dict[str, Any], out: Path) -> str:
    """The counts of `edit-r1 verifier traces` for people."""
    edits = statistics["edits"]
    lines = [f"{out}: {edits['kept']} of {edits['in']} edits have a text; dropped: {_counts(edits['dropped'])}"]
    for name, count in statistics["teachers"].items():
        agreement = "–" if count["agreement"] is None else f"{count['agreement']:.0%}"
        lines.append(f"teacher {name}: {_answers(count)}, kept {count['kept']}, agreement with gold {agreement}")
    lines += [f"{name}: {_answers(statistics[name])}" for name in ("gold", "decomposer")]
    return "\n".join([*lines, f"never asked: {_counts(statistics['never_asked'])}"])


def _answers(count: dict[str, Any]) -> str:
    return f"asked {count['asked']}, readable {count['readable']}, failures: {_counts(count['failures'])}"


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items()) or "none"


@app.command(
    "pairs",
    epilog=examples(
        "edit-r1 verifier pairs --pairs pairs.jsonl",
        "edit-r1 verifier pairs --pairs pairs.jsonl --preset my_recipe.toml --resume",
        "edit-r1 verifier pairs --pairs train.json --format editreward-data --images FOLDER --preset my_recipe.toml",
        "edit-r1 verifier pairs --pairs FOLDER --format genai-bench --preset my_recipe.toml",
    ),
)
def pairs(
    pairs: Annotated[
        Path, typer.Option("--pairs", metavar="PATH", help="The preferences: a file, or a folder (docs/pairs.md).")
    ],
    form: Annotated[
        Literal["jsonl", "editreward-data", "editscore-bench", "tiger-bench", "genai-bench"],
        typer.Option("--format", help="A manifest of your own, or a public data set."),
    ] = "jsonl",
    images: Annotated[
        Path | None, typer.Option("--images", metavar="FOLDER", help="The folder of the images of editreward-data.")
    ] = None,
    preset: Preset = "qwen_vl/pairs",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/pairs"),
    resume: Resume = False,
    finish: Annotated[bool, typer.Option("--finish", help="Leave out the pairs whose principles are missing.")] = False,
) -> None:
    """Turn preferences of people over real edits into the pairs that `edit-r1 verifier gcpo` learns from.

    What teaches nothing is dropped and counted, and a share is held out by source image. Principles that a pair does
    not bring are asked of the chat model that the recipe names; --resume asks for those that are missing.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import PairsConfig

    config = load_recipe(PairsConfig, preset, overrides or [], section="pairs")
    if (images is not None) != (form == "editreward-data"):
        raise UserError("--images FOLDER goes with --format editreward-data, and with no other format")
    if images is not None:
        existing_folder(images, "--images", "give the folder that the paths in the file are relative to")
    if not pairs.exists():
        raise UserError(f"--pairs {pairs} does not exist; check the path")

    from edit_r1.data.pairs.run import Source, run

    source = Source(pairs, form, images)
    summary = run(config, source=source, out=out, seed=seed, resume=resume, finish=finish)
    typer.echo(_summary_text(summary, out))


def _summary_text(summary: dict[str, Any], out: Path) -> str:
    """The counts of `edit-r1 verifier pairs` for people; the rows that are left out by name are in the file."""
    used, sources = summary["pairs"], summary["sources"]
    return "\n".join(
        [
            f"{out}: {used['train']} pairs to train on (of {sources['train']} source images), {used['test']} held out "
            f"(of {sources['test']}), of {used['in']} in all",
            f"dropped: {_counts(summary['dropped'])}; left out by name: {len(summary['left_out'])} "
            f"(see {out / 'summary.json'})",
            f"winner stored first: {summary['winner_first']:.0%}; winner that is the untouched source: "
            f"{summary['unchanged_winners']}",
        ]
    )


@app.command(
    "cold-start",
    epilog=examples(
        "edit-r1 verifier cold-start --data runs/world",
        "edit-r1 verifier cold-start --set steps=200 --out runs/longer_cold_start",
        "edit-r1 verifier cold-start --data runs/traces --preset my_recipe.toml --model FOLDER",
    ),
)
def cold_start(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/cold_start"),
    resume: Resume = False,
    data: Annotated[
        Path, typer.Option("--data", metavar="FOLDER", help="A world, or the folder of `edit-r1 verifier traces`.")
    ] = Path("runs/world"),
    model: VerifierModel = None,
) -> None:
    """Fine-tune the verifier on selected chain-of-thought traces of a pool of imperfect teachers (paper section 2).

    They are those that `edit-r1 verifier traces` has gathered if --data holds them; else teachers are simulated.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import EDITS, TRACES, ColdStartConfig

    config = load_recipe(ColdStartConfig, preset, overrides or [], section="cold_start")
    if not has_data_set(data, TRACES):
        world_folder(data, EDITS, mend=EDITS_MEND)
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.training.cold_start import run

    run(config, data=data, model=model, out=out, seed=seed, resume=resume)


@app.command(
    "gcpo",
    epilog=examples(
        "edit-r1 verifier gcpo --data runs/world --model runs/cold_start",
        "edit-r1 verifier gcpo --preset my_recipe.toml --set learning_rate=3e-5",
        "edit-r1 verifier gcpo --preset my_recipe.toml --data runs/pairs --model FOLDER",
    ),
)
def gcpo(
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Seed = 0,
    out: Out = Path("runs/gcpo"),
    resume: Resume = False,
    data: Annotated[
        Path, typer.Option("--data", metavar="FOLDER", help="A world, or the folder of `edit-r1 verifier pairs`.")
    ] = Path("runs/world"),
    model: Annotated[
        Path, typer.Option("--model", metavar="FOLDER", help="The verifier to start from, after its cold start.")
    ] = Path("runs/cold_start"),
) -> None:
    """Improve the verifier on preference pairs by group contrastive preference optimization (paper section 3)."""
    from edit_r1.config import load_recipe
    from edit_r1.stages import TRAIN_PAIRS, GcpoConfig

    config = load_recipe(GcpoConfig, preset, overrides or [], section="gcpo")
    world_folder(data, TRAIN_PAIRS, mend=PAIRS_MEND)  # a probe is used where there is one
    model = model_folder(model, "--model", VERIFIER_MEND)

    from edit_r1.training.gcpo import run

    run(config, data=data, model=model, out=out, seed=seed, resume=resume)
