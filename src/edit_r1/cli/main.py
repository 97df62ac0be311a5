"""`edit-r1`: the tree of commands, and what happens to errors.

Nothing here, nor in the files of the commands, imports torch before a command runs: `edit-r1 --help` must be quick.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edit_r1.cli import demo, doctor, edit, editor, evaluate, pretrain, report, score, verifier, world
from edit_r1.cli.options import examples
from edit_r1.errors import UserError

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read at import: no advice about parts that we do not use


_AGAIN = "run the same command again, with --resume where it has that option"


class ErrorLines(TyperGroup):
    """Say what went wrong in one line on standard error: exit code 2 for what a user can mend, 130 for Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(f"error: {' '.join(str(error).split())}", 2)
        except KeyboardInterrupt:
            _fail(f"interrupted; {_AGAIN}", 130)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _fail(f"error: the disk is full; free some space and {_AGAIN}", 2)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
                raise
            _fail("error: the GPU's memory is full; lower micro_batch, `edit-r1 doctor RECIPE` says what fits", 2)


def _fail(line: str, code: int) -> None:
    typer.echo(line, err=True)
    raise typer.Exit(code)


app = typer.Typer(
    name="edit-r1",
    cls=ErrorLines,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "edit-r1 demo                     the whole loop on the built-in world, with a report at the end",
        "edit-r1 demo --preset smoke      the same in about a minute, too small to learn anything",
        'edit-r1 score a.png b.png "make the red circle blue"',
    ),
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"edit-r1 {importlib.metadata.version('edit-r1')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train a reasoning verifier of image edits from preferences, and a better image editor from the verifier."""
    # Waiting threads must sleep in the end, for beside a busy process a step is ten times slower otherwise. But to wake
    # one takes as long as many of our operations do, so they spin for some 0.1 ms first (libgomp).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Our own limit of pixels is lower, and an error; Pillow's warning beside it would be noise.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")


app.command("demo", epilog=demo.EXAMPLES, short_help="Run the whole loop and write its report.")(demo.demo)
app.add_typer(world.app, name="world")
app.add_typer(verifier.app, name="verifier")
app.add_typer(editor.app, name="editor")
app.add_typer(evaluate.app, name="evaluate")
app.command("doctor", epilog=doctor.EXAMPLES, short_help="Say what a recipe needs before it is run.")(doctor.doctor)
app.command("report", epilog=report.EXAMPLES, short_help="Write the report of a demo run.")(report.report)
app.command("score", epilog=score.EXAMPLES, short_help="Check and score one edit.")(score.score)
app.command("edit", epilog=edit.EXAMPLES, short_help="Edit one image, the best of several attempts.")(edit.edit)
app.add_typer(pretrain.app, name="pretrain")


if __name__ == "__main__":
    app()
