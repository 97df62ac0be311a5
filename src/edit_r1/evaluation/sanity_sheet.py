"""The contact sheet of the sanity suite: one task, every attack on it, and what the verifier made of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

from edit_r1.records import Edit

_TILE, _GAP, _MARGIN, _COLUMNS = 128, 34, 24, 3
_CELL_WIDTH, _CELL_HEIGHT = 2 * _TILE + _GAP + 40, _TILE + 104
_LETTERS, _LINES = 46, 3  # of the instruction under a pair of pictures
_PAPER, _INK, _FAINT, _BAD = "#fbfbf9", "#1d1d1f", "#6b6b70", "#c8372d"


def draw_sheet(
    edits: Mapping[str, Edit], scores: Mapping[str, float | None], succeeded: Collection[str]
) -> Image.Image:
    """Source and edit of every kind in the order of `edits`, with the score and the instruction below.

    What is in `succeeded` is red: an attack that did not score below the right edit.
    """
    rows = -(-len(edits) // _COLUMNS)
    size = (2 * _MARGIN + _COLUMNS * _CELL_WIDTH, 2 * _MARGIN + rows * _CELL_HEIGHT)
    sheet = Image.new("RGB", size, _PAPER)
    for number, (name, edit) in enumerate(edits.items()):
        corner = (
            _MARGIN + number % _COLUMNS * _CELL_WIDTH,
            _MARGIN + number // _COLUMNS * _CELL_HEIGHT,
        )
        _draw_edit(sheet, corner, edit, name, scores[name], _BAD if name in succeeded else _INK)
    return sheet


def _draw_edit(
    sheet: Image.Image, corner: tuple[int, int], edit: Edit, name: str, score: float | None, colour: str
) -> None:
    x, y = corner
    draw = ImageDraw.Draw(sheet)
    for left, picture in ((x, edit.task.source), (x + _TILE + _GAP, edit.image)):
        sheet.paste(picture.convert("RGB").resize((_TILE, _TILE), Image.Resampling.NEAREST), (left, y))
    middle = y + _TILE // 2
    draw.line((x + _TILE + 8, middle, x + _TILE + 22, middle), _FAINT, 2)
    draw.polygon([(x + _TILE + 20, middle - 6), (x + _TILE + 28, middle), (x + _TILE + 20, middle + 6)], _FAINT)
    said = "no score" if score is None else f"{score:.1f}"
    draw.text((x, y + _TILE + 6), f"{name.replace('_', ' ')}: {said}", colour, ImageFont.load_default(16))
    for line, text in enumerate(wrap(edit.task.instruction, _LETTERS)[:_LINES]):
        draw.text((x, y + _TILE + 30 + 17 * line), text, _FAINT, ImageFont.load_default(12))
