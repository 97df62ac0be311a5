"""Questions about two pictures that follow from no instruction: any attributes and places, in any number and order.

Principles of one kind of edit come in one order and name the same attributes: who only meets those can answer by the
place in the list, without reading (LOG.md). These can only be read. A base may answer any of them; to judge by those of
the held-out category is left to the category.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from numpy.random import Generator

from edit_r1.world.defects import DEFECTS
from edit_r1.world.instructions import HELDOUT_CATEGORY
from edit_r1.world.principles import CellShows, CellsKept, Claim, FrameKept, FrameShows, FreeOf, ThingKeeps
from edit_r1.world.scene import ATTRIBUTES, FRAME, Scene, pick, sample_thing

ValueT = TypeVar("ValueT")

_TRUE = 0.5  # share of the questions for a value that surely name the one that is shown; the others name any
_EMPTY = 0.2  # share of the questions for a cell that ask whether it is empty


def some(rng: Generator, values: Sequence[ValueT], most: int = 0) -> tuple[ValueT, ...]:
    """A few of the values, at least one and at most `most` (0: all), in their own order."""
    count = int(rng.integers(1, (most or len(values)) + 1))
    return tuple(values[i] for i in sorted(rng.permutation(len(values))[:count]))


def _shows(rng: Generator, shown: Scene) -> Claim:
    if rng.random() < 0.3:
        key = pick(rng, tuple(FRAME))
        return FrameShows(key, shown.frame(key) if rng.random() < _TRUE else pick(rng, FRAME[key]))
    index = int(rng.integers(4))
    if rng.random() < _EMPTY:
        return CellShows(index, ())
    thing = (rng.random() < _TRUE and shown.cells[index]) or sample_thing(rng, set())
    return CellShows(index, tuple((key, str(getattr(thing, key))) for key in some(rng, tuple(ATTRIBUTES))))


def _keeps(rng: Generator, source: Scene) -> Claim:
    kind = rng.random()
    if kind < 0.25:
        return FrameKept(some(rng, tuple(FRAME)))
    if kind < 0.5:
        return CellsKept(some(rng, range(4), 3))
    places = [index for index, _ in source.things]
    return ThingKeeps(places[int(rng.integers(len(places)))], some(rng, tuple(ATTRIBUTES)))


def of_heldout(claim: Claim) -> bool:
    """Whether it is one of the two questions that only a task of the held-out category has."""
    if isinstance(claim, CellShows):
        return {key for key, _ in claim.wanted} == {HELDOUT_CATEGORY}
    return isinstance(claim, ThingKeeps) and set(claim.keys) == set(ATTRIBUTES) - {HELDOUT_CATEGORY}


def sample_claims(rng: Generator, source: Scene, shown: Scene, *, heldout: bool = True) -> tuple[Claim, ...]:
    """Three to six different claims about a source and what is shown of it; with `heldout` off none is `of_heldout`."""
    claims: dict[str, Claim] = {}
    count = int(rng.integers(3, 7))
    while len(claims) < count:
        kind = rng.random()
        claim = (
            _shows(rng, shown) if kind < 0.4 else _keeps(rng, source) if kind < 0.85 else FreeOf(some(rng, DEFECTS, 2))
        )
        if heldout or not of_heldout(claim):
            claims[claim.question] = claim
    return tuple(claims.values())
