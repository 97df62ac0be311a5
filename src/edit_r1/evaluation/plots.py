"""Charts as inline SVG: pure functions from numbers to text. Colours come from the page's style sheet, by class.

Hovering over a line chart shows the values of the step under the pointer (an SVG title), without any script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

import numpy as np

Unit = Literal["share", "number"]
"""`share`: values in [0, 1], shown in percent; `number`: shown as they are."""
Point = tuple[float, float]

_WIDTH, _HEIGHT = 360.0, 200.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 26.0, 36.0
_SMOOTH_FROM = 30  # points from which on the running mean is drawn
_TURNS = 0.25  # ... if at more than this share of them the curve turns
_DOTTED = 40  # points up to which each has a dot
_TINY = 1e-200  # counts as 0
_HOVERS = 80  # places of the pointer that have a title of their own


@dataclass(frozen=True)
class Reference:
    """A horizontal (or, in an interval chart, vertical) line to compare with, such as a coin toss."""

    value: float
    label: str


@dataclass(frozen=True)
class Interval:
    """A row of an interval chart: an estimate and its 95% interval."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A curve: (step, value), finite, at least one, in the order of the steps; the name is for the legend."""

    points: Sequence[Point]
    name: str = ""


@dataclass(frozen=True)
class _Scale:
    """Linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return round(self.start + (value - self.low) / span * (self.end - self.start), 2)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover [low, high] with about `count` steps.

    The first is at most `low`, the last at least `high`. Equal bounds have room on both sides, zeros only above.

    Raises:
        ValueError: the bounds are not finite, or out of order.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"no ticks from {low} to {high}")
    raw = (high - low) / count
    largest = max(abs(low), abs(high))
    if raw <= largest * 1e-9 or largest < _TINY:
        raw = largest / 4 if largest >= _TINY else 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if raw <= factor * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - (first != 0), last + 1
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over `window` neighbours around each value (an odd number), fewer at the ends."""
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    index = np.arange(len(values))
    start, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return [float(mean) for mean in (sums[end] - sums[start]) / (end - start)]


def format_value(value: float, unit: Unit) -> str:
    """A value for people: a share in percent with one decimal, a number with three significant digits."""
    if unit == "share":
        return f"{100 * value:.1f}%"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
        return text if "e" not in text else f"{value:.6f}".rstrip("0")
    return f"{value:.2e}"


def line_chart(
    lines: Sequence[Line], *, axis: str, unit: Unit = "number", x_name: str = "step", reference: Reference | None = None
) -> str:
    """One or two curves over training steps, with axes, and with running means of noisy ones (30 points or more).

    Args:
        lines: the curves; with two of them their names are shown.
        axis: what the values are, written over the axis.
        unit: how they are shown.
        x_name: what the steps are.
        reference: a line to compare with.

    Returns:
        An `<svg>` element.
    """
    values = [value for line in lines for _, value in line.points] + ([reference.value] if reference else [])
    steps = sorted({step for line in lines for step, _ in line.points})
    marks = ticks(min(values), max(values))
    if unit == "share" and max(values) <= 1:
        marks = [mark for mark in marks if mark <= 1]
    first = 0.0 if 0 < steps[0] <= steps[-1] / 10 else steps[0]
    x = _Scale(first, steps[-1] if steps[-1] > first else first + 1, _LEFT, _WIDTH - _RIGHT)
    y = _Scale(marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP)
    label = escape(f"{axis}. {'; '.join(_summary(line, unit) for line in lines)}")
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{label}">',
        _axes(marks, x, y, unit, x_name),
        f'<text class="name" x="4" y="13">{escape(axis)}</text>',
        _reference_line(reference, y) if reference else "",
        *(_curve(line, index, x, y) for index, line in enumerate(lines)),
        _legend(lines) if len(lines) > 1 else "",
        _hovers(lines, steps, x, y, unit, x_name),
        "</svg>",
    ]
    return "".join(parts)


def interval_chart(rows: Sequence[Interval], *, name: str, reference: Reference | None = None) -> str:
    """Estimates of shares with their 95% intervals, one row each, on an axis from 0 to 100%.

    Args:
        rows: at least one; values in [0, 1].
        name: what the values are, written under the axis.
        reference: a line to compare with.

    Returns:
        An `<svg>` element.
    """
    width, left, right, top, pitch = 400.0, 84.0, 62.0, 24.0 if reference else 4.0, 30.0
    bottom = top + pitch * len(rows)
    x = _Scale(0.0, 1.0, left, width - right)
    parts = [
        f'<svg class="chart intervals" viewBox="0 0 {width:g} {bottom + 38:g}" role="img" aria-label="{escape(name)}">'
    ]
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{x(mark)}" x2="{x(mark)}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(mark)}" y="{bottom + 15}" text-anchor="middle">{mark:.0%}</text>')
    parts.append(f'<text class="tick" x="{x(0.5)}" y="{bottom + 32}" text-anchor="middle">{escape(name)}</text>')
    if reference:
        at = x(reference.value)
        parts.append(f'<line class="reference" x1="{at}" x2="{at}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="note" x="{at}" y="{top - 8}" text-anchor="middle">{escape(reference.label)}</text>')
    for index, row in enumerate(rows):
        parts.append(_interval_row(row, x, top + pitch * (index + 0.5), left, width))
    return "".join([*parts, "</svg>"])


