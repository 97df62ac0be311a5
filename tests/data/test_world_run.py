"""A world is its editor's too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.training.tiny_run import WORLD

from edit_r1 import assets
from edit_r1.data import make_world as making
from edit_r1.errors import UserError
from edit_r1.records import EditTask
from edit_r1.world.render import Array, from_image


def _copies(tasks: Sequence[EditTask], steps: int, seed: int) -> Array:
    return np.stack([from_image(task.source) for task in tasks])


def test_a_world_does_not_go_on_with_another_shipped_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = WORLD.model_copy(update={"editor_share": 0.5})
    monkeypatch.setattr(making, "shipped_editor", lambda: _copies)
    making.make_world(config, out=tmp_path / "world", seed=0, resume=False)
    monkeypatch.setattr(assets, "fingerprint", lambda folder: f"another {folder.name}")
    with pytest.raises(UserError, match="shipped"):
        making.make_world(config, out=tmp_path / "world", seed=0, resume=True)
