"""Charts: every coordinate that is asserted is derived by hand from the size of the drawing, 360 x 200.

The plot lies between x = 44 and 348 (304 wide) and y = 164 and 26 (138 high).
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.evaluation.plots import (
    Interval,
    Line,
    Reference,
    format_value,
    interval_chart,
    line_chart,
    running_mean,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),  # a quarter is raised to the next of 1, 2, 5
        (0.0, 8.0, [0.0, 2.0, 4.0, 6.0, 8.0]),
        (5.2, 7.4, [5.0, 6.0, 7.0, 8.0]),
        (-3.0, 3.0, [-4.0, -2.0, 0.0, 2.0, 4.0]),
        (1e-5, 4e-5, [1e-5, 2e-5, 3e-5, 4e-5]),
        (0.01, 0.01, [0.005, 0.01, 0.015]),  # a constant has room on both sides
        (0.0, 0.0, [0.0, 1.0]),
        (1.0, 1.0, [0.5, 1.0, 1.5]),
    ],
)
def test_ticks_by_hand(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_ticks_cover_and_are_few_and_even(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    marks = ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert 2 <= len(marks) <= 7
    steps = [after - before for before, after in pairwise(marks)]
    assert all(step > 0 for step in steps)
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_impossible_bounds_are_a_mistake(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no ticks"):
        ticks(low, high)


def test_running_mean_by_hand() -> None:
    """Three neighbours; at the ends two: (1 + 5) / 2, (1 + 5 + 3) / 3, (5 + 3 + 4) / 3, (3 + 4) / 2."""
    assert running_mean([1.0, 5.0, 3.0, 4.0], 3) == pytest.approx([3.0, 3.0, 4.0, 3.5])
    assert running_mean([1.0, 5.0, 3.0], 1) == pytest.approx([1.0, 5.0, 3.0])


def test_values_for_people() -> None:
    assert format_value(0.7345, "share") == "73.5%"
    assert format_value(7.126, "number") == "7.13"
    assert format_value(0.0, "number") == "0"
    assert format_value(12345.6, "number") == "12346"
    assert format_value(3e-5, "number") == "3.00e-05"
    assert format_value(1.5e7, "number") == "1.50e+07"


def test_a_line_chart_by_hand() -> None:
    """Steps 0, 5, 10 lie at 44, 196, 348; the marks are 0, 2, 4, so the values 0, 4, 2 lie at 164, 26, 95."""
    svg = line_chart([Line([(0, 0.0), (5, 4.0), (10, 2.0)])], axis="score")
    assert 'd="M44 164 L196 26 L348 95"' in svg
    root = ElementTree.fromstring(svg)
    assert [text.text for text in root.iter("text")] == [
        "0",
        "1",
        "2",
        "3",
        "4",
        *["0", "2", "4", "6", "8", "10"],
        "step",
        "score",
    ]
    assert [title.text for title in root.iter("title")] == ["step 0: 0", "step 5: 4", "step 10: 2"]
    assert root.get("aria-label") == "score. from 0 to 2"


def test_the_strips_under_the_pointer_touch_and_fill_the_plot() -> None:
    svg = line_chart([Line([(step, float(step)) for step in range(500)])], axis="score")
    strips = [rect for rect in ElementTree.fromstring(svg).iter("rect") if rect.get("class") == "hit"]
    assert len(strips) == 80
    edge = 44.0
    for strip in strips:
        assert float(strip.get("x", "")) == pytest.approx(edge, abs=0.11)
        edge = float(strip.get("x", "")) + float(strip.get("width", ""))
    assert edge == pytest.approx(348, abs=0.11)


def test_two_curves_share_the_axes_and_the_titles() -> None:
    svg = line_chart(
        [Line([(1, 0.5), (2, 0.6), (3, 0.7)], "training"), Line([(2, 0.8)], "probe set")],
        axis="% of pairs",
        unit="share",
    )
    titles = [title.text for title in ElementTree.fromstring(svg).iter("title")]
    assert titles == ["step 1: training 50.0%", "step 2: training 60.0%; probe set 80.0%", "step 3: training 70.0%"]
    assert "training" in svg
    assert svg.count('class="line1"') == 2  # the curve and its name


def test_only_noisy_curves_are_smoothed() -> None:
    smooth = line_chart([Line([(step, step**0.5) for step in range(60)])], axis="loss")
    noisy = line_chart([Line([(step, step + 5.0 * (step % 2)) for step in range(60)])], axis="loss")
    assert 'class="raw"' not in smooth
    assert 'class="raw"' in noisy


def test_shares_have_no_ticks_above_all() -> None:
    svg = line_chart([Line([(1, 1.0), (2, 1.0)])], axis="% of pairs", unit="share")
    assert "100%" in svg
    assert "150%" not in svg


def test_a_reference_is_always_in_sight() -> None:
    """Values of 0.8 to 0.9 and a line at 0.5: marks 0.5 to 0.9, the line at the bottom (y = 164)."""
    svg = line_chart(
        [Line([(1, 0.8), (2, 0.9)])], axis="% of pairs", unit="share", reference=Reference(0.5, "coin toss")
    )
    assert '<line class="reference" x1="44.0" x2="348.0" y1="164.0" y2="164.0"/>' in svg
    assert "coin toss" in svg


@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.floats(-1e8, 1e8)), min_size=1, max_size=60, unique_by=lambda p: p[0]
    ),
    st.sampled_from(["share", "number"]),
)
def test_any_curve_is_well_formed_and_inside(points: list[tuple[int, float]], unit: str) -> None:
    svg = line_chart([Line(sorted(points))], axis="a < b & c", unit="share" if unit == "share" else "number")
    root = ElementTree.fromstring(svg)
    assert "nan" not in svg
    for path in root.iter("path"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", path.get("d", ""))]
        assert all(44 <= x <= 348 for x in numbers[::2])
        assert all(25.9 <= y <= 164.1 for y in numbers[1::2])


def test_intervals_by_hand() -> None:
    """0% lies at 84, 100% at 338: 0.5 at 211, 0.25 at 147.5. The second row is 30 lower than the first, at 24 + 15."""
    svg = interval_chart(
        [Interval("Base", 0.25, 0.0, 0.5), Interval("<GCPO>", 0.5, 0.5, 1.0)],
        name="pairs",
        reference=Reference(0.5, "coin toss"),
    )
    root = ElementTree.fromstring(svg)
    assert [(c.get("cx"), c.get("cy")) for c in root.iter("circle")] == [("147.5", "39.0"), ("211.0", "69.0")]
    assert '<line class="bar" x1="84.0" x2="211.0"' in svg
    assert [title.text for title in root.iter("title")] == [
        "Base: 25.0% (0.0% to 50.0%)",
        "<GCPO>: 50.0% (50.0% to 100.0%)",
    ]
