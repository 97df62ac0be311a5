"""`edit-r1 report`: one page a person can look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edit_r1.cli.options import examples, existing_folder

EXAMPLES = examples("edit-r1 report", "edit-r1 report runs/demo1")


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The folder of a demo run.")] = Path("runs/demo"),
) -> None:
    """Write report.html (self-contained) and report.json from what the stages left in FOLDER."""
    existing_folder(run_dir, "the run", "make one with `edit-r1 demo`, or give its folder")

    from edit_r1.evaluation.report import write_report

    page = write_report(run_dir)
    typer.echo(f"report: {page}")
