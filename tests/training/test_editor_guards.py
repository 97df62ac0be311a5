"""What the guards against reward hacking measure of pictures: values on paper, and properties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator

from edit_r1.images import to_image
from edit_r1.records import Edit, EditTask
from edit_r1.training.editor_guards import (
    Array,
    diversity,
    drift,
    edge_density,
    high_frequency,
    image_metrics,
    reward_gap,
)
from edit_r1.world import defects

SEEDS = st.integers(0, 2**32 - 1)


def flat(value: float, height: int = 64, width: int = 64) -> Array:
    return np.full((3, height, width), value, np.float32)


def checkerboard(size: int, cell: int = 1) -> Array:
    rows, columns = np.mgrid[0:size, 0:size] // cell
    return np.broadcast_to(((rows + columns) % 2).astype(np.float32), (3, size, size))


def point(height: int, width: int) -> Array:
    image = flat(0, height, width)
    image[:, 2, 3] = 1
    return image


def with_rectangle(image: Array, rows: slice, columns: slice, change: float) -> Array:
    changed = image.copy()
    changed[:, rows, columns] += np.float32(change)
    return changed


def smooth(rng: Generator, size: int = 64) -> Array:
    """One wave per side and channel around 0.5: neighbours differ by at most 0.2 * 2 pi / 64 = 0.02."""
    ticks = np.arange(size) * 2 * np.pi / size
    waves = [np.cos(ticks[:, None] + a) * np.cos(ticks + b) for a, b in rng.uniform(0, 6, (3, 2))]
    return (0.5 + 0.2 * np.stack(waves)).astype(np.float32)


def test_diversity_by_hand() -> None:
    """Two images 0.3 apart: 0.3. Of 0, 0 and 0.3 the squared distances are 0, 0.09, 0.09: the root of 0.06."""
    assert diversity([flat(0.2), flat(0.5)]) == pytest.approx(0.3)
    assert diversity([flat(0.1), flat(0.1), flat(0.4)]) == pytest.approx(math.sqrt(0.06))
    half = with_rectangle(flat(0.2), slice(0, 32), slice(0, 64), 0.4)
    assert diversity([flat(0.2), half]) == pytest.approx(math.sqrt(0.4**2 / 2))


@given(SEEDS, st.integers(2, 6))
def test_diversity_is_the_mean_over_pairs_in_any_order(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    images = list(rng.random((count, 3, 4, 5), np.float32))
    squares = [np.square(a - b, dtype=np.float64).mean() for a, b in itertools.combinations(images, 2)]
    assert diversity(images) == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-5)
    assert diversity([images[i] for i in rng.permutation(count)]) == pytest.approx(diversity(images), rel=1e-9)


@given(SEEDS, st.integers(2, 24), st.booleans())
def test_diversity_is_zero_if_and_only_if_members_are_equal(seed: int, count: int, equal: bool) -> None:
    """One of 256 levels in one pixel of one member is enough."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.integers(0, 255, (1, 3, 4, 4)), count, axis=0)
    levels[count - 1, 0, 0, 0] += not equal
    assert (diversity(list(levels.astype(np.float32) / np.float32(255))) == 0) == equal


def test_high_frequency_by_hand() -> None:
    """A checkerboard is one wave at the Nyquist frequency. Of stripes of two pixels all energy is at half of it.

    A single point has equal energy in all frequencies but the mean. Of 8 rows the frequencies 0, +-1/8 and +-1/4 are
    low, 5 of 8, likewise of columns: (64 - 25) / 63. Of 7 rows 3 are low (1/7 < 1/4 < 2/7), of 9 columns 5: 48 / 62.
    """
    assert high_frequency(checkerboard(64)) == pytest.approx(1)
    stripes = np.broadcast_to(np.tile(np.array([0, 0, 1, 1], np.float32), 16), (3, 64, 64))
    assert high_frequency(stripes) == pytest.approx(0, abs=1e-6)
    assert high_frequency(point(8, 8)) == pytest.approx(39 / 63, rel=1e-5)
    assert high_frequency(point(7, 9)) == pytest.approx(48 / 62, rel=1e-5)
    assert high_frequency(flat(0.3)) == 0
    noise = np.random.default_rng(0).random((3, 128, 128), np.float32)
    assert high_frequency(noise) == pytest.approx(0.75, abs=0.02)  # 16,384 frequencies: a standard error of 0.004


