"""How well and how fast the oracle of the built-in world reads images, by kind of image.

    python benchmarks/oracle.py [--images 1000] [--seed 0]

`scene`: share of images whose whole scene is read right; `defects`: share with exactly the defects that were drawn;
`both`: share with scene and defects right; `ms`: processor time per image.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from edit_r1.world.defects import DEFECTS, noise, soften, spoil
from edit_r1.world.oracle import read_images
from edit_r1.world.render import SIDE, Array, render
from edit_r1.world.scene import sample_scene


def shift(image: Array, rng: Generator) -> Array:
    """Moved by one pixel in one of eight directions, edges repeated."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    y, x = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)][int(rng.integers(8))]
    return padded[y : y + SIDE, x : x + SIDE]


KINDS: dict[str, tuple[Callable[[Array, Generator], Array], frozenset[str]]] = {
    "clean": (lambda image, rng: image, frozenset()),
    "noise, sigma 0.03": (lambda image, rng: noise(image, 0.03, rng), frozenset()),
    "1-pixel shift": (shift, frozenset()),
    "shift and noise 0.03": (lambda image, rng: noise(shift(image, rng), 0.03, rng), frozenset()),
    "traces of a decoder": (soften, frozenset()),
    **{name: (lambda image, rng, name=name: spoil(image, name, rng), frozenset({name})) for name in DEFECTS},
}


def main() -> None:
    """Print one line per kind of image."""
    parser = argparse.ArgumentParser(description="accuracy and speed of the oracle")
    parser.add_argument("--images", type=int, default=1000, help="images of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    scenes = [sample_scene(rng, pairing=True) for _ in range(arguments.images)]
    read_images(np.stack([spoil(render(scenes[0]), "noise", rng)]))  # builds the banks
    sys.stdout.write(f"{'kind':22s} {'scene':>7s} {'defects':>8s} {'both':>7s} {'ms':>6s}\n")
    for kind, (change, defects) in KINDS.items():
        images = np.stack([change(render(scene), rng) for scene in scenes])
        start = time.process_time()
        readings = read_images(images)
        milliseconds = 1000 * (time.process_time() - start) / len(images)
        seen = np.array([r.scene == scene for r, scene in zip(readings, scenes, strict=True)])
        named = np.array([r.defects == defects for r in readings])
        sys.stdout.write(
            f"{kind:22s} {seen.mean():7.1%} {named.mean():8.1%} {(seen & named).mean():7.1%} {milliseconds:6.2f}\n"
        )


if __name__ == "__main__":
    main()
