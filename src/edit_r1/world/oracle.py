"""The oracle: reads any image back as a scene by analysis-by-synthesis; what no scene explains is a defect.

Every cell is matched against its pictures in a bank, sharp, blurred or with grid lines; the hypothesis with the
smallest residual wins. The oracle judges; it is never an input of GCPO or of GRPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edit_r1.world.defects import blur, border, grid
from edit_r1.world.render import CELL, SETTINGS, SIDE, THINGS, Array, cell_bank, render
from edit_r1.world.scene import Scene

RESIDUAL_CLEAN = 0.06
"""Root mean square distance to the rendered scene up to which an image counts as free of noise."""
_ACCEPT = 0.04  # below this the sharp hypothesis is not questioned, unless blur explains it far better
_EXPLAINED = 0.75  # a named defect must lower the residual at least by this factor
_MUCH_BETTER = 0.4  # ... and by this one where the residual alone would pass as clean
_BLUR_SIGMAS = (1.3, 1.8, 2.3)
_MARGIN = 3  # half-resolution pixels at the rim that matching ignores, for a frame may cover them
_BATCH = 64


@dataclass(frozen=True)
class Reading:
    """What an image shows: the nearest scene, defects (of `defects.DEFECTS`), the unexplained rest (RMS, [0, 1])."""

    scene: Scene
    defects: frozenset[str]
    residual: float


def _halve(cells: Array) -> Array:
    """Cells [..., 32, 32, 3] averaged 2x2: [..., 16, 16, 3]. Matching needs no more."""
    rows = cells[..., ::2, :, :] + cells[..., 1::2, :, :]
    return ((rows[..., ::2, :] + rows[..., 1::2, :]) / 4).astype(np.float32, copy=False)


@lru_cache(maxsize=1)
def _rim_masks() -> Array:
    """1 inside, 0 at the rim of the image, for the four cells at half resolution: [4, 16, 16, 1]."""
    mask = np.zeros((CELL, CELL), np.float32)
    mask[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = 1
    half = CELL // 2
    return mask.reshape(2, half, 2, half).transpose(0, 2, 1, 3).reshape(4, half, half, 1)


def _blurred(images: Array, sigma: float) -> Array:
    """`defects.blur` of images [B, S, S, 3], as two products with the matrix of the one-dimensional blur."""
    matrix = blur(np.eye(images.shape[1], dtype=np.float32)[:, None], sigma)[:, 0]
    rows = np.tensordot(matrix, images, (1, 1))  # [S, B, S, 3]
    return np.tensordot(matrix, rows, (1, 2)).transpose(2, 1, 0, 3)


@lru_cache(maxsize=3)
def _templates(kind: str) -> tuple[Array, Array]:
    """The bank under a hypothesis: a matrix [768, settings * things], squared norms per cell [4, settings * things]."""
    bank = cell_bank().reshape(-1, CELL, CELL, 3)
    if kind == "blur":
        bank = _blurred(bank, _BLUR_SIGMAS[1])
    elif kind == "grid":
        bank = np.stack([grid(cell) for cell in bank])
    small = _halve(bank)
    norms = np.stack([((small**2) * mask).sum((1, 2, 3)) for mask in _rim_masks()])
    return np.ascontiguousarray(small.reshape(len(small), -1).T), norms


def nearest_scenes(images: NDArray[np.floating], kind: str = "sharp") -> list[Scene]:
    """The scene whose rendering under a hypothesis is nearest, cell by cell in each setting. Images [B, 64, 64, 3]."""
    matrix, norms = _templates(kind)
    scenes: list[Scene] = []
    for start in range(0, len(images), _BATCH):
        batch = np.asarray(images[start : start + _BATCH], np.float32)
        cells = batch.reshape(-1, 2, CELL, 2, CELL, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, CELL, CELL, 3)
        flat = (_halve(cells) * _rim_masks()).reshape(4 * len(batch), -1)  # one product, not one per image: 4x faster
        distance = (flat @ matrix).reshape(len(batch), 4, -1)
        distance = (norms - 2 * distance).reshape(-1, 4, len(SETTINGS), len(THINGS))
        things, best = distance.argmin(-1), distance.min(-1).sum(1).argmin(-1)  # [B, 4, settings], [B]
        for found, setting in zip(things, best, strict=True):
            scenes.append(Scene(tuple(THINGS[i] for i in found[:, setting]), *SETTINGS[setting]))
    return scenes


def _rms(a: Array, b: Array) -> NDArray[np.floating]:
    """Root mean square difference of images [B, S, S, 3], per image [B]."""
    return np.sqrt(np.mean((a - b) ** 2, axis=(1, 2, 3)))


def _drawn(scenes: Sequence[Scene]) -> Array:
    """Renderings [B, S, S, 3]."""
    return np.stack([render(scene) for scene in scenes])


def _unshifted(images: Array, scenes: Sequence[Scene]) -> Array:
    """Every image in that of its nine shifts by at most one pixel, edges repeated, that fits its scene best."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    shifts = [padded[:, y : y + SIDE, x : x + SIDE] for y, x in np.ndindex(3, 3)]
    clean = _drawn(scenes)
    best = np.argmin([_rms(shifted, clean) for shifted in shifts], axis=0)
    return np.stack([shifts[k][i] for i, k in enumerate(best)])


