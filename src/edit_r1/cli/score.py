"""`edit-r1 score`: what the verifier thinks of one edit."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edit_r1.cli.options import VERIFIER_MEND, Overrides, Preset, Seed, examples, model_folder
from edit_r1.errors import UserError

if TYPE_CHECKING:
    from edit_r1.records import Failure, Principle, Verdict

EXAMPLES = examples(
    'edit-r1 score before.png after.png "make the red circle blue"',
    'edit-r1 score before.png after.png "remove the red square" --model runs/gcpo --traces 8 --json',
    'edit-r1 score photo.jpg edited.jpg "paint the cup blue" --preset my.toml              (docs/best_of.md)',
)


def score(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The image before the edit.")],
    edited: Annotated[Path, typer.Argument(metavar="EDITED", help="The image after the edit.")],
    instruction: Annotated[str, typer.Argument(metavar="INSTRUCTION", help="What was asked for.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FOLDER",
            help="The verifier; by default the recipe's server, or the one that `edit-r1 demo` trained.",
        ),
    ] = None,
    preset: Preset = "default",
    overrides: Overrides = None,
    traces: Annotated[int, typer.Option("--traces", min=1, help="How many traces to sample; scores are averaged.")] = 4,
    seed: Seed = 0,
) -> None:
    """Print the principles of an edit, each check with its reason, and the score in [0, 10].

    The exit code is 1 when no trace could be read: then there is no score.
    """
    if not instruction.strip():
        raise UserError('the instruction is empty; say what was asked for, such as "make the red circle blue"')
    if model is not None:
        model = model_folder(model, "--model", VERIFIER_MEND)
    from edit_r1.config import load_recipe
    from edit_r1.images import open_image
    from edit_r1.stages import EditConfig

    config = load_recipe(EditConfig, preset, overrides or [], section="edit")
    before, after = open_image(source), open_image(edited)

    from edit_r1.evaluation.score import score_edit

    task, judgement = score_edit(before, after, instruction.strip(), config, model=model, traces=traces, seed=seed)
    show = as_document if as_json else as_text
    result = show(task.principles, judgement.verdicts, judgement.score, judgement.spread)
    typer.echo(result if isinstance(result, str) else json.dumps(result, indent=2, ensure_ascii=False))
    if judgement.score is None:
        raise typer.Exit(1)


def as_document(
    principles: Sequence[Principle], verdicts: Sequence[Verdict | Failure], score: float | None, spread: float | None
) -> dict[str, Any]:
    """The result as JSON values: `score` and `spread` are null when no trace could be read."""
    return {
        "schema": 1,
        "score": score,
        "spread": spread,
        "traces": len(verdicts),
        "failures": len(verdicts) - len(_readable(verdicts)),
        "principles": [{"question": p.question, "category": p.category, "weight": p.weight} for p in principles],
        "verdicts": [_verdict_document(verdict) for verdict in verdicts],
    }


def as_text(
    principles: Sequence[Principle], verdicts: Sequence[Verdict | Failure], score: float | None, spread: float | None
) -> str:
    """The result for people: the checks of the trace whose score is nearest to the mean, and how all traces voted."""
    from edit_r1.records import Failure

    readable = _readable(verdicts)
    failures = len(verdicts) - len(readable)
    shown = min(readable, key=lambda verdict: abs(verdict.score - (score or 0)), default=None)
    lines: list[str] = []
    for index, principle in enumerate(principles):
        lines.append(f"[{index + 1}] {principle.category:<8} {_printable(principle.question)}")
        if shown is not None and index < len(shown.checks):
            check = shown.checks[index]
            votes = sum(verdict.checks[index].met for verdict in readable)
            lines.append(
                f"    {'yes' if check.met else 'no'} ({votes} of {len(readable)} yes): {_printable(check.reason)}"
            )
    if failures:
        kinds = sorted({verdict.kind for verdict in verdicts if isinstance(verdict, Failure)})
        lines.append(f"{failures} of {len(verdicts)} traces could not be read ({', '.join(kinds)})")
    trouble = [v.text for v in verdicts if isinstance(v, Failure) and v.kind in ("engine", "unreachable")]
    if trouble:
        lines.append(f"the verifier gave no answer: {_printable(trouble[-1])[:200]}")
    if score is None:
        lines.append("no score")
    else:
        about = f"mean of {len(readable)}" + (f", spread {spread:.1f}" if spread and math.isfinite(spread) else "")
        lines.append(f"score {score:.1f} of 10 ({about})")
    return "\n".join(lines)


def _readable(verdicts: Sequence[Verdict | Failure]) -> list[Verdict]:
    from edit_r1.records import Verdict

    return [verdict for verdict in verdicts if isinstance(verdict, Verdict)]


def _verdict_document(verdict: Verdict | Failure) -> dict[str, Any]:
    from edit_r1.records import Failure

    if isinstance(verdict, Failure):
        return {"failure": verdict.kind, "text": verdict.text}
    checks = [
        {"question": check.principle.question, "met": check.met, "reason": check.reason, "box": check.box}
        for check in verdict.checks
    ]
    provenance = verdict.provenance
    return {
        "score": verdict.score,
        "checks": checks,
        "trace": verdict.trace,
        "model": provenance.model,
        "revision": provenance.revision,
    }


def _printable(text: str) -> str:
    """Text of a model on one line, without control characters that a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
