"""Progress for people: a bar with the remaining time on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""How often a log file gets a line."""


class Tracker(Protocol):
    """What `track` gives."""

    def advance(self, steps: int = 1, **metrics: float) -> None:
        """Say that `steps` more are done, and show these metrics (earlier ones stay where no new value is given)."""
        ...


@contextmanager
def track(description: str, total: int, *, start: int = 0, console: Console | None = None) -> Generator[Tracker]:
    """Show the progress of `total` steps on standard error while the block runs.

        with track("GCPO", total=60, start=resumed_step) as bar:
            for ...:
                bar.advance(reward=0.71, kl=0.003)

    Args:
        description: what is being done, in a few words.
        total: all the steps, those done before included.
        start: steps done before, by the run that is resumed; they do not count for the speed.
        console: where to write; standard error by default.
    """
    silence_libraries()
    console = console or Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(console, description, total, start)
        yield lines
        lines.close()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[metrics]}", markup=False, style="dim"),
    )
    # The speed is that of the last five minutes: steps may take seconds, and early ones are slower.
    with Progress(*columns, console=console, speed_estimate_period=300, refresh_per_second=4) as progress:
        task = progress.add_task(description, total=total, completed=start, metrics="")
        yield _Bar(progress, task)


def notice(line: str) -> None:
    """Say something on standard error, beside the progress."""
    Console(stderr=True).print(line, markup=False, highlight=False)


def silence_libraries() -> None:
    """One bar is enough: those of the libraries that are loaded are switched off, and their advice to developers."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    for name, switches in (
        ("datasets", ("disable_progress_bars",)),
        ("transformers.utils.logging", ("disable_progress_bar", "set_verbosity_error")),
        ("diffusers.utils.logging", ("disable_progress_bar",)),
    ):
        for switch in switches if name in sys.modules else ():
            getattr(sys.modules[name], switch)()


def metrics_text(metrics: dict[str, float]) -> str:
    """Names and values to three digits, such as `reward 0.712 · kl 0.0031`; large values as whole numbers."""
    return " · ".join(
        f"{name} {value:.0f}" if 1000 <= abs(value) < 1e9 else f"{name} {value:.3g}" for name, value in metrics.items()
    )


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._metrics: dict[str, float] = {}

    def advance(self, steps: int = 1, **metrics: float) -> None:
        self._metrics.update(metrics)
        self._progress.update(self._task, advance=steps, metrics=metrics_text(self._metrics))


class _Lines:
    def __init__(self, console: Console, description: str, total: int, start: int) -> None:
        self._console = console
        self._description = description
        self._total = total
        self._start = start
        self._done = start
        self._metrics: dict[str, float] = {}
        self._began = self._printed = time.monotonic()
        self._print("started" if start == 0 else "resumed")

    def advance(self, steps: int = 1, **metrics: float) -> None:
        self._done += steps
        self._metrics.update(metrics)
        now = time.monotonic()
        if now - self._printed >= LINE_SECONDS and self._done < self._total:
            self._printed = now
            self._print(f"{_clock(self._remaining(now))} left")

    def close(self) -> None:
        self._print(f"finished in {_clock(time.monotonic() - self._began)}")

    def _remaining(self, now: float) -> float:
        done = max(self._done - self._start, 1)
        return (now - self._began) / done * (self._total - self._done)

    def _print(self, text: str) -> None:
        share = 100 * self._done // max(self._total, 1)
        parts = [f"{self._description} {self._done}/{self._total} ({share}%)", text]
        if self._metrics:
            parts.append(metrics_text(self._metrics))
        self._console.print(" · ".join(parts), markup=False, highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
