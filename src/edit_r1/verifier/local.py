"""A verifier from a folder of weights, in this process."""

from __future__ import annotations

from pathlib import Path

import torch

from edit_r1.verifier.aggregation import PROBABILISTIC
from edit_r1.verifier.decomposers import Decomposer
from edit_r1.verifier.engines.transformers_engine import TransformersEngine
from edit_r1.verifier.tiny import load_verifier_model
from edit_r1.verifier.verifier import Verifier


def load_verifier(
    folder: Path,
    *,
    template: str = "compact",
    temperature: float = 1.0,
    max_tokens: int = 160,
    batch_size: int = 128,
    decomposer: Decomposer | None = None,
    checklist: bool = True,
    aggregate: str = "model",
    device: str | None = None,
) -> Verifier:
    """The verifier in `folder`, tiny or real, on the GPU where there is one or on a named device.

    Raises:
        UserError: the folder holds no verifier.
    """
    model, processor = load_verifier_model(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    engine = TransformersEngine(
        model.to(device).eval(),
        processor,
        name=str(folder),
        batch_size=batch_size,
        probabilities=aggregate in PROBABILISTIC,
    )
    return Verifier(
        engine,
        template=template,
        temperature=temperature,
        max_tokens=max_tokens,
        decomposer=decomposer,
        checklist=checklist,
        aggregate=aggregate,
    )
