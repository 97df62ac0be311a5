"""The Bradley-Terry head: its loss on paper; training orders pairs, goes on where it stopped, and is read back."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.tiny_run import tiny_verifier, tiny_world

from edit_r1.data.store import read_pairs
from edit_r1.errors import UserError
from edit_r1.runs.run import Run
from edit_r1.stages import TRAIN_PAIRS, BackboneConfig, BradleyTerryConfig
from edit_r1.training import bradley_terry
from edit_r1.training.bradley_terry import HEAD, preference_loss, score


def test_loss_by_hand() -> None:
    """Two pairs with log-odds 0 and ln 3: -log(1/2) and -log(3/4), whose mean is (ln 2 + ln 4/3) / 2."""
    loss = preference_loss(torch.tensor([1.0, 1.0, math.log(3), 0.0]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_it_learns_its_pairs_and_a_new_head_starts_at_chance(tmp_path: Path) -> None:
    """The head starts at 0, so the first loss is ln 2 = 0.693; after 100 steps on eight pairs most are in order."""
    data, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    config = BradleyTerryConfig(steps=100, pairs_per_step=8, learning_rate=1e-2)
    out = tmp_path / "bt"
    bradley_terry.run(config, data=data, model=model, out=out, seed=0, resume=False)
    losses = [line["loss"] for line in Run(out).metrics()]
    assert losses[0] < math.log(2) + 0.05
    assert losses[-1] < 0.5
    pairs = [judged.preference for judged in read_pairs(data / TRAIN_PAIRS)]
    scores = score(out / "model", [edit for pair in pairs for edit in (pair.first, pair.second)], batch_size=5)
    right = [(a > b) == (p.choice == "first") for p, a, b in zip(pairs, scores[::2], scores[1::2], strict=True)]
    assert sum(right) >= 7


@pytest.mark.parametrize("asked", [{"lora_rank": 4}, {"gradient_checkpointing": True}])
def test_what_it_cannot_do_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    """Adapters would be ignored, and the head's module has no checkpointing to switch on."""
    config = BradleyTerryConfig(steps=1, backbone=BackboneConfig.model_validate(asked))
    with pytest.raises(
        UserError, match=r"leave backbone\.lora_rank at 0 and backbone\.gradient_checkpointing at false"
    ):
        bradley_terry.run(config, data=tmp_path, model=tmp_path, out=tmp_path / "bt", seed=0, resume=False)


class Interrupted(Exception):
    """Stands for Ctrl-C."""


def test_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the last of four steps and resumed from the third's checkpoint: the same weights, bitwise."""
    data, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    config = BradleyTerryConfig(steps=4, pairs_per_step=4, checkpoint_every=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    bradley_terry.run(config, data=data, model=model, out=whole, seed=1, resume=False)
    original = bradley_terry.RunLog.on_step_end

    def interrupt(self: bradley_terry.RunLog, args: object, state: object, control: object, **kwargs: object) -> None:
        original(self, args, state, control, **kwargs)  # pyright: ignore[reportArgumentType]
        if state.global_step == 4:  # pyright: ignore[reportAttributeAccessIssue]
            raise Interrupted

    monkeypatch.setattr(bradley_terry.RunLog, "on_step_end", interrupt)
    with pytest.raises(Interrupted):
        bradley_terry.run(config, data=data, model=model, out=broken, seed=1, resume=False)
    monkeypatch.setattr(bradley_terry.RunLog, "on_step_end", original)
    bradley_terry.run(config, data=data, model=model, out=broken, seed=1, resume=True)
    for name in ("model.safetensors", HEAD):
        expected, found = (load_file(run / "model" / name) for run in (whole, broken))
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert not (broken / "trainer").exists()


def test_scores_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Prompts of different length are padded on the left: a score is the same alone and among others."""
    data, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    out = tmp_path / "bt"
    config = BradleyTerryConfig(steps=2, pairs_per_step=4)
    bradley_terry.run(config, data=data, model=model, out=out, seed=0, resume=False)
    edits = [pair.preference.first for pair in islice(read_pairs(data / TRAIN_PAIRS), 6)]
    together, alone = score(out / "model", edits), score(out / "model", edits, batch_size=1)
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) > 1
