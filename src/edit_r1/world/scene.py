"""Scenes: four cells, each empty or holding one thing, on a background, under a tone, in a style.

A letter is a thing whose shape is a glyph: one noun serves objects and text alike.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal

from numpy.random import Generator

SIZES = ("small", "large")
MATERIALS = ("plain", "striped", "dotted")
COLOURS = ("red", "green", "blue", "yellow", "purple")
LETTERS = ("H", "T", "X")
SHAPES = ("circle", "square", "triangle", "diamond", *LETTERS)
BACKGROUNDS = ("gray", "black", "cream", "brown")
TONES = ("neutral", "warm", "cold")
STYLES = ("flat", "outlined")
PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
FRAME = {"background": BACKGROUNDS, "tone": TONES, "style": STYLES}
"""What belongs to the whole picture, with its values."""
ATTRIBUTES = {"size": SIZES, "material": MATERIALS, "colour": COLOURS, "shape": SHAPES}
"""What belongs to a thing, with its values, in the order in which they are spoken."""

FrameKey = Literal["background", "tone", "style"]
Split = Literal["train", "val", "test", "heldout"]

HELDOUT_PAIRING = ("purple", "X")
"""Colour and shape that meet in the `heldout` split only."""


@dataclass(frozen=True)
class Thing:
    """An object or a letter; the words are those of `ATTRIBUTES`."""

    size: str
    material: str
    colour: str
    shape: str

    def __str__(self) -> str:
        """All four words, as traces quote them."""
        return f"{self.size} {self.material} {self.colour} {self.shape}"

    @property
    def name(self) -> str:
        """Colour and shape: unique within a scene, so that an instruction can point at the thing."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """The meaning of an image; `cells` in the order of `PLACES`."""

    cells: tuple[Thing | None, ...]
    background: str
    tone: str
    style: str

    def frame(self, key: str) -> str:
        """Value of background, tone or style."""
        return str(getattr(self, key))

    def with_cell(self, index: int, thing: Thing | None) -> Scene:
        """The same scene with another content of one cell."""
        return replace(self, cells=(*self.cells[:index], thing, *self.cells[index + 1 :]))

    @property
    def things(self) -> list[tuple[int, Thing]]:
        """Occupied cells: (index, thing)."""
        return [(i, t) for i, t in enumerate(self.cells) if t is not None]

    @property
    def empty(self) -> list[int]:
        """Indexes of the empty cells."""
        return [i for i, t in enumerate(self.cells) if t is None]


def pick(rng: Generator, values: tuple[str, ...], *, besides: str | None = None) -> str:
    """One of the values at random, never `besides`."""
    choices = [v for v in values if v != besides]
    return choices[int(rng.integers(len(choices)))]


def sample_thing(rng: Generator, taken: set[str], *, pairing: bool = False, letter: bool = False) -> Thing:
    """A random thing whose name is not taken; the held-out pairing appears only where `pairing` says so."""
    while True:
        shape = pick(rng, LETTERS if letter else SHAPES)
        thing = Thing(pick(rng, SIZES), pick(rng, MATERIALS), pick(rng, COLOURS), shape)
        if thing.name not in taken and (pairing or (thing.colour, thing.shape) != HELDOUT_PAIRING):
            return thing


def sample_scene(rng: Generator, *, pairing: bool = False) -> Scene:
    """A random scene with one to three things, all of different names, so that every operation finds its place."""
    cells: list[Thing | None] = [None] * 4
    taken: set[str] = set()
    for index in rng.permutation(4)[: int(rng.integers(1, 4))]:
        thing = sample_thing(rng, taken, pairing=pairing, letter=bool(rng.random() < 0.15))
        cells[int(index)] = thing
        taken.add(thing.name)
    return Scene(tuple(cells), pick(rng, BACKGROUNDS), pick(rng, TONES), pick(rng, STYLES))


def scene_to_json(scene: Scene) -> str:
    """Compact JSON of a scene."""
    return json.dumps(scene, default=vars, separators=(",", ":"))


def scene_from_json(text: str) -> Scene:
    """Inverse of `scene_to_json`."""
    raw = json.loads(text)
    cells = tuple(None if c is None else Thing(**c) for c in raw.pop("cells"))
    return Scene(cells, **raw)
