"""Charts as inline SVG: pure functions from numbers to text. Colours come from the page's style sheet, by class.

Hovering over a line chart shows the values of the step under the pointer (an SVG title), without any script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

Unit = Literal["share", "number"]
"""`share`: values in [0, 1], shown in percent; `number`: shown as they are."""
Point = tuple[float, float]

_WIDTH, _HEIGHT = 360.0, 200.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 26.0, 36.0
_SMOOTH_FROM = 30  # points from which on the running mean is drawn
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

    The first is at most `low`, the last at least `high`; of equal bounds, one step on either side of them.

    Raises:
        ValueError: the bounds are not finite, or out of order.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"no ticks from {low} to {high}")
    raw = (high - low) / count
    if raw <= max(abs(low), abs(high)) * 1e-9:
        raw = max(abs(low), 1.0) / 10
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if raw <= factor * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    return [round(index * step, 12) for index in range(first, last + 1)]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over `window` neighbours around each value (an odd number), fewer at the ends."""
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    index = np.arange(len(values))
    start, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return [float(mean) for mean in (sums[end] - sums[start]) / (end - start)]


def format_value(value: float, unit: Unit, digits: int = 3) -> str:
    """A value for people: a share in percent with one decimal, a number with `digits` significant digits."""
    if unit == "share":
        return f"{100 * value:.1f}%"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        text = f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"
        return text if "e" not in text else f"{value:.6f}".rstrip("0")
    return f"{value:.{digits - 1}e}"


def line_chart(
    points: Sequence[Point], *, name: str, unit: Unit = "number", x_name: str = "step", reference: Reference | None = None
) -> str:
    """A curve over training steps, with axes, its last value and, from 30 points on, its running mean.

    Args:
        points: (step, value), finite, at least one, in the order of the steps.
        name: what the values are, written over the axis.
        unit: how they are shown.
        x_name: what the steps are.
        reference: a line to compare with.

    Returns:
        An `<svg>` element.
    """
    values = [value for _, value in points] + ([reference.value] if reference else [])
    marks = ticks(min(values), max(values))
    x_low, x_high = points[0][0], points[-1][0]
    x = _Scale(x_low, x_high if x_high > x_low else x_low + 1, _LEFT, _WIDTH - _RIGHT)
    y = _Scale(marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP)
    window = max(3, len(points) // 12) | 1 if len(points) >= _SMOOTH_FROM else 0
    smooth = running_mean([value for _, value in points], window) if window else [value for _, value in points]
    trend = [(step, value) for (step, _), value in zip(points, smooth, strict=True)]
    label = f"{name}: from {format_value(trend[0][1], unit)} to {format_value(trend[-1][1], unit)}"
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(label)}">',
        _axes(marks, points, x, y, unit, x_name),
        f'<text class="name" x="4" y="13">{escape(name)}</text>',
        _reference_line(reference, y) if reference else "",
        f'<path class="raw" d="{_path(points, x, y)}"/>' if window else "",
        f'<path class="trend" d="{_path(trend, x, y)}"/>',
        f'<circle class="end" cx="{x(trend[-1][0])}" cy="{y(trend[-1][1])}" r="3"/>',
        _hovers(points, trend if window else None, x, y, unit, x_name),
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
    width, left, right, top, pitch = 560.0, 120.0, 66.0, 24.0, 30.0
    bottom = top + pitch * len(rows)
    x = _Scale(0.0, 1.0, left, width - right)
    parts = [
        f'<svg class="chart intervals" viewBox="0 0 {width:g} {bottom + 38:g}" role="img" aria-label="{escape(name)}">'
    ]
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{x(mark)}" x2="{x(mark)}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(mark)}" y="{bottom + 15}" text-anchor="middle">{mark:.0%}</text>')
    parts.append(
        f'<text class="tick" x="{x(0.5)}" y="{bottom + 32}" text-anchor="middle">{escape(name)}; bar: 95% interval</text>'
    )
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


def _axes(
    marks: Sequence[float], points: Sequence[Point], x: _Scale, y: _Scale, unit: Unit, x_name: str
) -> str:
    """Grid lines with their numbers, and the steps below."""
    parts: list[str] = []
    for mark in marks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(mark)}" y2="{y(mark)}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(mark) + 4:g}" text-anchor="end">{_tick(mark, marks, unit)}</text>'
        )
    steps = [mark for mark in ticks(x.low, x.high, 5) if x.low <= mark <= x.high and mark == round(mark)]
    for step in steps if len(points) > 1 else [points[0][0]]:
        parts.append(
            f'<text class="tick" x="{x(step)}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{step:g}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_name)}</text>')
    return "".join(parts)


def _tick(mark: float, marks: Sequence[float], unit: Unit) -> str:
    """A number of an axis, with as many decimals as the steps need."""
    step = (marks[1] - marks[0]) * (100 if unit == "share" else 1)
    value = mark * 100 if unit == "share" else mark
    if max(abs(marks[0]), abs(marks[-1])) < 1e-3 and unit == "number":
        return f"{mark:.0e}" if mark else "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}" + ("%" if unit == "share" else "")


def _reference_line(reference: Reference, y: _Scale) -> str:
    at = y(reference.value)
    return (
        f'<line class="reference" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>'
        f'<text class="note" x="{_WIDTH - _RIGHT - 2}" y="{at - 4:g}" text-anchor="end">{escape(reference.label)}</text>'
    )


def _path(points: Sequence[Point], x: _Scale, y: _Scale) -> str:
    return "M" + " L".join(f"{x(step):g} {y(value):g}" for step, value in points)


def _hovers(
    points: Sequence[Point], trend: Sequence[Point] | None, x: _Scale, y: _Scale, unit: Unit, x_name: str
) -> str:
    """Invisible strips, at most `_HOVERS`, each with the title and the dot of the point in its middle."""
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), _HOVERS)).round().astype(int))
    middles = [x(points[index][0]) for index in chosen]
    edges = [_LEFT, *((a + b) / 2 for a, b in zip(middles, middles[1:], strict=False)), _WIDTH - _RIGHT]
    parts: list[str] = []
    for place, index in enumerate(chosen):
        step, value = points[index]
        mean = f" (running mean {format_value(trend[index][1], unit)})" if trend else ""
        start, end = edges[place], edges[place + 1]
        parts.append(
            f'<g class="hover"><title>{escape(x_name)} {step:g}: {format_value(value, unit)}{mean}</title>'
            f'<rect class="hit" x="{start:.1f}" y="{_TOP}" width="{max(end - start, 0):.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}"/>'
            f'<circle class="dot" cx="{middles[place]}" cy="{y(value)}" r="3.5"/></g>'
        )
    return "".join(parts)
