"""Principles of an operation, and their truth for any image (paper section 1: follow, keep, quality).

A claim is a principle together with what makes it true. Judging gives the answer and the evidence that a trace quotes:
`before > after`, word by word, with `changed` beside each pair that differs and `missed` beside what is not as wanted.
To say what is seen is easier to learn than to compare two pictures in silence, and one pair is easier to compare than
several at once (measured: LOG.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from edit_r1.records import Principle, PrincipleCategory
from edit_r1.world.instructions import Change, Operation
from edit_r1.world.oracle import Reading
from edit_r1.world.scene import ATTRIBUTES, FRAME, PLACES, Scene, Thing

WEIGHT = {"follow": 3.0, "keep": 2.0, "quality": 1.0}
"""Weights of the principles for the `weighted` aggregation; ours, for the paper gives none."""


@dataclass(frozen=True)
class Finding:
    """The truth of one claim for one image."""

    met: bool
    evidence: str


@dataclass(frozen=True)
class Claim(ABC):
    """A principle and its truth condition."""

    category: ClassVar[PrincipleCategory]

    @property
    @abstractmethod
    def question(self) -> str:
        """The principle in words."""

    @property
    def principle(self) -> Principle:
        """The question with its category and weight."""
        return Principle(self.question, self.category, WEIGHT[self.category])

    @abstractmethod
    def judge(self, source: Scene, reading: Reading) -> Finding:
        """Whether the image that was read meets the principle, with evidence."""


_NOTHING = dict.fromkeys(ATTRIBUTES, "none")


def _words(thing: Thing | None) -> dict[str, str]:
    """The attributes of a thing; `none` four times where there is nothing."""
    return _NOTHING if thing is None else {key: getattr(thing, key) for key in ATTRIBUTES}


def _pair(before: str, after: str) -> str:
    """`A > A`, or `A > B changed`."""
    return f"{before} > {after}" + ("" if before == after else " changed")


def _wanted(before: str, after: str, value: str) -> str:
    """`A > B want B`, or `A > B want C missed`."""
    return f"{before} > {after} want {value}" + ("" if after == value else " missed")


def cell_evidence(index: int, source: Scene, shown: Scene) -> str:
    """One cell before and after, word by word: `top-left small > small plain > plain red > blue changed X > X`."""
    before, after = source.cells[index], shown.cells[index]
    if before is None and after is None:
        return f"{PLACES[index]} {_pair('none', 'none')}"
    pairs = zip(_words(before).values(), _words(after).values(), strict=True)
    return " ".join([PLACES[index], *(_pair(*pair) for pair in pairs)])


def frame_evidence(key: str, source: Scene, shown: Scene) -> str:
    """`tone warm > cold changed`, or `tone warm > warm`. Without things no style is seen: it counts as kept."""
    if key == "style" and not shown.things:
        return f"{key} {source.style} > none"
    return f"{key} {_pair(source.frame(key), shown.frame(key))}"


def compare(source: Scene, shown: Scene) -> str:
    """Every cell and the frame before and after, a line each: what there is to say without any principle."""
    lines = [cell_evidence(index, source, shown) for index in range(4)]
    return "\n".join([*lines, *(frame_evidence(key, source, shown) for key in FRAME)])


@dataclass(frozen=True)
class CellShows(Claim):
    """A cell shows a thing with the wanted attributes; no attributes: the cell is empty."""

    category = "follow"
    index: int
    wanted: tuple[tuple[str, str], ...]

    @property
    def question(self) -> str:
        """`is the top-left small red now ?`, or `is the top-left empty now ?`."""
        words = " ".join(value for _, value in self.wanted) or "empty"
        return f"is the {PLACES[self.index]} {words} now ?"

    def judge(self, source: Scene, reading: Reading) -> Finding:
        """True when every wanted attribute is there, or nothing is where nothing is wanted."""
        thing = reading.scene.cells[self.index]
        wanted = self.wanted or (("shape", "none"),)
        met = thing is None if not self.wanted else all(_words(thing)[key] == value for key, value in wanted)
        before, after = _words(source.cells[self.index]), _words(thing)
        words = [_wanted(before[key], after[key], value) for key, value in wanted]
        return Finding(met, " ".join([PLACES[self.index], *words]))


@dataclass(frozen=True)
class FrameShows(Claim):
    """Background, tone or style has the wanted value."""

    category = "follow"
    key: str
    value: str

    @property
    def question(self) -> str:
        """`is the tone warm now ?`."""
        return f"is the {self.key} {self.value} now ?"

    def judge(self, source: Scene, reading: Reading) -> Finding:
        """True when the value is there."""
        before, after = source.frame(self.key), reading.scene.frame(self.key)
        return Finding(after == self.value, f"{self.key} {_wanted(before, after, self.value)}")


@dataclass(frozen=True)
class ThingKeeps(Claim):
    """The edited thing keeps the attributes that the instruction does not name."""

    category = "keep"
    index: int
    keys: tuple[str, ...]

    @property
    def question(self) -> str:
        """`does the top-left keep its size colour ?`."""
        return f"does the {PLACES[self.index]} keep its {' '.join(self.keys)} ?"

    def judge(self, source: Scene, reading: Reading) -> Finding:
        """True when the thing is there and every kept attribute is as in the source."""
        before, after = source.cells[self.index], reading.scene.cells[self.index]
        assert before is not None
        if after is None:
            return Finding(False, "none")
        changes = [(k, getattr(before, k), getattr(after, k)) for k in self.keys]
        words = [f"{key} {_pair(a, b)}" for key, a, b in changes]
        return Finding(all(a == b for _, a, b in changes), " ".join(words))


@dataclass(frozen=True)
class CellsKept(Claim):
    """Cells that the instruction does not touch stay as they are."""

    category = "keep"
    indexes: tuple[int, ...]

    @property
    def question(self) -> str:
        """`do top-left top-right stay ?`."""
        return f"do {' '.join(PLACES[i] for i in self.indexes)} stay ?"

    def judge(self, source: Scene, reading: Reading) -> Finding:
        """True when every one of the cells shows what the source shows."""
        met = all(source.cells[i] == reading.scene.cells[i] for i in self.indexes)
        return Finding(met, " ".join(cell_evidence(i, source, reading.scene) for i in self.indexes))


@dataclass(frozen=True)
class FrameKept(Claim):
    """Background, tone and style stay, but for what the instruction changes."""

    category = "keep"
    keys: tuple[str, ...]

    @property
    def question(self) -> str:
        """`do background tone stay ?`."""
        return f"do {' '.join(self.keys)} stay ?"

    def judge(self, source: Scene, reading: Reading) -> Finding:
        """True when every key has the source's value."""
        evidence = [frame_evidence(k, source, reading.scene) for k in self.keys]
        return Finding(not any(e.endswith(" changed") for e in evidence), " ".join(evidence))


