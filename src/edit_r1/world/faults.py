"""Candidate edits of different worth: the right edit, and eleven ways to miss it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from numpy.random import Generator

from edit_r1.world.defects import DEFECTS, spoil
from edit_r1.world.instructions import Operation, sample_operation
from edit_r1.world.render import Array, render
from edit_r1.world.scene import ATTRIBUTES, FRAME, HELDOUT_PAIRING, Scene, Thing, pick, sample_thing

SCENE_FAULTS = ("no_op", "wrong_target", "wrong_value", "incomplete", "collateral", "hallucinated", "overshoot")
FAULTS = (*SCENE_FAULTS, *DEFECTS)
HELDOUT_FAULT = "overshoot"
_TRIES = 40


def _places(operation: Operation) -> set[int | str]:
    return {change.place for change in operation.changes}


def _another(rng: Generator, scene: Scene, operation: Operation, *, same_places: bool) -> Scene | None:
    """What another operation of the same category gives: with other values in the same places, or in other places."""
    goal = operation.apply(scene)
    for _ in range(_TRIES):
        other = sample_operation(rng, scene, operation.category)
        if other and (_places(other) == _places(operation)) == same_places and other.apply(scene) != goal:
            return other.apply(scene)
    return None


def change_thing(rng: Generator, scene: Scene, index: int, keys: tuple[str, ...]) -> Scene:
    """One attribute of one thing takes another value, but none that makes the held-out pairing."""
    thing = scene.cells[index]
    assert thing is not None
    while True:
        key = pick(rng, keys)
        changed = replace(thing, **{key: pick(rng, ATTRIBUTES[key], besides=getattr(thing, key))})
        if changed.name == thing.name or (changed.colour, changed.shape) != HELDOUT_PAIRING:
            return scene.with_cell(index, changed)


def _collateral(rng: Generator, goal: Scene, touched: set[int | str]) -> Scene:
    """The goal with one more thing or frame key changed, outside the places that the operation touches."""
    others = [i for i, _ in goal.things if i not in touched]
    if others and rng.random() < 0.7:
        index = others[int(rng.integers(len(others)))]
        gone = len(goal.things) > 1 and rng.random() < 0.3
        return goal.with_cell(index, None) if gone else change_thing(rng, goal, index, tuple(ATTRIBUTES))
    key = pick(rng, tuple(k for k in FRAME if k not in touched))
    return replace(goal, **{key: pick(rng, FRAME[key], besides=goal.frame(key))})


def _incomplete(rng: Generator, scene: Scene, operation: Operation) -> Scene | None:
    """Half of the work: one part of a compound, a move that leaves the thing behind, a remnant, a thing not as told."""
    if operation.parts:
        return operation.parts[int(rng.integers(2))].apply(scene)
    change = operation.changes[-1]
    if operation.category == "move":
        return replace(operation, changes=(change,)).apply(scene)
    if operation.category == "remove":
        assert isinstance(change.place, int)
        return change_thing(rng, scene, change.place, ("size", "material"))
    if operation.category == "add":
        assert isinstance(change.place, int)
        return change_thing(rng, operation.apply(scene), change.place, ("size", "material"))
    return None


def _overshoot(rng: Generator, goal: Scene, operation: Operation) -> Scene | None:
    """The edited thing takes one more change than was asked for."""
    for change in operation.changes:
        if isinstance(change.place, int) and isinstance(change.value, Thing) and goal.cells[change.place]:
            old = ("size", "material", "colour") if operation.category in ("text", "replace") else ("size", "material")
            keys = {"resize": ("colour", "material"), "material": ("colour", "size")}.get(operation.category, old)
            return change_thing(rng, goal, change.place, keys)
    return None


def faulty_scene(rng: Generator, scene: Scene, operation: Operation, fault: str) -> Scene:
    """What an editor with this fault would show; where the fault has no room, a collateral change stands in."""
    goal = operation.apply(scene)
    touched = _places(operation)
    if fault == "no_op":
        return scene
    found: Scene | None = None
    if fault in ("wrong_target", "wrong_value"):
        found = _another(rng, scene, operation, same_places=fault == "wrong_value")
    elif fault == "incomplete":
        found = _incomplete(rng, scene, operation)
    elif fault == "overshoot":
        found = _overshoot(rng, goal, operation)
    elif fault == "hallucinated" and (free := [i for i in goal.empty if i not in touched]):
        found = goal.with_cell(free[int(rng.integers(len(free)))], sample_thing(rng, {t.name for _, t in goal.things}))
    return found if found is not None else _collateral(rng, goal, touched)


@dataclass(frozen=True)
class Candidate:
    """An edited image, float32 [64, 64, 3], and what was drawn into it."""

    image: Array
    scene: Scene
    faults: tuple[str, ...]

    @property
    def defects(self) -> frozenset[str]:
        """The faults of the pixels."""
        return frozenset(self.faults) & frozenset(DEFECTS)


def candidate(rng: Generator, scene: Scene, operation: Operation, faults: tuple[str, ...] = ()) -> Candidate:
    """An edit with the given faults: at most one of `SCENE_FAULTS` and one of `DEFECTS`; none is the right edit."""
    shown = operation.apply(scene)
    for fault in faults:
        if fault in SCENE_FAULTS:
            shown = faulty_scene(rng, scene, operation, fault)
    image = render(shown)
    for fault in faults:
        if fault in DEFECTS:
            image = spoil(image, fault, rng)
    return Candidate(image, shown, faults)


def draw_faults(rng: Generator, *, heldout: bool = False) -> tuple[str, ...]:
    """Faults of a candidate: none for 30%; of the others 55% have a wrong scene, 25% a defect, 20% both."""
    if rng.random() < 0.3:
        return ()
    scene_faults = tuple(f for f in SCENE_FAULTS if heldout or f != HELDOUT_FAULT)
    kind = rng.random()
    faults: tuple[str, ...] = ()
    if kind < 0.75:
        faults += (pick(rng, scene_faults),)
    if kind >= 0.55:
        faults += (pick(rng, DEFECTS),)
    return faults