@given(SEEDS, st.floats(0.2, 1), st.floats(0, 0.5))
def test_brightness_and_contrast_do_not_change_the_fine_detail(seed: int, contrast: float, brightness: float) -> None:
    image = np.random.default_rng(seed).random((3, 16, 16), np.float32)
    assert high_frequency(image * np.float32(contrast) + np.float32(brightness)) == pytest.approx(
        high_frequency(image), rel=1e-3
    )


def test_edge_density_by_hand() -> None:
    """A step between two columns is an edge in one of W - 1 columns if it is above 0.1; a checkerboard has no other.

    A step of 0.17 in one of three channels is an RMS of 0.17 / sqrt(3) = 0.098, one of 0.18 is 0.104.
    """
    for step, share in ((0.09, 0), (0.11, 1 / 20), (-0.11, 1 / 20)):
        image = with_rectangle(flat(0.5, 11, 21), slice(None), slice(8, None), step)
        assert edge_density(image) == pytest.approx(share)
        assert edge_density(image.transpose(0, 2, 1)) == pytest.approx(share)
    assert edge_density(checkerboard(8)) == 1
    assert edge_density(flat(0.3)) == 0
    for step, share in ((0.17, 0), (0.18, 1 / 20)):
        image = flat(0.5, 11, 21)
        image[0, :, 8:] += np.float32(step)
        assert edge_density(image) == pytest.approx(share)


@settings(deadline=None)
@given(SEEDS, st.floats(0.12, 0.3))
def test_grids_and_noise_raise_detail_and_edges(seed: int, strength: float) -> None:
    rng = np.random.default_rng(seed)
    image = smooth(rng)
    pixels = image.transpose(1, 2, 0)
    for spoilt in (defects.grid(pixels, 2, strength), defects.noise(pixels, strength, rng)):
        worse = spoilt.transpose(2, 0, 1)
        assert high_frequency(worse) > high_frequency(image) + 0.1
        assert edge_density(worse) > edge_density(image) + 0.1


def test_drift_by_hand() -> None:
    """64 x 64 in blocks of 4 x 4. The edit changes block (5, 7) by 0.5: it and its eight neighbours are left out.

    A change of 0.04 in one of the 247 others is an RMS of 0.04 / sqrt(247); everywhere it is 0.04; in a neighbour none.
    """
    source = flat(0.3)
    edited = with_rectangle(source, slice(20, 24), slice(28, 32), 0.5)
    assert drift(source, source) == drift(source, edited) == 0
    far = with_rectangle(edited, slice(40, 44), slice(0, 4), 0.04)
    assert drift(source, far) == pytest.approx(0.04 / math.sqrt(247))
    assert drift(source, edited + np.float32(0.04)) == pytest.approx(0.04)
    near = with_rectangle(edited, slice(24, 28), slice(32, 36), 0.09)
    assert drift(source, near) == 0


def test_what_counts_as_edited() -> None:
    """A block is edited above 0.1 and above half of the strongest; so a strong drift beside a stronger edit is seen."""
    source = flat(0.3)
    edited = with_rectangle(source, slice(20, 24), slice(28, 32), 0.5)
    assert drift(source, flat(0.39)) == pytest.approx(0.09)
    assert drift(source, edited + np.float32(0.2)) == pytest.approx(0.2)  # 0.2 < 0.7 / 2
    assert drift(source, with_rectangle(edited, slice(0, 4), slice(0, 4), 0.26)) == 0  # a second edit


def test_a_global_edit_has_no_drift() -> None:
    """Of 16 rows of blocks an edit that leaves 5 has 4 beside its neighbours, a quarter; one that leaves 4 has 3."""
    source = flat(0.3)
    assert drift(source, flat(0.6)) is None
    assert drift(source, with_rectangle(source, slice(20, 64), slice(0, 64), 0.5)) == 0
    assert drift(source, with_rectangle(source, slice(16, 64), slice(0, 64), 0.5)) is None


