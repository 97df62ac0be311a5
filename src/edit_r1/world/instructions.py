"""Operations on scenes, and the grammar that says them in words and reads them back.

Eleven categories after GEdit-Bench, with stand-ins where a category needs photographs (docs/world.md), plus `compound`.
An operation is a tuple of changes; a change puts one value in one place. `train` and `val` share phrasings, `test` has
its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from numpy.random import Generator

from edit_r1.world.scene import (
    ATTRIBUTES,
    FRAME,
    HELDOUT_PAIRING,
    LETTERS,
    PLACES,
    Scene,
    Split,
    Thing,
    pick,
    sample_thing,
)

HELDOUT_CATEGORY = "material"
SIMPLE = ("background", "colour", "material", "move", "resize", "style", "add", "remove", "replace", "text", "tone")
CATEGORIES = (*SIMPLE, "compound")
GEDIT = {
    "background": "background_change",
    "colour": "color_alter",
    "material": "material_alter",
    "move": "motion_change",
    "resize": "ps_human",
    "style": "style_change",
    "add": "subject-add",
    "remove": "subject-remove",
    "replace": "subject-replace",
    "text": "text_change",
    "tone": "tone_transfer",
}
"""Our category -> the GEdit-Bench task that it stands for."""


@dataclass(frozen=True)
class Change:
    """One place gets one value: `place` is a cell's index (value: thing or None) or a frame key (value: word)."""

    place: int | str
    value: Thing | str | None


@dataclass(frozen=True)
class Operation:
    """What an instruction asks for; `category` is one of `CATEGORIES`."""

    category: str
    changes: tuple[Change, ...]
    parts: tuple[Operation, ...] = ()

    def apply(self, scene: Scene) -> Scene:
        """The scene that fulfils the operation and changes nothing else."""
        for change in self.changes:
            if isinstance(change.place, int):
                assert not isinstance(change.value, str)
                scene = scene.with_cell(change.place, change.value)
            else:
                scene = replace(scene, **{change.place: change.value})
        return scene


# --- phrasings: `{thing}` is there, `{new}` is to come, `{place}` is a cell; the last of each list is for `test` ---
# A test phrasing is new for its category and made of words that training says elsewhere: what is asked is to read a
# new sentence, not to guess a word that was never heard.
PHRASES: dict[str, tuple[str, ...]] = {
    "background": (
        "change the background to {background}",
        "make the background {background}",
        "turn the background {background}",
        "paint the background {background}",
    ),
    "colour": (
        "make the {thing} {colour}",
        "change the colour of the {thing} to {colour}",
        "paint the {thing} {colour}",
        "turn the {thing} {colour}",
    ),
    "material": (
        "make the {thing} {material}",
        "change the material of the {thing} to {material}",
        "turn the {thing} {material}",
    ),
    "move": (
        "move the {thing} to the {place}",
        "put the {thing} in the {place}",
        "take the {thing} to the {place}",
    ),
    "resize": (
        "make the {thing} {size}",
        "change the size of the {thing} to {size}",
        "turn the {thing} {size}",
    ),
    "style": (
        "make the style {style}",
        "turn the style {style}",
        "change the style to {style}",
    ),
    "add": (
        "add a {new} in the {place}",
        "put a {new} in the {place}",
        "make a {new} in the {place}",
    ),
    "remove": (
        "remove the {thing}",
        "delete the {thing}",
        "take the {thing} away",
        "move the {thing} away",
    ),
    "replace": (
        "replace the {thing} with a {colour} {shape}",
        "change the {thing} to a {colour} {shape}",
        "turn the {thing} to a {colour} {shape}",
    ),
    "text": (
        "change the letter {thing} to {letter}",
        "replace the letter {thing} with {letter}",
        "make the letter {thing} {letter}",
    ),
    "tone": (
        "make the tone {tone}",
        "change the tone to {tone}",
        "turn the tone {tone}",
    ),
}
JOINTS = (" and ", " then ")
_SLOTS: dict[str, tuple[str, ...]] = {
    **ATTRIBUTES,
    **FRAME,
    "place": PLACES,
    "letter": LETTERS,
}


