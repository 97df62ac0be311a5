"""`edit-r1 evaluate claims` and `editor-claims`: tables that grow over many sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edit_r1.cli.options import Out, Overrides, Preset, examples
from edit_r1.errors import UserError

Seeds = Annotated[str | None, typer.Option("--seeds", metavar="LIST", help="Only these seeds, as in 0,1.")]
Arms = Annotated[str | None, typer.Option("--arms", metavar="LIST", help="Only these arms, as in base,gcpo.")]
Missing = Annotated[bool, typer.Option("--missing", help="Make nothing; print what is missing.")]

app = typer.Typer()


@app.command(
    "claims",
    epilog=examples(
        "edit-r1 evaluate claims --missing                     (what is there, and what is not)",
        "edit-r1 evaluate claims --seeds 0 --arms cold_start,gcpo",
        "edit-r1 evaluate claims --sizes s,l",
    ),
)
def claims(
    preset: Preset = "claims",
    overrides: Overrides = None,
    out: Out = Path("runs/claims"),
    results: Annotated[
        Path, typer.Option("--results", metavar="FILE", help="The table of every result so far, as JSON.")
    ] = Path("results/verifier_claims.json"),
    seeds: Seeds = None,
    arms: Arms = None,
    sizes: Annotated[str | None, typer.Option("--sizes", metavar="LIST", help="Only these sizes, as in s,m.")] = None,
    missing: Missing = False,
) -> None:
    """Compare the verifier with what it claims to be better than: arms, sizes and seeds (paper, claims 1 to 4).

    What is done is not done again, so that the table may grow over many sessions; it goes on where it stopped.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import ARMS, SIZES, ClaimsRecipe

    recipe = load_recipe(ClaimsRecipe, preset, overrides or [])
    known_seeds = [str(seed) for seed in (*recipe.claims.seeds, *recipe.claims.more_seeds)]
    chosen = {int(seed) for seed in _chosen("--seeds", seeds, known_seeds)}
    names, kinds = _chosen("--arms", arms, ARMS), _chosen("--sizes", sizes, SIZES)
    from edit_r1.evaluation.claims import run
    from edit_r1.evaluation.claims_plan import gather

    if not missing:
        run(recipe, out=out, results=results, seeds=chosen, arms=names, sizes=kinds)
    _, left = gather(recipe, out, results)
    wanted = [job for job in left if job.seed in chosen and job.arm in names and job.size in kinds]
    told = [f"{job.arm} of size {job.size}, seed {job.seed}, label noise {job.label_noise}" for job in wanted]
    _tell(results, told, len(left))


@app.command(
    "editor-claims",
    epilog=examples(
        "edit-r1 evaluate editor-claims --missing              (what is there, and what is not)",
        "edit-r1 evaluate editor-claims --seeds 0 --arms base,gcpo,cold_start,direct",
    ),
)
def editor_claims(
    preset: Preset = "editor_claims",
    overrides: Overrides = None,
    out: Out = Path("runs/editor_claims"),
    claims: Annotated[
        Path, typer.Option("--claims", metavar="FOLDER", help="Where `edit-r1 evaluate claims` keeps its verifiers.")
    ] = Path("runs/claims"),
    results: Annotated[
        Path, typer.Option("--results", metavar="FILE", help="The table of every result so far, as JSON.")
    ] = Path("results/editor_claims.json"),
    seeds: Seeds = None,
    arms: Arms = None,
    missing: Missing = False,
) -> None:
    """Compare editors that different verifiers have trained, and in different ways (paper, claims 5 and 6).

    Verifiers that are missing are trained first. What is done is not done again, so that the table may grow over many
    sessions; it goes on where it stopped.
    """
    from edit_r1.config import load_recipe
    from edit_r1.stages import ClaimsRecipe, EditorClaimsRecipe

    recipe, verifiers = load_recipe(EditorClaimsRecipe, preset, overrides or []), load_recipe(ClaimsRecipe, "claims")
    known_seeds = [str(seed) for seed in recipe.editor_claims.seeds]
    chosen = {int(seed) for seed in _chosen("--seeds", seeds, known_seeds)}
    names = _chosen("--arms", arms, ["base", *recipe.editor_claims.arms])

    from edit_r1.evaluation.editor_claims import gather, run

    if not missing:
        run(recipe, verifiers, out=out, claims_out=claims, results=results, seeds=chosen, arms=names)
    _, left = gather(recipe, verifiers, out, results)
    wanted = [f"{job.arm}, seed {job.seed}" for job in left if job.seed in chosen and job.arm in names]
    _tell(results, wanted, len(left))


def _tell(results: Path, missing: Sequence[str], count: int) -> None:
    """What a table still lacks of the chosen results, and how many it lacks of all."""
    for job in missing:
        typer.echo(f"missing: {job}")
    typer.echo(f"{results}: {count} results are missing" if count else f"{results}: complete")


def _chosen(option: str, given: str | None, known: Sequence[str]) -> list[str]:
    """The items of a list with commas; all that are known where none is given."""
    names = list(known) if given is None else [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"{option} {name}: choose from {', '.join(known)}")
    return names