def test_drift_counts_every_pixel_of_any_size() -> None:
    """50 x 70 pixels in 16 x 16 uneven blocks: the last column, 1 / 70 of the pixels, counts as much as any.

    Blocks of 24 x 24 pixels have 1, 2 or 4 of them; a change of 0.09 is below 0.1 in each.
    """
    source = flat(0.3, 50, 70)
    assert drift(source, source + np.float32(0.05)) == pytest.approx(0.05)
    assert drift(source, with_rectangle(source, slice(0, 50), slice(69, 70), 0.05)) == pytest.approx(0.05 / 70**0.5)
    assert drift(flat(0.3, 24, 24), flat(0.39, 24, 24)) == pytest.approx(0.09)
    assert drift(flat(0.3, 5, 9), flat(0.35, 5, 9)) == pytest.approx(0.05)


@given(SEEDS, st.integers(0, 15), st.integers(0, 15), st.floats(0, 0.05))
def test_drift_ignores_what_is_in_the_edited_block(seed: int, row: int, column: int, amount: float) -> None:
    """The same drift outside, whatever the edit is."""
    rng = np.random.default_rng(seed)
    source = rng.uniform(0.1, 0.2, (3, 64, 64)).astype(np.float32)
    drifted = source + np.float32(amount)
    for low, high in ((0.4, 0.5), (0.8, 1.0)):
        edited = drifted.copy()
        place = np.s_[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        edited[place] = rng.uniform(low, high, (3, 4, 4))
        assert drift(source, edited) == pytest.approx(amount, abs=1e-6)


def test_reward_gap_by_hand() -> None:
    """Reward 6 to 8 is 0.2 of 1; with the judge from 0.5 to 0.55 the gap is 0.15, and 0.3 if it falls to 0.4."""
    assert reward_gap(8, 6, 0.55, 0.5) == pytest.approx(0.15)
    assert reward_gap(8, 6, 0.4, 0.5) == pytest.approx(0.3)
    assert reward_gap(8, 6, 0.7, 0.5) == pytest.approx(0)


def edits_of(source: Array, images: Sequence[Array]) -> list[Edit]:
    task = EditTask(to_image(source), "do", "other")
    return [Edit(task, to_image(image), "e", 0) for image in images]


def test_image_metrics_by_hand() -> None:
    """Two groups of two: a copy and a checkerboard, whose RMS distance to 0 is sqrt(1/2); and the source twice.

    Detail and edges: 1 in one of four. Drift: the checkerboard changes every block alike, so it has no such region;
    the other three are at 0, 0.2 (51 levels, but under half of the edit's 255) and 0.
    """
    edited = with_rectangle(flat(0.2), slice(20, 24), slice(28, 32), 0.8)
    edits = edits_of(flat(0), [flat(0), checkerboard(64), edited, flat(0)])
    metrics = image_metrics(edits[:2] + edits_of(flat(0), [edited, edited]), 2)
    assert metrics["guard_diversity"] == pytest.approx(math.sqrt(0.5) / 2)
    assert metrics["guard_drift"] == pytest.approx((0 + 0.2 + 0.2) / 3)
    metrics = image_metrics([edits[0], edits[1], edits[3], edits[0]], 1)
    assert metrics == pytest.approx({"guard_high_frequency": 0.25, "guard_edges": 0.25, "guard_drift": 0})


def test_image_metrics_of_other_sizes_global_edits_and_no_groups() -> None:
    """A source of another size is resized; edits that are all global have a drift of NaN, not of 0."""
    small = Edit(EditTask(to_image(flat(0.2, 32, 48)), "do", "other"), to_image(flat(0.2)), "e", 0)
    assert image_metrics([small], 1)["guard_drift"] == 0
    assert math.isnan(image_metrics(edits_of(flat(0.2), [flat(0.8)]), 1)["guard_drift"])
    with pytest.raises(ValueError, match="3 edits are not groups of 2"):
        image_metrics([small] * 3, 2)
    with pytest.raises(ValueError, match="0 edits"):
        image_metrics([], 1)


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_image_metrics_do_not_depend_on_the_order_within_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edits = edits_of(rng.random((3, 16, 16), np.float32), list(rng.random((6, 3, 16, 16), np.float32)))
    order = [*rng.permutation(3), *(3 + rng.permutation(3))]
    assert image_metrics([edits[i] for i in order], 3) == pytest.approx(image_metrics(edits, 3), nan_ok=True)
