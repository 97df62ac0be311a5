"""Windows: which of the sampling steps are stochastic, and trained, in an update.

Training all of them costs as many passes through the model as there are steps; a window costs its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

Window = Literal["fixed", "sliding", "random"]


def window_steps(
    window: Window, eligible: Sequence[int], size: int, update: int, *, every: int, seed: int
) -> tuple[int, ...]:
    """Return the stochastic steps of an update, a function of its arguments alone: equal on all processes.

    - `fixed`: all eligible steps (give all steps of the schedule, or its first share as Flow-GRPO-Fast does).
    - `sliding`: `size` neighbours, which move one step towards the image after every `every` updates and begin again at
      the noise once they have passed the end (MixGRPO, arXiv 2507.21802).
    - `random`: `size` neighbours, drawn anew for each update.

    Args:
        window: how it moves.
        eligible: the steps that may be stochastic, ascending.
        size: of the window, at most the number of eligible steps.
        update: number of the update, from 0.
        every: updates between two moves of a sliding window.
        seed: of the random window.
    """
    places = len(eligible) - size + 1
    if places < 1 or size < 1:
        raise ValueError(f"a window of {size} steps does not fit into {len(eligible)} eligible ones")
    if window == "fixed":
        return tuple(eligible)
    if window == "sliding":
        start = update // every % places
    else:
        drawn = torch.Generator().manual_seed(seed * 1_000_003 + update)
        start = int(torch.randint(places, (1,), generator=drawn))
    return tuple(eligible[start : start + size])