def phrasings(category: str, split: Split) -> tuple[str, ...]:
    """The phrasings of a simple category in a split; `test` and `heldout` share none with `train` and `val`."""
    return PHRASES[category][-1:] if split in ("test", "heldout") else PHRASES[category][:-1]


def _changed(scene: Scene, index: int, **values: str) -> Operation | None:
    """Change attributes of the thing in a cell; None when its new name is taken or nothing changes."""
    thing = scene.cells[index]
    assert thing is not None
    new = replace(thing, **values)
    taken = {t.name for i, t in scene.things if i != index}
    return None if new == thing or new.name in taken else Operation("", (Change(index, new),))


def _sample_on_thing(rng: Generator, category: str, scene: Scene, index: int) -> Operation | None:
    thing = scene.cells[index]
    assert thing is not None
    if category == "colour":
        return _changed(scene, index, colour=pick(rng, ATTRIBUTES["colour"], besides=thing.colour))
    if category == "material":
        return _changed(scene, index, material=pick(rng, ATTRIBUTES["material"], besides=thing.material))
    if category == "resize":
        return _changed(scene, index, size=pick(rng, ATTRIBUTES["size"], besides=thing.size))
    if category == "move":
        goal = scene.empty[int(rng.integers(len(scene.empty)))]
        return Operation("", (Change(index, None), Change(goal, thing)))
    if category == "remove":
        return Operation("", (Change(index, None),))
    if category == "replace":
        shape = pick(rng, ATTRIBUTES["shape"], besides=thing.shape)
        return _changed(scene, index, shape=shape, colour=pick(rng, ATTRIBUTES["colour"]))
    if category == "text" and thing.shape in LETTERS:
        return _changed(scene, index, shape=pick(rng, LETTERS, besides=thing.shape))
    return None


def _sample_simple(rng: Generator, category: str, scene: Scene, *, pairing: bool) -> Operation | None:
    """One operation of a simple category, or None where the scene offers no place for what was drawn."""
    if category in FRAME:
        word = pick(rng, FRAME[category], besides=scene.frame(category))
        found = Operation("", (Change(category, word),))
    elif category == "add":
        goal = scene.empty[int(rng.integers(len(scene.empty)))]
        new = sample_thing(rng, {t.name for _, t in scene.things}, pairing=pairing)
        found = Operation("", (Change(goal, new),))
    else:
        index, _ = scene.things[int(rng.integers(len(scene.things)))]
        found = _sample_on_thing(rng, category, scene, index)
    if found is None or not found.apply(scene).things or (not pairing and _shows_pairing(found)):
        return None
    return replace(found, category=category)


def _shows_pairing(operation: Operation) -> bool:
    things = (c.value for c in operation.changes)
    return any(isinstance(t, Thing) and (t.colour, t.shape) == HELDOUT_PAIRING for t in things)


def sample_operation(rng: Generator, scene: Scene, category: str, *, pairing: bool = False) -> Operation | None:
    """A random operation of the category, or None where the scene has no room for it (draw another scene)."""
    if category != "compound":
        return _sample_simple(rng, category, scene, pairing=pairing)
    names = [str(rng.choice([c for c in SIMPLE if c != HELDOUT_CATEGORY])) for _ in range(2)]
    first, second = (_sample_simple(rng, name, scene, pairing=pairing) for name in names)
    if first is None or second is None or {c.place for c in first.changes} & {c.place for c in second.changes}:
        return None
    both = Operation("compound", (*first.changes, *second.changes), (first, second))
    names_after = [t.name for _, t in both.apply(scene).things]
    return both if names_after and len(set(names_after)) == len(names_after) else None


