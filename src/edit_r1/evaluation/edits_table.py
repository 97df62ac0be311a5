"""Editors against each other, by what a verifier says of their edits: pure functions of scores and checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from edit_r1.evaluation.answers import Answer
from edit_r1.evaluation.metrics import TIE, ci95
from edit_r1.records import Failure, PrincipleCategory, Verdict

CATEGORIES: tuple[PrincipleCategory, ...] = ("follow", "keep", "quality")


@dataclass(frozen=True)
class Judged:
    """One edit and what the verifier said of it. `task` and `source` are keys that edits share."""

    editor: str
    task: str
    source: str
    answer: Answer

    def met(self, category: PrincipleCategory | None = None) -> float | None:
        """Share of the readable traces that call every principle (of a category) met; None where none was asked."""
        asked = [
            [check.met for check in verdict.checks if category in (None, check.principle.category)]
            for verdict in self.answer.verdicts
            if isinstance(verdict, Verdict)
        ]
        return float(np.mean([all(checks) for checks in asked])) if asked and asked[0] else None


@dataclass(frozen=True)
class EditorRow:
    """One editor.

    Attributes:
        editor: its name.
        edits: how many were judged.
        unreadable: of these, edits without one readable trace: they are in no mean.
        score: mean in [0, 10] over tasks (of several edits of a task the mean counts); None where no edit has one.
        ci95: 95% interval of `score`, bootstrap over source images.
        met: for each category, and for `all` of them, the share of edits of which every principle is called met.
        failures: share of traces that cannot be read.
    """

    editor: str
    edits: int
    unreadable: int
    score: float | None
    ci95: tuple[float, float] | None
    met: dict[str, float | None]
    failures: float


@dataclass(frozen=True)
class Contest:
    """Two editors on the tasks of which both have a score.

    Attributes:
        first, second: their names.
        tasks: how many.
        gain: mean score of the first less that of the second, in points of 10.
        ci95: its 95% interval, bootstrap over source images.
        wins, losses: share of tasks on which the first scores higher, or lower.
    """

    first: str
    second: str
    tasks: int
    gain: float
    ci95: tuple[float, float]
    wins: float
    losses: float


def editor_rows(edits: Sequence[Judged]) -> list[EditorRow]:
    """A row for each editor, in the order in which they come."""
    return [_row(name, [edit for edit in edits if edit.editor == name]) for name in _names(edits)]


def contests(edits: Sequence[Judged]) -> list[Contest]:
    """Every two editors that share a task, the later one against the earlier."""
    scores = {name: _by_task([edit for edit in edits if edit.editor == name]) for name in _names(edits)}
    sources = {edit.task: edit.source for edit in edits}
    found: list[Contest] = []
    for second, first in combinations(scores, 2):
        tasks = [task for task in scores[second] if task in scores[first]]
        if tasks:
            gains = np.array([scores[first][task] - scores[second][task] for task in tasks])
            interval = ci95(gains, [sources[task] for task in tasks])
            wins, losses = float(np.mean(gains >= TIE)), float(np.mean(gains <= -TIE))
            found.append(Contest(first, second, len(tasks), float(gains.mean()), interval, wins, losses))
    return found


def _row(name: str, edits: Sequence[Judged]) -> EditorRow:
    scores = _by_task(edits)
    sources = {edit.task: edit.source for edit in edits}
    values = np.array(list(scores.values()))
    traces = [verdict for edit in edits for verdict in edit.answer.verdicts]
    return EditorRow(
        editor=name,
        edits=len(edits),
        unreadable=sum(edit.answer.score is None for edit in edits),
        score=float(values.mean()) if scores else None,
        ci95=ci95(values, [sources[task] for task in scores]) if scores else None,
        met={"all": _mean([edit.met() for edit in edits])}
        | {category: _mean([edit.met(category) for edit in edits]) for category in CATEGORIES},
        failures=sum(isinstance(verdict, Failure) for verdict in traces) / len(traces),
    )


def _by_task(edits: Sequence[Judged]) -> dict[str, float]:
    """Mean score of the readable edits of each task."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for edit in edits:
        if edit.answer.score is not None:
            found[edit.task].append(edit.answer.score)
    return {task: sum(scores) / len(scores) for task, scores in found.items()}


def _names(edits: Sequence[Judged]) -> list[str]:
    return list(dict.fromkeys(edit.editor for edit in edits))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def as_text(rows: Sequence[EditorRow], fought: Sequence[Contest]) -> str:
    """Both tables for people."""

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    width = max([len("editor"), *(len(row.editor) for row in rows)])
    head = f"{'editor':<{width}}  edits  score  95%             all met  follow    keep  quality  unreadable traces"
    lines = [head]
    for row in rows:
        score = "–" if row.score is None else f"{row.score:.2f}"
        interval = "–" if row.ci95 is None else f"{row.ci95[0]:.2f} to {row.ci95[1]:.2f}"
        met = "".join(
            f"{share(row.met[key]):>{n}}" for key, n in (("all", 7), ("follow", 8), ("keep", 8), ("quality", 9))
        )
        lines.append(f"{row.editor:<{width}}{row.edits:>7}{score:>7}  {interval:<14}{met}{share(row.failures):>19}")
    compared = {(one.second, one.first) for one in fought}
    for one, other in combinations([row.editor for row in rows], 2):
        if (one, other) not in compared:
            lines.append(f"{one} and {other} have no scored task in common (the same pixels, the same instruction)")
    for one in fought:
        low, high = one.ci95
        lines.append(
            f"{one.first} over {one.second}: {one.gain:+.2f} points of 10 (95%: {low:+.2f} to {high:+.2f}) on "
            f"{one.tasks} tasks; better on {one.wins:.1%}, worse on {one.losses:.1%}"
        )
    return "\n".join(lines)
