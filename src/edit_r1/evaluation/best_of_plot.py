"""The picture of the best-of-N curves."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from edit_r1.evaluation.best_of_result import Point, Result, Share
from edit_r1.evaluation.plots import ticks

_SCALE = 2  # drawn larger and made smaller, for smooth lines
_WIDTH, _HEIGHT = 760, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 44, 56
_PAPER, _INK, _GRID, _FAINT = "#fbfbf9", "#1d1d1f", "#e4e4e0", "#8a8a90"
_COLOURS = ("#2463c8", "#c8372d", "#2c8a4b", "#8a4bb0", "#b07a1e")
_LABEL = 17  # pixels between the labels of two lines, at least


def draw_curve(result: Result) -> Image.Image:
    """Success against N (evenly spaced by its rank), with the 95% intervals of the verifiers: RGB, 760 x 460 pixels."""
    lines = [("best possible", _FAINT, [point.oracle for point in result.points])]
    lines += [
        (name, _COLOURS[index % len(_COLOURS)], [point.verifiers[name].success for point in result.points])
        for index, name in enumerate(result.failure_rate)
    ]
    lines.append(("random", _FAINT, [point.random for point in result.points]))
    marks = [mark for mark in ticks(0.0, max(share.ci95[1] for _, _, shares in lines for share in shares)) if mark <= 1]
    canvas = _Canvas(len(result.points), max(marks[-1], 1e-9))
    canvas.axes(marks, result.points)
    for index, (_, colour, shares) in enumerate(lines):
        canvas.line(shares, colour, index - len(lines) // 2, whiskers=0 < index < len(lines) - 1)
    canvas.labels([(name, colour, shares[-1].mean) for name, colour, shares in lines])
    canvas.text((_LEFT, 14), f"edits without any fault, {result.tasks} tasks", _INK, 15)
    return canvas.image.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)


class _Canvas:
    """Places on the picture, and strokes between them."""

    def __init__(self, points: int, top: float) -> None:
        self.image = Image.new("RGB", (_WIDTH * _SCALE, _HEIGHT * _SCALE), _PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._points, self._top = points, top

    def x(self, index: int) -> float:
        return _LEFT + 16 + index * (_WIDTH - _LEFT - _RIGHT - 32) / max(1, self._points - 1)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self._top * (_HEIGHT - _TOP - _BOTTOM)

    def text(self, at: tuple[float, float], text: str, colour: str, size: int, anchor: str = "la") -> None:
        font = ImageFont.load_default(size * _SCALE)
        self._draw.text((at[0] * _SCALE, at[1] * _SCALE), text, colour, font, anchor)

    def stroke(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        self._draw.line([(x * _SCALE, y * _SCALE) for x, y in points], colour, round(width * _SCALE), joint="curve")

    def axes(self, marks: Sequence[float], points: Sequence[Point]) -> None:
        for mark in marks:
            self.stroke([(_LEFT, self.y(mark)), (_WIDTH - _RIGHT, self.y(mark))], _GRID, 1)
            self.text((_LEFT - 10, self.y(mark)), f"{mark:.0%}", _FAINT, 13, "rm")
        for index, point in enumerate(points):
            self.text((self.x(index), _HEIGHT - _BOTTOM + 10), str(point.n), _FAINT, 13, "ma")
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        self.text((middle, _HEIGHT - 24), "N, edits to choose from", _FAINT, 13, "ma")

    def line(self, shares: Sequence[Share], colour: str, lane: int, *, whiskers: bool) -> None:
        """One line; lanes are a little apart, so that intervals can be told from each other."""
        places = [(self.x(index) + 4 * lane, self.y(share.mean)) for index, share in enumerate(shares)]
        self.stroke(places, colour, 2.5 if whiskers else 1.5)
        for (x, y), share in zip(places, shares, strict=True):
            if whiskers:
                self.stroke([(x, self.y(share.ci95[0])), (x, self.y(share.ci95[1]))], colour, 1)
            self._draw.circle((x * _SCALE, y * _SCALE), 3 * _SCALE, colour)

    def labels(self, ends: Sequence[tuple[str, str, float]]) -> None:
        """Names at the ends of the lines, pushed downwards where they would overlap."""
        lowest = 0.0
        for name, colour, value in sorted(ends, key=lambda end: -end[2]):
            lowest = max(self.y(value), lowest + _LABEL)
            shown = name if len(name) <= 18 else f"…{name[-17:]}"
            self.text((_WIDTH - _RIGHT + 8, lowest), f"{shown} {value:.0%}", colour, 13, "lm")
