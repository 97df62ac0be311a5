"""The oracle reads back what was drawn: accuracy by kind of image, and the identity as a property."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_r1.world.defects import DEFECTS, blur, noise, soften, spoil
from edit_r1.world.oracle import Reading, _blurred, read_images
from edit_r1.world.render import SETTINGS, SIDE, THINGS, Array, from_image, render, to_image
from edit_r1.world.scene import ATTRIBUTES, BACKGROUNDS, STYLES, TONES, Scene, Thing, sample_scene

COUNT = 1000
SHIFTS = [(y, x) for y, x in product((-1, 0, 1), repeat=2) if (y, x) != (0, 0)]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng, pairing=True) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def clean(scenes: list[Scene]) -> Array:
    return np.stack([render(scene) for scene in scenes])


def shifted(image: Array, y: int, x: int) -> Array:
    """Shifted by one pixel, edges repeated."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return padded[1 + y : 1 + y + SIDE, 1 + x : 1 + x + SIDE]


def right(readings: list[Reading], scenes: list[Scene], defects: frozenset[str] = frozenset()) -> float:
    """Share of readings with the whole scene right and exactly these defects."""
    hits = [r.scene == scene and r.defects == defects for r, scene in zip(readings, scenes, strict=True)]
    return float(np.mean(hits))


def test_clean_renders(scenes: list[Scene], clean: Array) -> None:
    assert right(read_images(clean), scenes) >= 0.995


def test_every_thing_in_every_setting() -> None:
    """All 211 contents of a cell under all 24 settings; an image without things has the style `flat`."""
    found: list[bool] = []
    for setting in SETTINGS:
        drawn = [Scene((thing,) * 4, *setting) for thing in THINGS]
        readings = read_images(np.stack([render(scene) for scene in drawn]))
        assert readings[0].scene.style == "flat"
        found += [r.scene == s for r, s in zip(readings[1:], drawn[1:], strict=True)]
    assert np.mean(found) >= 0.995


def test_mild_noise(scenes: list[Scene], clean: Array) -> None:
    rng = np.random.default_rng(1)
    assert right(read_images(np.stack([noise(image, 0.03, rng) for image in clean])), scenes) >= 0.98


def test_shifts_by_a_pixel(scenes: list[Scene], clean: Array) -> None:
    moved = [shifted(image, *SHIFTS[i % len(SHIFTS)]) for i, image in enumerate(clean)]
    assert right(read_images(np.stack(moved)), scenes) >= 0.98


def test_noise_and_shift_together(scenes: list[Scene], clean: Array) -> None:
    rng = np.random.default_rng(2)
    moved = [noise(shifted(image, *SHIFTS[i % len(SHIFTS)]), 0.03, rng) for i, image in enumerate(clean[:400])]
    assert right(read_images(np.stack(moved)), scenes[:400]) >= 0.98


def test_traces_of_a_decoder_do_not_count(scenes: list[Scene], clean: Array) -> None:
    rng = np.random.default_rng(3)
    assert right(read_images(np.stack([soften(image, rng) for image in clean[:400]])), scenes[:400]) >= 0.98


@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_named(defect: str, eight_bits: bool, scenes: list[Scene], clean: Array) -> None:
    """The defect and no other is named; blur, grid and border leave the scene readable, noise nearly always."""
    rng = np.random.default_rng(4)
    spoilt = np.stack([spoil(image, defect, rng) for image in clean[:300]])
    if eight_bits:
        spoilt = np.stack([from_image(to_image(image)) for image in spoilt])
    readings = read_images(spoilt)
    assert np.mean([r.defects == {defect} for r in readings]) >= 0.98
    same = np.mean([r.scene == scene for r, scene in zip(readings, scenes, strict=False)])
    assert same >= (0.95 if defect == "noise" else 0.98)


def test_what_is_no_scene_has_defects() -> None:
    """Halves of two scenes laid over each other are not explained by any one scene."""
    rng = np.random.default_rng(5)
    mixed = [(render(sample_scene(rng)) + render(sample_scene(rng))) / 2 for _ in range(50)]
    readings = read_images(np.stack(mixed))
    assert np.mean([bool(r.defects) for r in readings]) >= 0.9


def test_readings_do_not_depend_on_the_batch(clean: Array) -> None:
    rng = np.random.default_rng(6)
    images = np.stack([spoil(image, DEFECTS[i % 4], rng) if i % 5 else image for i, image in enumerate(clean[:70])])
    together = read_images(images)
    alone = [read_images(image[None])[0] for image in images]
    assert [(r.scene, r.defects) for r in together] == [(r.scene, r.defects) for r in alone]
    np.testing.assert_allclose([r.residual for r in together], [r.residual for r in alone], atol=1e-6)


def test_residual_is_the_unexplained_rest(clean: Array) -> None:
    """0 for a clean render; the standard deviation of noise that is too weak to be clipped."""
    assert read_images(clean[:1])[0].residual < 1e-6
    gray = render(Scene((None,) * 4, "gray", "neutral", "flat"))
    noisy = noise(gray, 0.03, np.random.default_rng(7))
    assert read_images(noisy[None])[0].residual == pytest.approx(0.03, rel=0.05)


def test_no_images() -> None:
    assert read_images(np.zeros((0, SIDE, SIDE, 3), np.float32)) == []


@pytest.mark.parametrize("sigma", [0.7, 1.8, 2.3])
def test_batched_blur_is_the_blur(sigma: float, clean: Array) -> None:
    expected = np.stack([blur(image, sigma) for image in clean[:5]])
    np.testing.assert_allclose(_blurred(clean[:5], sigma), expected, atol=1e-6)


THING = st.builds(Thing, *(st.sampled_from(values) for values in ATTRIBUTES.values()))
FRAMES = (st.sampled_from(values) for values in (BACKGROUNDS, TONES, STYLES))
SCENES = st.builds(Scene, st.tuples(*[st.none() | THING] * 4), *FRAMES).filter(lambda scene: bool(scene.things))


@settings(deadline=None, max_examples=100)
@given(SCENES)
def test_render_then_read_is_the_identity(scene: Scene) -> None:
    """Also for scenes that are never sampled: four things, the same thing twice."""
    (reading,) = read_images(render(scene)[None])
    assert (reading.scene, reading.defects) == (scene, frozenset())
    assert reading.residual < 1e-6
