"""Scenes, their JSON, and their pictures."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edit_r1.world.render import SIDE, cell_bank, from_image, render, to_image
from edit_r1.world.scene import (
    ATTRIBUTES,
    BACKGROUNDS,
    HELDOUT_PAIRING,
    STYLES,
    TONES,
    Scene,
    Thing,
    sample_scene,
    scene_from_json,
    scene_to_json,
)

PIXELS = "43d6fcad38b550127d377bab6dc4e51e68ea11608a4599e21db14cbd075aa0fa"
THINGS = st.builds(Thing, *(st.sampled_from(values) for values in ATTRIBUTES.values()))
SCENES = st.builds(
    Scene,
    st.tuples(*[st.none() | THINGS] * 4),
    st.sampled_from(BACKGROUNDS),
    st.sampled_from(TONES),
    st.sampled_from(STYLES),
)


@given(SCENES)
def test_json_round_trip(scene: Scene) -> None:
    assert scene_from_json(scene_to_json(scene)) == scene


def test_json_is_stable() -> None:
    """The split of a scene is a hash of this text: another form would move scenes between splits."""
    scene = Scene((Thing("small", "plain", "red", "H"), None, None, None), "gray", "warm", "flat")
    assert scene_to_json(scene) == (
        '{"cells":[{"size":"small","material":"plain","colour":"red","shape":"H"},null,null,null],'
        '"background":"gray","tone":"warm","style":"flat"}'
    )


def test_sampled_scenes_have_room_and_names_of_their_own() -> None:
    rng = np.random.default_rng(0)
    counts: set[int] = set()
    for _ in range(500):
        scene = sample_scene(rng, pairing=True)
        names = [thing.name for _, thing in scene.things]
        assert len(set(names)) == len(names)
        assert len(scene.things) + len(scene.empty) == 4
        counts.add(len(names))
    assert counts == {1, 2, 3}


@pytest.mark.parametrize("pairing", [False, True])
def test_pairing_is_drawn_only_where_allowed(pairing: bool) -> None:
    rng = np.random.default_rng(1)
    things = [thing for _ in range(3000) for _, thing in sample_scene(rng, pairing=pairing).things]
    assert any((thing.colour, thing.shape) == HELDOUT_PAIRING for thing in things) is pairing


def test_pictures_survive_eight_bits() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        image = render(sample_scene(rng))
        assert image.shape == (SIDE, SIDE, 3)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(from_image(to_image(image)), image)


def test_larger_pictures_are_brought_to_size() -> None:
    image = render(sample_scene(np.random.default_rng(3)))
    large = to_image(image).resize((4 * SIDE, 4 * SIDE), Image.Resampling.NEAREST)
    np.testing.assert_allclose(from_image(large), image, atol=1 / 255)


def test_cells_are_drawn_where_they_belong() -> None:
    """A red square, alone in each place in turn: its colour fills that cell's middle, the background the others."""
    square = Thing("large", "plain", "red", "square")
    for index, (y, x) in enumerate([(16, 16), (16, 48), (48, 16), (48, 48)]):
        image = render(Scene((None,) * 4, "black", "neutral", "flat").with_cell(index, square))
        np.testing.assert_allclose(image[y, x], [0.90, 0.14, 0.12], atol=1 / 255)
        np.testing.assert_allclose(image[(y + 32) % 64, x], [0.06, 0.06, 0.06], atol=1 / 255)


def test_pixels_are_frozen() -> None:
    """The shipped bases learned to see these very pixels: who changes them trains the bases anew first."""
    pixels = np.round(cell_bank() * 255).astype(np.uint8)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == PIXELS
