"""What can be wrong with the pixels of an image, whatever it shows. Arrays are float32 [64, 64, 3] in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from edit_r1.world.render import Array

DEFECTS = ("noise", "blur", "grid", "border")


def noise(image: Array, sigma: float, rng: Generator) -> Array:
    """White noise of standard deviation `sigma`, clipped."""
    return np.clip(image + rng.normal(0, sigma, image.shape), 0, 1).astype(np.float32)


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur, `sigma` in pixels, edges repeated."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = sum(
            (k * np.take(padded, np.arange(i, i + size), axis) for i, k in enumerate(kernel)), np.zeros_like(image)
        )
    return image


def grid(image: Array, step: int = 8, strength: float = 0.3) -> Array:
    """Lines every `step` pixels, lighter on dark and darker on light: the artefact of patch-wise decoders."""
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    lines = ((rows % step == 0) | (columns % step == 0))[..., None]
    return np.where(lines, np.where(image < 0.5, image + strength, image - strength), image).astype(np.float32)


def border(image: Array, width: int) -> Array:
    """A white frame of `width` pixels."""
    framed = np.ones_like(image)
    inner = slice(width, -width)
    framed[inner, inner] = image[inner, inner]
    return framed


def soften(image: Array, rng: Generator) -> Array:
    """A flaw too small to count, as a decoder leaves it: a trace of blur and of noise."""
    return noise(blur(image, float(rng.uniform(0.3, 0.7))), float(rng.uniform(0.0, 0.03)), rng)


def spoil(image: Array, defect: str, rng: Generator) -> Array:
    """One defect of random strength."""
    if defect == "noise":
        return noise(image, float(rng.uniform(0.1, 0.18)), rng)
    if defect == "blur":
        return blur(image, float(rng.uniform(1.3, 2.3)))
    if defect == "grid":
        return grid(image)
    if defect == "border":
        return border(image, int(rng.integers(3, 6)))
    raise ValueError(f"unknown defect {defect!r}")
