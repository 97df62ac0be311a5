"""What the report shows of a run: which examples, in which order, and the curves. Pure functions of the results."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from markupsafe import Markup
from PIL import Image

from edit_r1.errors import UserError
from edit_r1.evaluation.editor_metrics import EditorMetrics
from edit_r1.evaluation.metrics import TIE, VerifierMetrics
from edit_r1.evaluation.plots import Interval, Line, Point, Reference, interval_chart, line_chart
from edit_r1.evaluation.report_words import COIN, EDITOR_NAMES, PROBE, VERIFIER_NAMES, Words, metric_rank, metric_words
from edit_r1.evaluation.results import EditExample, EditScore, PairExample, StageFolder
from edit_r1.images import open_image

Order = Literal["right", "wrong", "undecided"]
Outcome = Literal["mended", "broken", "both", "neither"]
ItemT = TypeVar("ItemT")

_PIXEL_ART = 128  # pictures up to this side are enlarged with hard edges and kept as they are
_LARGEST = 512  # side to which larger pictures are reduced, so that the page stays small
_SHOWN_PAIRS = 6
_SHOWN_EDITS = {"mended": 8, "broken": 6, "both": 4, "neither": 4}


@dataclass(frozen=True)
class Picture:
    """An image for the page; `uri` is empty where the file is missing, and `problem` says why."""

    uri: str
    pixel_art: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Curve:
    """A chart and the words around it."""

    words: Words
    chart: Markup


@dataclass(frozen=True)
class Shown(Generic[ItemT]):
    """Some of many: what is on the page, and how many there are in all."""

    items: tuple[ItemT, ...]
    total: int


def picture(folder: Path, name: str) -> Picture:
    """The image `name` of a folder as a data URI; what lies outside the folder, or cannot be read, is a problem."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return Picture("", problem=f"{name} is outside the run folder")
    try:
        image = open_image(path, name=name)
    except UserError as error:
        return Picture("", problem=str(error))
    pixel_art = max(image.size) <= _PIXEL_ART
    buffer = io.BytesIO()
    if pixel_art:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=88)
    kind = "png" if pixel_art else "jpeg"
    return Picture(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", pixel_art)


def order(pair: PairExample, stage: str) -> Order:
    """Whether the scores of a stage order a pair as the annotator did."""
    scores = pair.stages[stage]
    first, second = scores.first.score, scores.second.score
    if first is None or second is None or abs(first - second) < TIE:
        return "undecided"
    return "right" if (first > second) == (pair.choice == "first") else "wrong"


def changed_pairs(pairs: Iterable[PairExample], before: str, after: str, *, mended: bool) -> Shown[PairExample]:
    """Pairs that are right after and were not before (`mended`), or the reverse; those with a preference only."""
    found = [
        pair
        for pair in pairs
        if pair.choice != "same"
        and {before, after} <= pair.stages.keys()
        and (order(pair, after if mended else before) == "right")
        and (order(pair, before if mended else after) != "right")
    ]
    return Shown(tuple(found[:_SHOWN_PAIRS]), len(found))


def teaching_pair(pairs: Sequence[PairExample], stage: str) -> PairExample | None:
    """The pair that the page explains in full: the first that is readable on both sides and tells most.

    Asked in this order: the scores are in the right order; some check is "no" and some "yes"; the verifier and the
    oracle disagree somewhere (a page that shows only successes teaches little). None without a readable pair.
    """

    def sides(pair: PairExample) -> tuple[EditScore, EditScore]:
        return pair.stages[stage].first, pair.stages[stage].second

    def rank(pair: PairExample) -> tuple[bool, bool, bool]:
        checks = [check for side in sides(pair) for check in side.checks]
        mixed = len({check.met for check in checks}) == 2
        disagree = any(check.truth is not None and check.met != check.truth for check in checks)
        return order(pair, stage) == "right", mixed, disagree

    readable = [pair for pair in pairs if stage in pair.stages and all(side.checks for side in sides(pair))]
    return max(readable, key=rank, default=None)  # of equals, max takes the first


def outcome(example: EditExample) -> Outcome:
    """What RL did to the success of a task."""
    was, now = example.edits["base"].success, example.edits["grpo"].success
    if was and now:
        return "both"
    return "mended" if now else "broken" if was else "neither"


def grouped_edits(examples: Iterable[EditExample]) -> dict[Outcome, Shown[EditExample]]:
    """Tasks with edits before and after RL, by what happened to them."""
    complete = [example for example in examples if {"base", "grpo"} <= example.edits.keys()]
    groups: dict[Outcome, Shown[EditExample]] = {}
    outcomes: tuple[Outcome, ...] = ("mended", "broken", "both", "neither")
    for name in outcomes:
        found = [example for example in complete if outcome(example) == name]
        groups[name] = Shown(tuple(found[: _SHOWN_EDITS[name]]), len(found))
    return groups


def series(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """The finite numbers of metrics.jsonl by key, as (step, value) in the order of the steps."""
    found: dict[str, dict[float, float]] = {}
    for line in lines:
        step = _number(line.get("step"))
        for key, raw in line.items():
            value = _number(raw)
            if key != "step" and step is not None and value is not None:
                found.setdefault(key, {})[step] = value
    return {key: sorted(points.items()) for key, points in found.items()}


def curves(stage: StageFolder, *, known: bool) -> list[Curve]:
    """Charts of the keys that the report has words for, the most telling first; or of all other keys.

    A key and the same key with the prefix `probe_` share a chart.
    """
    found = series(stage.metrics)
    drawn: list[Curve] = []
    for key in sorted(found, key=metric_rank):
        words, twin = metric_words(stage.name, key), PROBE + key
        if words.known != known or (key.startswith(PROBE) and key.removeprefix(PROBE) in found):
            continue
        lines = [Line(found[key], "training" if twin in found else "")]
        if twin in found:
            lines.append(Line(found[twin], "probe set"))
        chart = line_chart(lines, axis=words.axis, unit=words.unit, reference=words.reference)
        drawn.append(Curve(words, Markup(chart)))
    return drawn


def verifier_intervals(stages: Mapping[str, VerifierMetrics]) -> Markup:
    """Pairwise accuracy of every stage with its interval."""
    return _intervals(stages, VERIFIER_NAMES, lambda row: row.pairwise_accuracy, "pairs in the preferred order", COIN)


def editor_intervals(stages: Mapping[str, EditorMetrics]) -> Markup:
    """Oracle success of both editors with its interval."""
    return _intervals(stages, EDITOR_NAMES, lambda row: row.oracle_success, "edits right in every point", None)


def _intervals(
    stages: Mapping[str, Any],
    names: Mapping[str, str],
    value: Callable[[Any], float],
    name: str,
    reference: Reference | None,
) -> Markup:
    rows = [Interval(names[key], value(stages[key]), *stages[key].ci95) for key in names if key in stages]
    return Markup(interval_chart(rows, name=name, reference=reference))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
