"""Draws docs/images/editor_curves.svg from results/editor_claims_before.json: each way to train beside the default.

python docs/make_curves.py
"""

from __future__ import annotations

from pathlib import Path

from edit_r1.evaluation.claims_table import SETTINGS, shared_curves
from edit_r1.evaluation.plots import Line, line_chart
from edit_r1.evaluation.rows import read_rows
from edit_r1.files import atomic_write

OUT = Path(__file__).parent / "images" / "editor_curves.svg"
RESULTS = Path(__file__).parents[1] / "results" / "editor_claims_before.json"
COLUMNS, WIDTH, HEIGHT = 3, 360, 200
STYLE = """
svg { font-family: system-ui, "DejaVu Sans", sans-serif; color: #2257c9 }
text { font-size: 11px; fill: #586174 } tspan, .end { fill: currentColor } .line1 { color: #b5520b }
.grid { stroke: #dedbd2 } path { fill: none; stroke: currentColor; stroke-width: 2 } .hover { display: none }
"""


def draw() -> str:
    """An SVG: one chart per arm, against the seconds of training; dots are at equal numbers of images."""
    _, curves = shared_curves(read_rows(RESULTS), SETTINGS)
    lines = {arm: Line([(s, y) for s, y in curve.values()], arm) for arm, curve in curves.items()}
    default = lines.pop(SETTINGS[0])
    charts = [
        line_chart([default, line], axis="success on the probe", unit="share", x_name="seconds of training")
        for line in lines.values()
    ]
    width, height = WIDTH * COLUMNS, HEIGHT * -(-len(charts) // COLUMNS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{STYLE}</style>',
        f'<rect width="{width}" height="{height}" fill="#fbfbf9"/>',
    ]
    for index, chart in enumerate(charts):
        x, y = WIDTH * (index % COLUMNS), HEIGHT * (index // COLUMNS)
        parts.append(chart.replace("<svg ", f'<svg x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" ', 1))
    return "".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    atomic_write(OUT, draw())
