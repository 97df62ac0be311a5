"""What a step of editor GRPO needs at least: operations and bytes, counted, not measured (see `kontext_step`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.kontext_random import RandomKontext, Scale, plain_task
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.architecture import Architecture
from edit_r1.training.editor_grpo import new_policy
from edit_r1.training.memory import BFLOAT16, FLOAT32

OPTIMISER_NUMBERS = 10
"""Read and written per trained weight: AdamW 4 and 3, the running mean 2 and 1."""
CARDS: dict[str, tuple[float, float]] = {
    "GH200": (989e12, 4.0e12),
    "H200": (989e12, 4.8e12),
    "H100 PCIe": (756e12, 2.0e12),
    "H100 NVL": (835e12, 3.9e12),
    "H100": (989e12, 3.35e12),
    "A100-SXM4-40GB": (312e12, 1.555e12),
    "A100-PCIE-40GB": (312e12, 1.555e12),
    "A100": (312e12, 2.0e12),
}
"""Dense bfloat16 operations per second and bytes per second, from the makers' data sheets; the first name that fits."""


@dataclass(frozen=True)
class Work:
    """What a part of a step needs at least: operations and bytes moved; `again`, operations of checkpointing on top."""

    operations: float = 0.0
    bytes: float = 0.0
    again: float = 0.0

    def floor(self, peak: float, bandwidth: float) -> float:
        """Seconds."""
        return max(self.operations / peak, self.bytes / bandwidth)


@dataclass(frozen=True)
class Passes:
    """Operations of one row in one pass: of the adapted transformer, of the base, and forward and backward."""

    forward: int
    base: int
    training: int


def count_passes(scale: Scale, side: int, config: EditorGrpoConfig) -> Passes:
    """Count with torch's counter on the meta device, which holds no numbers."""
    plain = config.model_copy(update={"gradient_checkpointing": False})
    with torch.device("meta"):
        editor = RandomKontext(scale, side)
        policy = new_policy(editor, plain, 0)
        conditioning = editor.encode([plain_task(side)])
        latents = torch.empty(1, editor.rows * editor.columns, scale.transformer["in_channels"])
        sigma = torch.empty(())

        def passed() -> Tensor:
            return editor.velocity(latents, sigma, conditioning)

        with torch.no_grad():
            forward = _counted(passed)
        with policy.reference():
            base = _counted(passed)
        return Passes(forward, base, _counted(lambda: torch.autograd.backward(passed().sum())))


def step_work(passes: Passes, rows: int, config: EditorGrpoConfig, weights: int, trained: int) -> dict[str, Work]:
    """What sampling and update of `rows` edits need.

    Args:
        passes: of one row.
        rows: all edits of the step.
        config: of the run.
        weights: bytes of all weights.
        trained: how many numbers are trained.
    """
    batches, steps = -(-rows // config.micro_batch), len(config.sde_steps)
    base = passes.base if config.beta else 0
    reads = 2 + (1 if config.beta else 0)  # forward, backward, base
    return {
        "sample": Work(rows * config.sample_steps * passes.forward, batches * config.sample_steps * weights),
        "update": Work(
            rows * steps * (base + passes.training),
            batches * steps * reads * weights + OPTIMISER_NUMBERS * FLOAT32 * trained,
            rows * steps * passes.forward if config.gradient_checkpointing else 0,
        ),
    }


def verifier_work(size: Architecture, rows: int, prompt: int, patches: int, answer: int, batch: int) -> Work:
    """Two operations for each weight of a layer and token or patch; all weights per written token. No attention."""
    language = size.language.layers * size.language.layer_parameters
    operations = 2 * rows * (language * (prompt + answer) + size.vision.layers * size.vision.layer_parameters * patches)
    return Work(operations, -(-rows // batch) * answer * BFLOAT16 * size.parameters)


def _counted(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