@dataclass(frozen=True)
class FreeOf(Claim):
    """The image has none of some defects."""

    category = "quality"
    defects: tuple[str, ...]

    @property
    def question(self) -> str:
        """`is it free of noise and blur ?`."""
        return f"is it free of {' and '.join(self.defects)} ?"

    def judge(self, source: Scene, reading: Reading) -> Finding:
        """True when none of the defects was read."""
        found = [d for d in self.defects if d in reading.defects]
        return Finding(not found, " ".join(found) or "clean")


def _claims_of_change(scene: Scene, change: Change) -> list[Claim]:
    """What one change wants, and what it must leave of the thing that it touches."""
    if isinstance(change.place, str):
        return [FrameShows(change.place, str(change.value))]
    old, new = scene.cells[change.place], change.value
    if new is None:
        return [CellShows(change.place, ())]
    assert isinstance(new, Thing)
    changed = tuple(k for k in ATTRIBUTES if old is None or getattr(old, k) != getattr(new, k))
    claims: list[Claim] = [CellShows(change.place, tuple((k, str(getattr(new, k))) for k in changed))]
    kept = tuple(k for k in ATTRIBUTES if k not in changed)
    return [*claims, ThingKeeps(change.place, kept)] if kept else claims


def principles_for(scene: Scene, operation: Operation) -> tuple[Claim, ...]:
    """The claims of an operation: follow, then keep, then quality; five to nine (the paper has about ten)."""
    touched = {c.place for c in operation.changes}
    claims = [claim for change in operation.changes for claim in _claims_of_change(scene, change)]
    cells = tuple(i for i in range(4) if i not in touched)
    keys = tuple(k for k in FRAME if k not in touched)
    claims += [CellsKept(cells)] if cells else []
    claims += [FrameKept(keys)] if keys else []
    claims += [FreeOf(("noise", "blur")), FreeOf(("grid", "border"))]
    order = {"follow": 0, "keep": 1, "quality": 2}
    return tuple(sorted(claims, key=lambda claim: order[claim.category]))
