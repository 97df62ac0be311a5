"""The result of the best-of-N measurement, and its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A mean over tasks with its 95% interval."""

    mean: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Chosen:
    """A verifier's choice: how often it is right, its gain over a random one, how often it can read none of the N."""

    success: Share
    gain: Share
    no_choice: float


@dataclass(frozen=True)
class Point:
    """All choices at one N; `oracle` is right wherever one of the N candidates is."""

    n: int
    random: Share
    oracle: Share
    verifiers: Mapping[str, Chosen]


@dataclass(frozen=True)
class Result:
    """results.json: `failure_rate` is each verifier's share of candidates without a score."""

    tasks: int
    candidates: int
    failure_rate: Mapping[str, float]
    points: tuple[Point, ...]


def as_text(result: Result) -> str:
    """The success of every choice in percent, with 95% intervals, a line per N."""
    names = list(result.failure_rate)
    heads = ["N", "random", *(cell for name in names for cell in (name, "gain")), "best possible"]
    rows = [
        [
            str(point.n),
            _cell(point.random),
            *(cell for name in names for cell in _cells(point.verifiers[name])),
            _cell(point.oracle),
        ]
        for point in result.points
    ]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)]
    unread = ", ".join(f"{name} {rate:.1%}" for name, rate in result.failure_rate.items())
    about = f"edits without any fault in %, {result.tasks} tasks, {result.candidates} candidates of each"
    return "\n".join([about, *(line.rstrip() for line in lines), f"candidates that could not be judged: {unread}"])


def _cells(chosen: Chosen) -> tuple[str, str]:
    low, high = (100 * bound for bound in chosen.gain.ci95)
    return _cell(chosen.success), f"{100 * chosen.gain.mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _cell(share: Share) -> str:
    low, high = (100 * bound for bound in share.ci95)
    return f"{100 * share.mean:.1f} ({low:.1f} to {high:.1f})"
