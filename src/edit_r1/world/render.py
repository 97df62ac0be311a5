"""The renderer: every cell is one of 211 pictures in one of 24 settings, drawn once and then looked up.

Cells do not overlap, so an image is four look-ups, and the oracle can match each cell on its own against the same bank.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edit_r1.world.scene import BACKGROUNDS, COLOURS, MATERIALS, SHAPES, SIZES, STYLES, TONES, Scene, Thing

Array = NDArray[np.float32]

CELL = 32
SIDE = 2 * CELL
_SAMPLES = 4  # sub-pixels per side, for smooth edges
_RADIUS = {"small": 8.0, "large": 13.0}
_RGB = {
    "red": (0.90, 0.14, 0.12),
    "green": (0.15, 0.70, 0.22),
    "blue": (0.16, 0.32, 0.95),
    "yellow": (0.97, 0.86, 0.15),
    "purple": (0.66, 0.22, 0.78),
    "gray": (0.50, 0.50, 0.50),
    "black": (0.06, 0.06, 0.06),
    "cream": (0.86, 0.80, 0.62),
    "brown": (0.40, 0.25, 0.14),
}
_TONE = {"neutral": (1.0, 1.0, 1.0), "warm": (1.0, 0.82, 0.58), "cold": (0.62, 0.84, 1.0)}
_OUTLINE_RGB = (1.0, 1.0, 1.0)
_OUTLINE_PIXELS = 2.0

THINGS: tuple[Thing | None, ...] = (None, *(Thing(*v) for v in product(SIZES, MATERIALS, COLOURS, SHAPES)))
SETTINGS: tuple[tuple[str, str, str], ...] = tuple(product(BACKGROUNDS, TONES, STYLES))
_THING_INDEX = {thing: i for i, thing in enumerate(THINGS)}
_SETTING_INDEX: dict[tuple[str, str, str], int] = {setting: i for i, setting in enumerate(SETTINGS)}


def _inside(shape: str, x: Array, y: Array, radius: float) -> NDArray[np.bool_]:
    """Whether sub-pixels at offset (x right, y down) from the centre lie inside a shape of that radius."""
    bar = 0.3 * radius
    box = np.maximum(np.abs(x), np.abs(y)) <= 0.92 * radius
    if shape == "circle":
        return x**2 + y**2 <= radius**2
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.85 * radius
    if shape == "triangle":
        return (y <= 0.85 * radius) & (y >= 2 * np.abs(x) - radius)
    if shape == "diamond":
        return np.abs(x) + np.abs(y) <= 1.1 * radius
    if shape == "H":
        return box & ((np.abs(np.abs(x) - 0.62 * radius) <= bar) | (np.abs(y) <= bar))
    if shape == "T":
        return box & ((np.abs(x) <= bar) | (np.abs(y + 0.62 * radius) <= bar))
    if shape == "X":
        return box & (np.minimum(np.abs(x - y), np.abs(x + y)) <= 1.3 * bar)
    raise ValueError(f"unknown shape {shape!r}")


def _coverage(shape: str, radius: float) -> Array:
    """Share of every pixel of a cell that the shape covers, [CELL, CELL]."""
    ticks = ((np.arange(CELL * _SAMPLES, dtype=np.float32) + 0.5) / _SAMPLES - CELL / 2).astype(np.float32)
    inside = _inside(shape, ticks[None, :], ticks[:, None], radius)
    return inside.reshape(CELL, _SAMPLES, CELL, _SAMPLES).mean((1, 3)).astype(np.float32)


def _shade(material: str) -> Array:
    """Brightness of the material at every pixel of a cell, [CELL, CELL]."""
    shade = np.ones((CELL, CELL), np.float32)
    rows, columns = np.mgrid[0:CELL, 0:CELL]
    if material == "striped":
        shade[rows % 8 < 4] = 0.4
    elif material == "dotted":
        shade[(rows % 6 < 3) & (columns % 6 < 3)] = 0.1
    return shade


def _draw_cell(thing: Thing | None, background: str, tone: str, style: str) -> Array:
    """One cell in one setting, [CELL, CELL, 3] in [0, 1]."""
    image = np.broadcast_to(np.asarray(_RGB[background], np.float32), (CELL, CELL, 3))
    if thing is not None:
        radius = _RADIUS[thing.size]
        cover = _coverage(thing.shape, radius)[..., None]
        body = np.asarray(_RGB[thing.colour], np.float32) * _shade(thing.material)[..., None]
        image = image * (1 - cover) + body * cover
        if style == "outlined":
            rim = np.clip(_coverage(thing.shape, radius + _OUTLINE_PIXELS)[..., None] - cover, 0, 1)
            image = image * (1 - rim) + np.asarray(_OUTLINE_RGB, np.float32) * rim
    return (image * np.asarray(_TONE[tone], np.float32)).astype(np.float32)


@lru_cache(maxsize=1)
def cell_bank() -> Array:
    """Every cell in every setting, [len(SETTINGS), len(THINGS), CELL, CELL, 3], in steps of 1/255 as saved images."""
    drawings = [[_draw_cell(thing, *setting) for thing in THINGS] for setting in SETTINGS]
    return (np.round(np.asarray(drawings, np.float32) * 255) / 255).astype(np.float32)


def render(scene: Scene) -> Array:
    """The image of a scene, float32 [64, 64, 3] in [0, 1]."""
    bank = cell_bank()[_SETTING_INDEX[scene.background, scene.tone, scene.style]]
    a, b, c, d = (bank[_THING_INDEX[thing]] for thing in scene.cells)
    return np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)], 0)


def to_image(array: NDArray[np.floating]) -> Image.Image:
    """Float [64, 64, 3] in [0, 1] to PIL RGB."""
    return Image.fromarray(np.round(np.clip(array, 0, 1) * 255).astype(np.uint8), "RGB")


def from_image(image: Image.Image) -> Array:
    """PIL to float32 [64, 64, 3] in [0, 1]; other sizes are resized to the world's."""
    rgb = image.convert("RGB")
    if rgb.size != (SIDE, SIDE):
        rgb = rgb.resize((SIDE, SIDE), Image.Resampling.BOX)
    return (np.asarray(rgb, np.float32) / 255).astype(np.float32)
