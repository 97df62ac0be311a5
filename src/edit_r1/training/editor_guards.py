"""Signs of reward hacking in an editor's pictures, and when they are an alarm (docs/guards.md).

Pure functions of pictures and numbers. Copies are counted elsewhere: `noop_rate` of `editor_tasks`.

Shapes: images [C, H, W], float32 in [0, 1], at least 2 x 2 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from edit_r1.images import to_array
from edit_r1.records import Edit
from edit_r1.stages import GuardsConfig

Array = NDArray[np.float32]

_FLAT = 0.5 / 255  # standard deviation up to which a picture is empty, and its spectrum only rounding
_EDGE = 0.1  # a pixel is on an edge where the colour moves by more than this to its neighbours
_BLOCKS = 16  # blocks per side that are edited or not
_EDITED = 0.1  # a block is edited where it changed by more than this (RMS) ...
_EDITED_SHARE = 0.5  # ... and by more than this share of the block that changed most
_UNEDITED_BLOCKS = 0.25  # share of blocks below which a picture has no unedited region
_LEAST_BASE = 1 / 255  # of a base near 0 every rise would be a multiple: less than this counts as this
_JUDGES = ("probe_oracle_success", "probe_judge")  # the first that was measured; the oracle knows best

_RATIOS = {
    "diversity": ("diversity", "below", "the distance of edits within a group"),
    "high_frequency": ("high_frequency", "above", "the share of energy in fine detail"),
    "blur": ("high_frequency", "below", "the share of energy in fine detail"),
    "edges": ("edges", "above", "the share of edge pixels"),
    "drift": ("drift", "above", "the change outside the edited region"),
}
"""Limits that are multiples of the base: which metric may not go above or below them, and what it is."""

Metrics = Mapping[str, float | None]
"""A line of metrics.jsonl: None and NaN are numbers that could not be measured."""


def diversity(images: Sequence[Array]) -> float:
    """The RMS distance, in [0, 1], between two of n >= 2 images of one task: 0 if and only if all are equal.

    It is the root of the mean of |x_i - x_j|^2 / D over all pairs, D numbers per image. As sum_ij |x_i - x_j|^2 =
    2 n sum_i |x_i - mean|^2, this mean is exactly twice the unbiased variance: no loop over pairs is needed. (The mean
    of the distances themselves, not of their squares, has no such form.)
    """
    # In float64 the mean of equal float32 numbers is exactly this number, so equal images are at 0 and not near it.
    mean = np.sum(images, axis=0, dtype=np.float64) / len(images)
    variance = sum(float(np.square(image - mean).mean()) for image in images) / (len(images) - 1)
    return math.sqrt(2 * variance)


def high_frequency(image: Array) -> float:
    """Share, in [0, 1], of the grey picture's spectral energy above half the Nyquist frequency in rows or columns.

    The mean is left out, so that brightness and contrast do not matter (those of a Laplacian's mean square do). White
    noise has 3/4 of its energy there; a picture without contrast gives 0.
    """
    grey = image.mean(0)
    grey -= grey.mean()
    if grey.std() < _FLAT:
        return 0.0
    height, width = grey.shape
    energy = np.square(np.abs(np.fft.rfft2(grey)))
    energy[:, 1 : (width + 1) // 2] *= 2  # the other half of the spectrum mirrors these columns
    low = np.outer(np.abs(np.fft.fftfreq(height)) <= 0.25, np.fft.rfftfreq(width) <= 0.25)
    return float(energy[~low].sum() / energy.sum())


def edge_density(image: Array) -> float:
    """Share, in [0, 1], of pixels on an edge: RMS over channels of the gradient's length above 0.1.

    The gradient is the difference to the next pixel to the right and below. (Differences over two pixels would not see
    a pattern of period two.)
    """
    right, below = np.diff(image, axis=2)[:, :-1], np.diff(image, axis=1)[:, :, :-1]
    squares = (np.square(right) + np.square(below)).mean(0)
    return float((squares > _EDGE**2).mean())


def drift(source: Array, edited: Array) -> float | None:
    """RMS change, in [0, 1], of what the edit should have left alone; None where there is no such region.

    The region is found from the pictures, in 16 x 16 blocks. A block is edited if its RMS change is above 0.1 and
    above half of that of the block that changed most. Edited blocks and their neighbours, into which an edit's rim may
    reach, are left out. Where less than a quarter of the blocks remains the edit is global, or cannot be told apart.
    """
    changes = np.square(edited - source).mean(0)
    rows, columns = (_starts(size) for size in changes.shape)
    sums = np.add.reduceat(np.add.reduceat(changes, rows, 0, dtype=np.float64), columns, 1)
    pixels = np.outer(np.diff(rows, append=changes.shape[0]), np.diff(columns, append=changes.shape[1]))
    means = sums / pixels
    changed = means > max(_EDITED**2, _EDITED_SHARE**2 * means.max())
    unedited = ~sliding_window_view(np.pad(changed, 1), (3, 3)).any((2, 3))
    if unedited.mean() < _UNEDITED_BLOCKS:
        return None
    return math.sqrt(sums[unedited].sum() / pixels[unedited].sum())


def reward_gap(reward: float, base_reward: float, judge: float, base_judge: float) -> float:
    """How much more the reward rose since the base than a judge that the training does not see; in [-2, 2].

    Rewards are in [0, 10], the judge in [0, 1]: the oracle's share of successes, or another verifier's score / 10.
    """
    return (reward - base_reward) / 10 - (judge - base_judge)


def image_metrics(edits: Sequence[Edit], group_size: int) -> dict[str, float]:
    """What the pictures of some edits look like; the `group_size` edits of one task follow each other.

    Returns:
        Means over edits of `guard_high_frequency`, `guard_edges` and `guard_drift` (over edits that have an unedited
        region; NaN without any), and over groups of `guard_diversity` (only for groups of two or more).

    Raises:
        ValueError: no edits, or not a whole number of groups.
    """
    if not edits or len(edits) % group_size:
        raise ValueError(f"{len(edits)} edits are not groups of {group_size}")
    values: dict[str, list[float]] = {name: [] for name in ("diversity", "high_frequency", "edges", "drift")}
    for start in range(0, len(edits), group_size):  # a group at a time: a thousand large pictures fill the memory
        group = edits[start : start + group_size]
        images = [to_array(edit.image) for edit in group]
        if group_size > 1:
            values["diversity"].append(diversity(images))
        for edit, image in zip(group, images, strict=True):
            values["high_frequency"].append(high_frequency(image))
            values["edges"].append(edge_density(image))
            moved = drift(_source(edit), image)
            values["drift"] += [] if moved is None else [moved]
    return {f"guard_{name}": _mean(each) for name, each in values.items() if group_size > 1 or name != "diversity"}


def compare(now: Metrics, base: Metrics, config: GuardsConfig) -> dict[str, str]:
    """What each guard says of the same probe now and of the base.

    Args:
        now: `probe_reward`, `probe_noop_rate`, `probe_guard_*`, and `probe_oracle_success` or `probe_judge`.
        base: the same before training.
        config: the limits.

    Returns:
        For every guard that has a limit and its numbers, by the name of the limit, one sentence with both numbers and
        the limit if it alarms, else nothing. Of what is missing, None or NaN nobody knows: such guards are not there.
    """
    found: dict[str, str] = {}
    copies = _pair(now, base, "probe_noop_rate")
    if config.noop_rate is not None and copies is not None:
        found["noop_rate"] = (
            f"the share of copies is {copies[0]:.3g}, above {config.noop_rate:g} (the base's is {copies[1]:.3g})"
            if copies[0] > max(config.noop_rate, copies[1])
            else ""
        )
    for name, (metric, side, what) in _RATIOS.items():
        limit: float | None = getattr(config, name)
        pair = _pair(now, base, f"probe_guard_{metric}")
        if limit is None or pair is None:
            continue
        value, before = pair
        beyond = value > limit * max(before, _LEAST_BASE) if side == "above" else value < limit * before
        found[name] = f"{what} is {value:.3g}, {side} {limit:g} times the base's {before:.3g}" if beyond else ""
    return found | _compare_judge(now, base, config.gap)


def alarms(now: Metrics, base: Metrics, config: GuardsConfig) -> dict[str, str]:
    """The guards of `compare` that alarm."""
    return {name: sentence for name, sentence in compare(now, base, config).items() if sentence}


def run_probes(lines: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> tuple[Metrics, Metrics]:
    """What `alarms` compares: a line of metrics.jsonl, and the probe of step 0 in `lines`, the run's own.

    Groups are sampled by steps and not by the probe: their diversity is that of the step, and the base's is that of
    step 1, before which nothing was learned.
    """
    steps = {line["step"]: line for line in lines}
    diverse = steps.get(1, now).get("guard_diversity")
    base = {**steps[0], "probe_guard_diversity": diverse}
    return {**now, "probe_guard_diversity": now.get("guard_diversity")}, base


def _compare_judge(now: Metrics, base: Metrics, limit: float | None) -> dict[str, str]:
    rewards = _pair(now, base, "probe_reward")
    judged = next(((name, pair) for name in _JUDGES if (pair := _pair(now, base, name))), None)
    if limit is None or rewards is None or judged is None:
        return {}
    name, (judge, before) = judged
    gap = reward_gap(*rewards, judge, before)
    if gap <= limit:
        return {"gap": ""}
    return {
        "gap": f"the reward went from {rewards[1]:.3g} to {rewards[0]:.3g} of 10, {name.removeprefix('probe_')} from "
        f"{before:.3g} to {judge:.3g} of 1: a gap of {gap:.3g}, above {limit:g}"
    }


def _pair(now: Metrics, base: Metrics, name: str) -> tuple[float, float] | None:
    """A metric now and of the base; None unless both were measured."""
    value, before = now.get(name), base.get(name)
    if value is None or before is None or not (math.isfinite(value) and math.isfinite(before)):
        return None
    return value, before


def _starts(size: int) -> NDArray[np.intp]:
    """Where the blocks of a side begin; they differ by a pixel where 16 does not divide it."""
    return np.linspace(0, size, min(_BLOCKS, size), endpoint=False).astype(np.intp)


def _source(edit: Edit) -> Array:
    """The source in the size of the edit."""
    source, size = edit.task.source, edit.image.size
    return to_array(source if source.size == size else source.resize(size, Image.Resampling.BICUBIC))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
