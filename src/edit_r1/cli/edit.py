"""`edit-r1 edit`: edit one image, the best of several attempts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edit_r1.cli import score
from edit_r1.cli.options import EDITOR_MEND, VERIFIER_MEND, Overrides, Preset, examples, model_folder
from edit_r1.errors import UserError

if TYPE_CHECKING:
    from edit_r1.evaluation.best_of import BestOf
    from edit_r1.verifier.verifier import Judgement

EXAMPLES = examples(
    'edit-r1 edit before.png "make the red circle blue" --out edited.png',
    'edit-r1 edit before.png "remove the red square" --best-of 16 --verifier runs/gcpo --all runs/candidates',
    'edit-r1 edit before.png "remove the red square" --best-of 1 --editor runs/editor     (no verifier)',
    'edit-r1 edit photo.jpg "paint the cup blue" --preset my.toml --editor models/flux_kontext   (docs/best_of.md)',
)


def edit(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to edit.")],
    instruction: Annotated[str, typer.Argument(metavar="INSTRUCTION", help="What to do with it.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.png", help="Where the best edit goes.")] = Path(
        "edited.png"
    ),
    editor: Annotated[
        Path | None, typer.Option("--editor", metavar="FOLDER", help="The editor; the shipped tiny base by default.")
    ] = None,
    verifier: Annotated[
        Path | None,
        typer.Option(
            "--verifier",
            metavar="FOLDER",
            help="Who chooses; by default the recipe's server, or the verifier that `edit-r1 demo` trained.",
        ),
    ] = None,
    best_of: Annotated[
        int, typer.Option("--best-of", min=1, metavar="N", help="How many edits to choose from; 1 needs no verifier.")
    ] = 8,
    preset: Preset = "default",
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the first edit; the others have the next ones.")] = 0,
    keep: Annotated[
        Path | None, typer.Option("--all", metavar="FOLDER", help="Save every edit there, with scores and traces.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Edit an image several times, and save the edit that the verifier scores highest.

    The exit code is 1 when no edit could be judged: then none is saved.
    """
    if not instruction.strip():
        raise UserError('the instruction is empty; say what to do, such as "make the red circle blue"')
    _writable(out, keep)
    if editor is not None:
        editor = model_folder(editor, "--editor", EDITOR_MEND)
    if verifier is not None:
        verifier = model_folder(verifier, "--verifier", VERIFIER_MEND)
    from edit_r1.config import dump, load_recipe
    from edit_r1.images import open_image
    from edit_r1.stages import EditConfig

    config = load_recipe(EditConfig, preset, overrides or [], section="edit")
    source, wanted = open_image(image), instruction.strip()

    from edit_r1.evaluation.best_of import edit_best_of, save_all, save_image

    result = edit_best_of(source, wanted, config, editor=editor, verifier=verifier, count=best_of, seed=seed)
    if keep is not None:
        save_all(result, keep, {"instruction": wanted, **dump(config)})
    if result.chosen is not None:
        save_image(result.edits[result.chosen].image, out)
    typer.echo(_as_json(result, out) if as_json else _as_text(result, out))
    if result.chosen is None:
        why = f" ({result.trouble})" if result.trouble else ""
        typer.echo(f"none of the {best_of} edits could be judged{why}: {out} was not written", err=True)
        raise typer.Exit(1)


def _writable(out: Path, keep: Path | None) -> None:
    """Say before anything heavy is done that a result would have no place."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the edit is saved as PNG; give a name that ends with .png")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it first")
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UserError(f"--all {keep} is not an empty folder; give another one")


def _as_json(result: BestOf, out: Path) -> str:
    chosen = result.chosen
    document: dict[str, Any] = {
        "schema": 1,
        "out": None if chosen is None else str(out),
        "chosen": chosen,
        "failures": result.failures,
        "candidates": [
            {"seed": candidate.seed, "score": value}
            for candidate, value in zip(result.edits, result.scores, strict=True)
        ],
        "judgement": None,
    }
    if chosen is not None and result.judgements:
        best = result.judgements[chosen]
        principles = result.edits[chosen].task.principles
        document["judgement"] = score.as_document(principles, best.verdicts, best.score, best.spread)
    return json.dumps(document, indent=2, ensure_ascii=False)


def _written(judgement: Judgement) -> str:
    """What its one trace says, where the score is that times how probable the trace is."""
    from edit_r1.records import Failure

    traces = [verdict for verdict in judgement.verdicts if not isinstance(verdict, Failure)]
    if len(judgement.verdicts) > 1 or not traces or f"{traces[0].score:.1f}" == f"{judgement.score:.1f}":
        return ""
    return f" (written: {traces[0].score:.1f})"


def _as_text(result: BestOf, out: Path) -> str:
    """The score of every seed, then the checks of the chosen edit."""
    lines: list[str] = []
    for index, (candidate, judgement) in enumerate(zip(result.edits, result.judgements, strict=False)):
        said = "unreadable" if judgement.score is None else f"{judgement.score:.1f}{_written(judgement)}"
        lines.append(f"seed {candidate.seed}: {said}{' <' if index == result.chosen else ''}")
    if result.failures:
        lines.append(f"{result.failures} of {len(result.edits)} edits could not be judged")
    if result.chosen is not None:
        if result.judgements:
            best = result.judgements[result.chosen]
            principles = result.edits[result.chosen].task.principles
            lines.append(score.as_text(principles, best.verdicts, best.score, best.spread))
        lines.append(f"{out}: the edit of seed {result.edits[result.chosen].seed}")
    return "\n".join(lines)
