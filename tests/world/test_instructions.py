"""The grammar: what it says it reads back, and what it does not understand it refuses."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from edit_r1.world.instructions import (
    _PATTERNS,
    CATEGORIES,
    GEDIT,
    JOINTS,
    PHRASES,
    SIMPLE,
    Operation,
    _pattern,
    parse_instruction,
    phrase,
    phrasings,
    sample_operation,
)
from edit_r1.world.scene import Scene, Split, Thing, sample_scene

SPLITS: tuple[Split, ...] = get_args(Split)
CIRCLE, LETTER = Thing("small", "plain", "red", "circle"), Thing("large", "striped", "blue", "H")
SCENE = Scene((CIRCLE, None, LETTER, None), "gray", "neutral", "flat")
NEW = Thing("large", "dotted", "green", "diamond")


def sampled(category: str, count: int, seed: int, *, pairing: bool = False) -> list[tuple[Scene, Operation]]:
    rng = np.random.default_rng(seed)
    found: list[tuple[Scene, Operation]] = []
    while len(found) < count:
        scene = sample_scene(rng, pairing=pairing)
        operation = sample_operation(rng, scene, category, pairing=pairing)
        if operation is not None:
            found.append((scene, operation))
    return found


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("category", CATEGORIES)
def test_phrase_then_parse_is_the_identity(category: str, split: Split) -> None:
    rng = np.random.default_rng(0)
    for scene, operation in sampled(category, 60, seed=1, pairing=split == "heldout"):
        for _ in range(3):
            text = phrase(rng, operation, scene, split)
            assert parse_instruction(text, scene) == operation, text


@pytest.mark.parametrize("category", CATEGORIES)
def test_sampled_operations_change_the_scene_and_keep_names_apart(category: str) -> None:
    for scene, operation in sampled(category, 200, seed=2):
        goal = operation.apply(scene)
        names = [thing.name for _, thing in goal.things]
        assert goal != scene
        assert goal.things
        assert len(set(names)) == len(names)
        assert operation.category == category


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("change the background to cream", Scene(SCENE.cells, "cream", "neutral", "flat")),
        ("make the tone cold", Scene(SCENE.cells, "gray", "cold", "flat")),
        ("change the style to outlined", Scene(SCENE.cells, "gray", "neutral", "outlined")),
        ("paint the red circle green", SCENE.with_cell(0, Thing("small", "plain", "green", "circle"))),
        ("make the blue H dotted", SCENE.with_cell(2, Thing("large", "dotted", "blue", "H"))),
        ("make the red circle large", SCENE.with_cell(0, Thing("large", "plain", "red", "circle"))),
        ("replace the red circle with a blue X", SCENE.with_cell(0, Thing("small", "plain", "blue", "X"))),
        ("change the letter blue H to T", SCENE.with_cell(2, Thing("large", "striped", "blue", "T"))),
        ("add a large dotted green diamond in the top-right", SCENE.with_cell(1, NEW)),
        ("take the red circle away", SCENE.with_cell(0, None)),
        ("move the red circle to the bottom-right", SCENE.with_cell(0, None).with_cell(3, CIRCLE)),
        ("remove the blue H and make the tone warm", Scene((CIRCLE, None, None, None), "gray", "warm", "flat")),
        (
            "make the red circle blue then make the blue H red",
            Scene(
                (Thing("small", "plain", "blue", "circle"), None, Thing("large", "striped", "red", "H"), None),
                *("gray", "neutral", "flat"),
            ),
        ),
    ],
)
def test_instructions_by_hand(text: str, goal: Scene) -> None:
    operation = parse_instruction(text, SCENE)
    assert operation is not None
    assert operation.apply(SCENE) == goal


@pytest.mark.parametrize(
    "text", ["Make the RED circle   green.", " make the red circle green\n", "make the red CIRCLE Green"]
)
def test_case_and_spaces_do_not_matter(text: str) -> None:
    operation = parse_instruction("make the red circle green", SCENE)
    assert operation is not None
    assert parse_instruction(text, SCENE) == operation


@pytest.mark.parametrize(
    "text",
    [
        "",
        "please",
        "make the red circle nicer",
        "make the green circle red",  # not there
        "remove the red circle at the top-right",  # there, but elsewhere
        "make the red circle red",  # nothing to do
        "change the letter blue H to H",
        "change the letter red circle to H",  # no letter
        "add a large dotted green diamond in the top-left",  # no room
        "move the red circle to the bottom-left",
        "move the red circle to the top-left",
        "make the red circle green and make the red circle large",  # both parts in one place
        "make the tone warm then make the tone cold",
        "make the tone warm and make the style outlined and remove the red circle",  # more than two parts
    ],
)
def test_what_the_grammar_refuses(text: str) -> None:
    assert parse_instruction(text, SCENE) is None


def test_the_place_tells_things_of_one_name_apart() -> None:
    twice = SCENE.with_cell(3, CIRCLE)
    operation = parse_instruction("remove the red circle at the bottom-right", twice)
    assert operation is not None
    assert operation.apply(twice) == SCENE


def test_phrasings_of_test_are_its_own() -> None:
    for category in SIMPLE:
        train = set(phrasings(category, "train"))
        assert train == set(phrasings(category, "val"))
        assert phrasings(category, "test") == phrasings(category, "heldout")
        assert train.isdisjoint(phrasings(category, "test"))
        assert train | set(phrasings(category, "test")) == set(PHRASES[category])


def test_no_sentence_of_test_could_be_one_of_train() -> None:
    """Templates of one split match no sentence of the other, whatever the words in their slots."""
    rng = np.random.default_rng(3)
    for category in SIMPLE:
        own: dict[Split, tuple[str, ...]] = {s: phrasings(category, s) for s in ("train", "test")}
        for scene, operation in sampled(category, 50, seed=4):
            for split in own:
                text = phrase(rng, operation, scene, split)
                fits = {s for s, templates in own.items() if any(_pattern(t).fullmatch(text) for t in templates)}
                assert fits == {split}


def test_every_sentence_has_one_reading() -> None:
    """No two patterns match the same sentence, so the order of the grammar does not matter."""
    rng = np.random.default_rng(5)
    for category in SIMPLE:
        for scene, operation in sampled(category, 50, seed=6):
            for split in SPLITS:
                text = phrase(rng, operation, scene, split)
                assert [name for name, pattern in _PATTERNS if pattern.fullmatch(text)] == [category], text


def test_templates_hold_no_joint() -> None:
    assert not [text for texts in PHRASES.values() for text in texts if any(joint in text for joint in JOINTS)]


def test_categories_stand_for_those_of_gedit() -> None:
    names = """background_change color_alter material_alter motion_change ps_human style_change subject-add
    subject-remove subject-replace text_change tone_transfer"""
    assert tuple(GEDIT) == SIMPLE
    assert sorted(GEDIT.values()) == sorted(names.split())
    assert set(CATEGORIES) == {*SIMPLE, "compound"}