def _align(images: Array, scenes: list[Scene], residuals: NDArray[np.floating]) -> None:
    """Read anew what may be shifted by a pixel; replaces, in place, scene and residual of images that fit better so."""
    doubtful = np.flatnonzero(residuals > _ACCEPT)
    if not len(doubtful):
        return
    shifted = _unshifted(images[doubtful], [scenes[i] for i in doubtful])
    aligned = nearest_scenes(shifted)
    for i, scene, residual in zip(doubtful, aligned, _rms(shifted, _drawn(aligned)), strict=True):
        if residual < residuals[i]:
            scenes[i], residuals[i] = scene, residual


def _defect_hypotheses(images: Array, scenes: list[Scene]) -> dict[str, tuple[list[Scene], NDArray[np.floating]]]:
    """For every defect the scenes if the images have it, and the residuals [B] that are then left."""
    blurry, lined = nearest_scenes(images, "blur"), nearest_scenes(images, "grid")
    sharp = {"blur": _drawn(blurry), "grid": _drawn(lined), "border": _drawn(scenes)}
    blurs = [_rms(images, _blurred(sharp["blur"], sigma)) for sigma in _BLUR_SIGMAS]
    borders = [_rms(images, np.stack([border(image, width) for image in sharp["border"]])) for width in (3, 4, 5)]
    grids = _rms(images, np.stack([grid(image) for image in sharp["grid"]]))
    return {"blur": (blurry, np.min(blurs, 0)), "grid": (lined, grids), "border": (scenes, np.min(borders, 0))}


def _conclude(scene: Scene, residual: float, named: dict[str, tuple[Scene, float]]) -> Reading:
    """The reading of one image from the residual of its sharp scene and from scene and residual under each defect."""
    defect = min(named, key=lambda key: named[key][1])
    explained, rest = named[defect]
    if residual <= RESIDUAL_CLEAN and rest > _MUCH_BETTER * residual:
        return Reading(scene, frozenset(), residual)
    if rest > _EXPLAINED * residual:
        return Reading(scene, frozenset({"noise"}), residual)
    return Reading(explained, frozenset({defect, "noise"} if rest > RESIDUAL_CLEAN else {defect}), rest)


def _read_batch(images: Array) -> list[Reading]:
    """Read some images: all of them as sharp, those that do not fit as shifted, those that still differ as flawed."""
    scenes = nearest_scenes(images)
    residuals = _rms(images, _drawn(scenes))
    _align(images, scenes, residuals)
    readings = [Reading(scene, frozenset(), float(r)) for scene, r in zip(scenes, residuals, strict=True)]
    flawed = np.flatnonzero(residuals > _ACCEPT / 4)
    if len(flawed):
        named = _defect_hypotheses(images[flawed], [scenes[i] for i in flawed])
        for k, i in enumerate(flawed):
            hypotheses = {defect: (found[k], float(left[k])) for defect, (found, left) in named.items()}
            readings[i] = _conclude(scenes[i], float(residuals[i]), hypotheses)
    return readings


def read_images(images: NDArray[np.floating]) -> list[Reading]:
    """Read images [B, 64, 64, 3] in [0, 1]; a shift by a pixel is forgiven. Without things, the style is `flat`."""
    readings: list[Reading] = []
    for start in range(0, len(images), _BATCH):
        readings += _read_batch(np.asarray(images[start : start + _BATCH], np.float32))
    return [r if r.scene.things else replace(r, scene=replace(r.scene, style="flat")) for r in readings]
