"""Attention by cuDNN is off wherever a model is loaded: its gradients were NaN on an H200 (LOG.md)."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest
import torch

from edit_r1 import assets
from edit_r1.editors.loading import load_editor
from edit_r1.training import processes
from edit_r1.verifier.tiny import load_verifier_model


def begin() -> None:
    processes.process.cache_clear()
    processes.device()


@pytest.fixture(autouse=True)
def switched_on() -> Generator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(
    "work", [begin, lambda: load_editor(assets.EDITOR), lambda: load_verifier_model(assets.VERIFIER)]
)
def test_cudnn_is_switched_off(work: Callable[[], object]) -> None:
    assert torch.backends.cuda.cudnn_sdp_enabled()
    work()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
