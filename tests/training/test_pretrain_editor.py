"""Pretraining of the tiny editor: its loss, its data, and a run that goes on where it was interrupted."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edit_r1.editors.base import Conditioning
from edit_r1.stages import PretrainEditorConfig
from edit_r1.training import pretrain_editor as stage
from edit_r1.training.pretrain_editor import NoisyEdits, flow_matching_loss
from edit_r1.training.pretrain_text import SLOTS, garble, reading_batch, slot_classes
from edit_r1.training.pretrain_vae import latent_statistics, sample_images, to_model
from edit_r1.training.steps import Ema, learning_rate
from edit_r1.world.instructions import parse_instruction
from edit_r1.world.render import render
from edit_r1.world.scene import Scene, Thing
from edit_r1.world.tasks import generator, sample_task


class KnowsTheTarget:
    """An editor whose velocity is exact, but for an error of 1 where `wrong` says so."""

    def __init__(self, target: Tensor, wrong: Tensor) -> None:
        self.target, self.wrong, self.guidance = target, wrong, 2.5
        self.told: list[float] = []

    def velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.told.append(self.guidance)
        # x_t - x_0 = t (x_1 - x_0)
        return (latents - self.target) / sigma[:, None, None] + self.wrong


def loss_of(editor: Any, target: Tensor, reference: Tensor, weight: float) -> float:
    noise = torch.Generator().manual_seed(0)
    return float(flow_matching_loss(editor, target, Conditioning({"reference": reference}), 2.0, noise, weight))


def test_the_exact_velocity_has_no_loss() -> None:
    target = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(1))
    assert loss_of(KnowsTheTarget(target, torch.zeros(1)), target, target, 4.0) < 1e-6


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_changed_tokens_weigh_more(weight: float) -> None:
    """2 of 8 tokens are changed, and wrong by 1: loss 2 w / (2 w + 6)."""
    target, reference, wrong = torch.zeros(4, 8, 3), torch.zeros(4, 8, 3), torch.zeros(4, 8, 3)
    reference[:, :2] = 1.0
    wrong[:, :2] = 1.0
    editor = KnowsTheTarget(target, wrong)
    assert loss_of(editor, target, reference, weight) == pytest.approx(2 * weight / (2 * weight + 6), rel=1e-5)


def test_guidance_varies_in_training_and_is_put_back() -> None:
    target = torch.zeros(2, 8, 3)
    editor = KnowsTheTarget(target, torch.zeros(1))
    loss_of(editor, target, target, 1.0)
    assert editor.guidance == 2.5
    assert 1 <= editor.told[0] <= 5
    assert editor.told[0] != 2.5


def test_average_of_weights() -> None:
    """Rates 1 - (1 + n) / (10 + n) at first: from 0 towards 1 by 0.9, then of the rest by 9 / 11; then 1 - decay."""
    weight = nn.Parameter(torch.zeros(1))
    ema = Ema([weight], decay=0.5)
    with torch.no_grad():
        weight.fill_(1.0)
    ema.update(0)
    assert float(ema.shadow[0]) == pytest.approx(0.9)
    ema.update(1)
    assert float(ema.shadow[0]) == pytest.approx(0.9 + 0.1 * 9 / 11)
    with torch.no_grad():
        weight.fill_(0.0)
    before = float(ema.shadow[0])
    ema.update(1000)
    assert float(ema.shadow[0]) == pytest.approx(before / 2)
    ema.swap()
    assert float(weight.detach()) == pytest.approx(before / 2)
    ema.swap()
    assert float(weight.detach()) == 0.0


def test_learning_rate_warms_up_stays_and_falls() -> None:
    factors = [learning_rate(step, 100, 10, 0.5) for step in range(100)]
    assert factors[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert factors[10:51] == [1.0] * 41
    assert factors[75] == pytest.approx(0.01 + 0.99 * 0.5)
    assert factors[99] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 49 / 50)))


def test_the_share_of_right_edits_is_as_told() -> None:
    stream = NoisyEdits(np.random.default_rng(0), word_noise=0.0)
    for share in (1.0, 0.0):
        for task, target, words in stream.draw(20, share):
            right = np.array_equal(target, render(task.operation.apply(task.scene)))
            assert right == bool(share)
            assert words == task.instruction


def test_garbling_leaves_the_values_alone() -> None:
    rng = np.random.default_rng(0)
    words = garble(rng, "change the red circle at the top-left to a blue H", 1.0).split()
    assert [words[i] for i in (2, 3, 6, 9, 10)] == ["red", "circle", "top-left", "blue", "H"]
    assert words[:2] != ["change", "the"]
    assert len(words) == 11


def test_what_an_instruction_says_is_what_its_words_say() -> None:
    scene = Scene((Thing("small", "plain", "red", "circle"), None, None, None), "gray", "warm", "flat")
    text = "replace the red circle with a blue square"
    operation = parse_instruction(text, scene)
    assert operation is not None
    classes = dict(zip(SLOTS, slot_classes(operation, scene), strict=True))
    said = {slot: SLOTS[slot][number - 1] for slot, number in classes.items() if number}
    assert said == {
        "category": "replace",
        "old_colour": "red",
        "old_shape": "circle",
        "colour": "blue",
        "shape": "square",
    }


def test_tokens_belong_to_their_part() -> None:
    texts, said, parts = reading_batch(np.random.default_rng(0), 32, 32, word_noise=0.0)
    for text, row, own in zip(texts, said, parts, strict=True):
        words = text.split()
        joint = next((i for i, word in enumerate(words) if word in ("and", "then")), len(words))
        assert own[: len(words)].tolist() == [0 if i < joint else -1 if i == joint else 1 for i in range(len(words))]
        assert (own[len(words) :] == -1).all()
        assert bool(row[1].any()) == (joint < len(words))


def test_latents_are_brought_to_mean_0_and_variance_1() -> None:
    torch.manual_seed(0)
    vae: Any = stage.build_tiny_kontext(stage.TinyEditorSize(), ["red"]).vae
    images = sample_images(np.random.default_rng(0), 8, "train")
    statistics = latent_statistics(vae, images)
    with torch.no_grad():
        latents = vae.encode(to_model(images)).latent_dist.mode()
    normal = (latents - statistics["shift_factor"]) * statistics["scaling_factor"]
    assert float(normal.mean()) == pytest.approx(0, abs=1e-4)
    assert float(normal.std()) == pytest.approx(1, abs=1e-3)


SMALL = PretrainEditorConfig(
    vae_steps=2,
    vae_batch=2,
    text_steps=2,
    text_batch=4,
    steps=4,
    batch=2,
    practice_share=0.7,
    checkpoint_every=2,
    log_every=1,
    sampling_steps=1,
    evaluation_tasks=2,
    test_tasks=2,
)


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage really runs; the editors are bitwise equal, and no step is logged twice."""
    torch.set_num_threads(1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    stage.run(SMALL, out=whole, seed=0)
    with monkeypatch.context() as patch:

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(stage, "_look", stop)
        with pytest.raises(KeyboardInterrupt):
            stage.run(SMALL, out=broken, seed=0)
    assert not (broken / "done.json").exists()
    stage.run(SMALL, out=broken, seed=0, resume=True)
    for part in ("transformer/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder_2/model"):
        one, other = (load_file(path / "editor" / f"{part}.safetensors") for path in (whole, broken))
        assert all(torch.equal(one[name], other[name]) for name in one)
    steps = [line["step"] for line in stage.Run(broken).metrics() if "loss" in line]
    assert steps == [1, 2, 3, 4]
    done = stage.Run(whole).done
    assert done is not None
    assert {"vae_rms", "vae_read_back", "oracle_success", "noop_rate", "seconds"} <= set(done)


def test_every_training_scene_belongs_to_the_training_split() -> None:
    stream = NoisyEdits(np.random.default_rng(0), word_noise=0.0)
    trained = {task.scene for task, _, _ in stream.draw(100, 0.5)}
    rng = generator(0, "test")
    assert not trained & {sample_task(rng, "test").scene for _ in range(100)}
