"""One random tiny editor for all tests of the editors."""

import pytest
import torch

from edit_r1.editors.kontext import KontextEditor
from edit_r1.editors.tiny import TinyEditorSize, build_tiny_kontext
from edit_r1.records import EditTask
from edit_r1.world.tasks import generator, sample_task
from edit_r1.world.words import vocabulary


def tiny_editor() -> KontextEditor:
    """A random editor whose latents are neither centred nor scaled to 1, so that the normalisation shows."""
    torch.manual_seed(0)
    pipeline = build_tiny_kontext(TinyEditorSize(), vocabulary())
    pipeline.vae.register_to_config(scaling_factor=1.7, shift_factor=0.2)
    return KontextEditor(pipeline)


@pytest.fixture(scope="session")
def editor() -> KontextEditor:
    """Shared: tests must not change its weights."""
    torch.set_num_threads(1)
    return tiny_editor()


@pytest.fixture(scope="session")
def tasks() -> list[EditTask]:
    """Three tasks of the world with different sources and instructions."""
    rng = generator(0, "train")
    return [sample_task(rng, "train", category).record() for category in ("colour", "remove", "background")]