def phrase(rng: Generator, operation: Operation, scene: Scene, split: Split) -> str:
    """The operation in one of the split's phrasings; things are named by colour and shape, sometimes with the cell."""
    if operation.parts:
        return JOINTS[int(rng.integers(2))].join(phrase(rng, part, scene, split) for part in operation.parts)
    template = pick(rng, phrasings(operation.category, split))
    words: dict[str, str] = {}
    for change in operation.changes:
        if isinstance(change.place, str):
            words[change.place] = str(change.value)
            continue
        old, new = scene.cells[change.place], change.value
        if old is not None:
            words["thing"] = old.name + (f" at the {PLACES[change.place]}" if rng.random() < 0.3 else "")
        if isinstance(new, Thing):
            words |= {key: str(getattr(new, key)) for key in ATTRIBUTES}
            words |= {"new": str(new), "letter": new.shape, "place": PLACES[change.place]}
    return template.format(**words)


def _pattern(template: str) -> re.Pattern[str]:
    """The regular expression of a template: slots become groups of their words."""
    attributes = {key: "|".join(values) for key, values in _SLOTS.items()}
    thing = f"(?P<old_colour>{attributes['colour']}) (?P<old_shape>{attributes['shape']})"
    thing += f"( at the (?P<at>{attributes['place']}))?"
    new = " ".join(f"(?P<{key}>{attributes[key]})" for key in ATTRIBUTES)
    text = re.escape(template).replace(r"\ ", " ")
    text = text.replace(r"\{thing\}", thing).replace(r"\{new\}", new)
    for key, words in attributes.items():
        text = text.replace(rf"\{{{key}\}}", f"(?P<{key}>{words})")
    return re.compile(text, re.IGNORECASE)


_PATTERNS = [(category, _pattern(text)) for category, texts in PHRASES.items() for text in texts]


def _read_simple(category: str, words: dict[str, str], scene: Scene) -> Operation | None:
    """The operation that matched words ask for; None when the thing or the room is not there, or nothing changes."""
    if category in FRAME:
        return Operation(category, (Change(category, words[category]),))
    goal = PLACES.index(words["place"]) if "place" in words else None
    if goal is not None and scene.cells[goal] is not None:
        return None
    if category == "add":
        assert goal is not None
        return Operation(category, (Change(goal, Thing(**{k: words[k] for k in ATTRIBUTES})),))
    name, at = f"{words['old_colour']} {words['old_shape']}", words.get("at")
    index = next((i for i, t in scene.things if t.name == name and at in (None, PLACES[i])), None)
    if index is None:
        return None
    thing = scene.cells[index]
    assert thing is not None
    if category == "remove":
        return Operation(category, (Change(index, None),))
    if category == "move":
        assert goal is not None
        return Operation(category, (Change(index, None), Change(goal, thing)))
    if category == "text":
        words["shape"] = words["letter"] if thing.shape in LETTERS else thing.shape
    new = replace(thing, **{k: words[k] for k in ATTRIBUTES if k in words})
    return None if new == thing else Operation(category, (Change(index, new),))


def _canonical(text: str) -> str:
    """Lower case, single spaces, letters as capitals."""
    words = text.strip().rstrip(".").lower().split()
    return " ".join(w.upper() if w.upper() in LETTERS else w for w in words)


def parse_instruction(text: str, scene: Scene) -> Operation | None:
    """Read an instruction of the grammar against the scene it speaks of; None when it is outside the grammar."""
    text = _canonical(text)
    for category, pattern in _PATTERNS:
        match = pattern.fullmatch(text)
        if match:
            words = {k: _restore(v) for k, v in match.groupdict().items() if v is not None}
            return _read_simple(category, words, scene)
    for joint in JOINTS:
        head, found, tail = text.partition(joint)
        if found:
            first, second = parse_instruction(head, scene), parse_instruction(tail, scene)
            apart = first and second and not {c.place for c in first.changes} & {c.place for c in second.changes}
            if first and second and apart and not first.parts and not second.parts:
                return Operation("compound", (*first.changes, *second.changes), (first, second))
    return None


def _restore(word: str) -> str:
    return word.upper() if word.upper() in LETTERS else word.lower()