def _interval_row(row: Interval, x: _Scale, middle: float, left: float, width: float) -> str:
    hover = f"{row.label}: {row.value:.1%} ({row.low:.1%} to {row.high:.1%})"
    return (
        f"<g><title>{escape(hover)}</title>"
        f'<rect class="hit" x="0" y="{middle - 15}" width="{width:g}" height="30"/>'
        f'<text class="row" x="{left - 10}" y="{middle + 4}" text-anchor="end">{escape(row.label)}</text>'
        f'<line class="bar" x1="{x(row.low)}" x2="{x(row.high)}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="end" cx="{x(row.value)}" cy="{middle}" r="5"/>'
        f'<text class="value" x="{width - 8:g}" y="{middle + 4}" text-anchor="end">{row.value:.1%}</text></g>'
    )


def _summary(line: Line, unit: Unit) -> str:
    trend = _trend(line.points) or line.points
    ends = f"from {format_value(trend[0][1], unit)} to {format_value(trend[-1][1], unit)}"
    return f"{line.name} {ends}".strip()


def _axes(marks: Sequence[float], x: _Scale, y: _Scale, unit: Unit, x_name: str) -> str:
    """Grid lines with their numbers, and the steps below."""
    parts: list[str] = []
    for mark in marks:
        at, text = y(mark), _tick(mark, marks, unit)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:g}" text-anchor="end">{text}</text>')
    for step in (mark for mark in ticks(x.low, x.high, 5) if x.low <= mark <= x.high and mark == round(mark)):
        at = f'x="{x(step)}" y="{_HEIGHT - _BOTTOM + 16}"'
        parts.append(f'<text class="tick" {at} text-anchor="middle">{step:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_name)}</text>')
    return "".join(parts)


def _tick(mark: float, marks: Sequence[float], unit: Unit) -> str:
    """A number of an axis, with as many decimals as the steps need."""
    step = (marks[1] - marks[0]) * (100 if unit == "share" else 1)
    value = mark * 100 if unit == "share" else mark
    if max(abs(marks[0]), abs(marks[-1])) < 1e-3 and unit == "number":
        return f"{mark:.3g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}" + ("%" if unit == "share" else "")


def _trend(points: Sequence[Point]) -> list[Point] | None:
    """The running mean of a curve of many points that goes up and down in turns; None of other curves."""
    values = [value for _, value in points]
    turns = np.diff(np.sign(np.diff(values))) != 0
    if len(points) < _SMOOTH_FROM or float(np.mean(turns)) <= _TURNS:
        return None
    smooth = running_mean(values, max(3, len(points) // 12) | 1)
    return [(step, value) for (step, _), value in zip(points, smooth, strict=True)]


def _curve(line: Line, index: int, x: _Scale, y: _Scale) -> str:
    """The thick line (the running mean, where there is one) and the thin one; points that are few have dots."""
    trend = _trend(line.points)
    thin = f'<path class="raw" d="{_path(line.points, x, y)}"/>' if trend else ""
    thick = trend or line.points
    dotted = line.points if len(line.points) <= _DOTTED else thick[-1:]
    dots = "".join(f'<circle class="end" cx="{x(step)}" cy="{y(value)}" r="2.5"/>' for step, value in dotted)
    return f'<g class="line{index}">{thin}<path class="trend" d="{_path(thick, x, y)}"/>{dots}</g>'


def _legend(lines: Sequence[Line]) -> str:
    names = "".join(
        f'<tspan class="line{index}" dx="10">{escape(line.name)}</tspan>' for index, line in enumerate(lines)
    )
    return f'<text class="legend" x="{_WIDTH - _RIGHT}" y="13" text-anchor="end">{names}</text>'


def _reference_line(reference: Reference, y: _Scale) -> str:
    at, right = y(reference.value), _WIDTH - _RIGHT
    line = f'<line class="reference" x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}"/>'
    return f'{line}<text class="note" x="{right - 2}" y="{at - 4:g}" text-anchor="end">{escape(reference.label)}</text>'


def _path(points: Sequence[Point], x: _Scale, y: _Scale) -> str:
    return "M" + " L".join(f"{x(step):g} {y(value):g}" for step, value in points)


def _hovers(lines: Sequence[Line], steps: Sequence[float], x: _Scale, y: _Scale, unit: Unit, x_name: str) -> str:
    """Invisible strips with the title and the dots of a step: `_HOVERS` of them, and all steps of sparse curves."""
    even = np.linspace(0, len(steps) - 1, min(len(steps), _HOVERS)).round().astype(int)
    sparse = {step for line in lines if len(line.points) <= _DOTTED for step, _ in line.points}
    chosen = sorted({steps[index] for index in even} | sparse)
    edges = [_LEFT, *((x(a) + x(b)) / 2 for a, b in pairwise(chosen)), _WIDTH - _RIGHT]
    known = [(line.name, dict(line.points)) for line in lines]
    parts: list[str] = []
    for place, step in enumerate(chosen):
        here = [(name, values[step]) for name, values in known if step in values]
        words = "; ".join(f"{name} {format_value(value, unit)}".strip() for name, value in here)
        dots = "".join(f'<circle class="dot" cx="{x(step)}" cy="{y(value)}" r="3.5"/>' for _, value in here)
        strip = f'x="{edges[place]:.1f}" y="{_TOP}" width="{max(edges[place + 1] - edges[place], 0):.1f}"'
        parts.append(
            f'<g class="hover"><title>{escape(f"{x_name} {step:g}: {words}")}</title>'
            f'<rect class="hit" {strip} height="{_HEIGHT - _TOP - _BOTTOM}"/>{dots}</g>'
        )
    return "".join(parts)
