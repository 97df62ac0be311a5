"""Both stages on the paper's architecture: a random, tiny Qwen2.5-VL, with the prompt of real models."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from tests.training.tiny_qwen2_5 import tiny_qwen2_5
from tests.training.tiny_run import tiny_world
from trl.trainer.grpo_trainer import GRPOTrainer

from edit_r1.errors import UserError
from edit_r1.records import Provenance, Verdict
from edit_r1.stages import BackboneConfig, ColdStartConfig, GcpoConfig
from edit_r1.training import backbone as backbones
from edit_r1.training import cold_start, gcpo
from edit_r1.training.backbone import load_backbone
from edit_r1.verifier.verifier import Completion

Weights = dict[str, torch.Tensor]

FULL = BackboneConfig(template="verify")
LORA = BackboneConfig(template="verify", lora_rank=4, lora_alpha=8, gradient_checkpointing=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen2_5(tmp_path_factory.mktemp("base"))


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores for the nonsense of a random model, so that there is something to learn."""
    script = cycle([7.0, 3, 5, 9, 6, 2, 8, 4])

    def verdict(completion: Completion, questions: list[str]) -> Verdict:
        return Verdict((), next(script), completion.text, Provenance("script", "", "", "", 0))

    monkeypatch.setattr(gcpo, "trace_verdict", verdict)


def test_prompts_of_a_batch_end_together(base: Path, tmp_path: Path) -> None:
    """Stock Qwen-VL pads right, where TRL, generation and the Bradley-Terry head take the prompt to end the row."""
    folder = Path(shutil.copytree(base, tmp_path / "stock"))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "right"}))
    _, processor = load_backbone(folder, FULL)
    found = processor.tokenizer(["red circle", "red"], padding=True)["attention_mask"]
    assert found == [[1, 1], [0, 1]]


def train(stage: str, backbone: BackboneConfig, world: Path, base: Path, out: Path) -> Weights:
    """One step of a stage (two of a cold start); the weights of its result."""
    if stage == "cold_start":
        config = ColdStartConfig(backbone=backbone, steps=2, batch_size=4, micro_batch=2)
        cold_start.run(config, data=world, model=base, out=out, seed=0, resume=False)
    else:
        config = GcpoConfig(
            backbone=backbone, steps=1, pairs_per_step=1, traces=4, micro_batch=4, max_tokens=8, probe_every=5
        )
        gcpo.run(config, data=world, model=base, out=out, seed=0, resume=False)
    return load_file(out / "model" / "model.safetensors")


def moved(before: Weights, after: Weights) -> set[str]:
    """Names of the weights that differ at all."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def of_vision(names: set[str]) -> set[str]:
    return {name for name in names if ".visual." in name or name.startswith("visual.")}


@pytest.mark.usefixtures("scores")
@pytest.mark.parametrize("stage", ["cold_start", "gcpo"])
def test_an_adapter_moves_its_matrices_alone_and_is_merged(stage: str, world: Path, base: Path, tmp_path: Path) -> None:
    """Seven matrices in each of two layers move, each by B A alpha / r = 2 B A; one of them is computed here."""
    before = load_file(base / "model.safetensors")
    after = train(stage, LORA, world, base, tmp_path / stage)
    changed = moved(before, after)
    kinds = {name.split(".")[-2] for name in changed}
    assert kinds == {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
    assert len(changed) == 14
    assert not of_vision(changed)
    adapter = load_file(tmp_path / stage / "adapter" / "adapter_model.safetensors")
    [name] = [name for name in changed if "layers.1.mlp.down_proj" in name]
    [a], [b] = ([w for n, w in adapter.items() if f"layers.1.mlp.down_proj.lora_{x}" in n] for x in "AB")
    torch.testing.assert_close(after[name], before[name] + 8 / 4 * b @ a, atol=1e-7, rtol=1e-5)
    assert PeftConfig.from_pretrained(str(tmp_path / stage / "adapter")).task_type == "CAUSAL_LM"


@pytest.mark.usefixtures("scores")
def test_all_weights_move_but_for_a_frozen_vision_tower(world: Path, base: Path, tmp_path: Path) -> None:
    """The cold start trains the whole model; GCPO leaves the vision tower as it is."""
    before = load_file(base / "model.safetensors")
    started = train("cold_start", FULL, world, base, tmp_path / "cold_start")
    changed = moved(before, started)
    assert of_vision(changed)
    assert changed > of_vision(changed)
    judged = train("gcpo", FULL, world, tmp_path / "cold_start" / "model", tmp_path / "gcpo")
    changed = moved(started, judged)
    assert changed
    assert not of_vision(changed)


def test_with_adapters_and_checkpointing_pictures_pass_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of the language model passes twice, one of the vision tower once; all adapters get the same gradients.

    The reference is a tower whose weights alone are frozen: transformers has gradients asked of its inputs, so it
    passes twice too, and backwards.
    """
    once, frozen = adapter_gradients(base)
    monkeypatch.setattr(backbones, "freeze", lambda module: module.requires_grad_(False))
    twice, plain = adapter_gradients(base)
    assert (once, twice) == ({"vision": 1, "language": 2}, {"vision": 2, "language": 2})
    assert frozen.keys() == plain.keys()
    assert any(gradient.any() for gradient in frozen.values())
    for name, gradient in frozen.items():
        torch.testing.assert_close(gradient, plain[name], atol=0, rtol=0)


def adapter_gradients(base: Path) -> tuple[Counter[str], Weights]:
    """Passes of a layer of each tower in one step of a model prepared as TRL prepares it, and what it would learn."""
    model, processor = load_backbone(base, LORA)
    passes: Counter[str] = Counter()
    parts = {"vision": model.model.visual.blocks[0].attn, "language": model.model.language_model.layers[0].self_attn}
    for name, part in parts.items():
        part.register_forward_pre_hook(lambda *_, name=name: passes.update([name]))
    torch.manual_seed(0)
    policy: Any = get_peft_model(model, LoraConfig(r=4, target_modules=backbones.ADAPTED, init_lora_weights=False))
    policy.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": False})
    policy.train()
    picture = "<|vision_start|> <|image_pad|> <|vision_end|>"
    seen = [Image.new("RGB", (56, 56), colour) for colour in ("red", "blue")]
    policy(**processor(text=[f"{picture} {picture} red"], images=[seen], return_tensors="pt")).logits.sum().backward()
    return passes, {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("scores")
@pytest.mark.parametrize("stage", ["cold_start", "gcpo"])
@pytest.mark.parametrize("backbone", [FULL, LORA], ids=["full", "lora"])
def test_recomputed_activations_teach_the_same(
    stage: str, backbone: BackboneConfig, world: Path, base: Path, tmp_path: Path
) -> None:
    """Checkpointing computes the same numbers twice: weights agree to 1e-6, where a step is hundreds of times that.

    (In GCPO it also takes TRL's way through the update, prompts read with every trace.)
    """
    found = [
        train(
            stage, backbone.model_copy(update={"gradient_checkpointing": saving}), world, base, tmp_path / str(saving)
        )
        for saving in (False, True)
    ]
    before = load_file(base / "model.safetensors")
    step = max((found[0][name] - before[name]).abs().max().item() for name in before)
    apart = max((found[0][name] - found[1][name]).abs().max().item() for name in before)
    assert step > 1e-4
    assert apart < 1e-6


@pytest.mark.usefixtures("scores")
def test_prompts_are_read_once_as_trl_reads_them(
    world: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same random state the same traces, and then the same log-probabilities: positions go on rightly."""
    same: list[bool] = []
    write, learn = gcpo.GcpoTrainer._generate_single_turn, gcpo.GcpoTrainer._get_per_token_logps_and_entropies

    def written(self: gcpo.GcpoTrainer, *args: Any, **kwargs: Any) -> Any:
        state = torch.get_rng_state()
        plain, _ = GRPOTrainer._generate_single_turn(self, *args, **kwargs)
        torch.set_rng_state(state)
        ours, rest = write(self, *args, **kwargs)
        same.append(plain == ours and len({tuple(row) for row in ours}) > 4)
        return ours, rest

    def learnt(
        self: gcpo.GcpoTrainer, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, **rest: Any
    ) -> Any:
        plain = GRPOTrainer._get_per_token_logps_and_entropies(self, model, ids, mask, keep, **rest)
        ours = learn(self, model, ids, mask, keep, **rest)
        told = mask[:, -keep:].bool()
        torch.testing.assert_close(ours[0][told], plain[0][told], atol=2e-5, rtol=0)
        same.append(True)
        return ours

    monkeypatch.setattr(gcpo.GcpoTrainer, "_generate_single_turn", written)
    monkeypatch.setattr(gcpo.GcpoTrainer, "_get_per_token_logps_and_entropies", learnt)
    train("gcpo", FULL, world, base, tmp_path / "gcpo")
    assert same == [True] * 3


@pytest.mark.parametrize(("limit", "side"), [(None, 8), (32 * 32, 4), (64 * 64, 8)])
def test_large_images_are_shrunk(limit: int | None, side: int, base: Path, tmp_path: Path) -> None:
    """64 x 64 pixels are 8 x 8 patches; with at most 32 x 32 they are 4 x 4. The limit is saved with the processor."""
    backbone = BackboneConfig(max_pixels=limit)
    model, processor = load_backbone(base, backbone)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    _, again = load_backbone(tmp_path, BackboneConfig())
    for each in (processor, again):
        grid = each(images=[Image.new("RGB", (64, 64))], text="<|image_pad|>", return_tensors="pt")["image_grid_thw"]
        assert grid.tolist() == [[1, side, side]]


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is there")
def test_a_stock_processor_without_torchvision_is_a_clear_error(base: Path, tmp_path: Path) -> None:
    """Its video part needs it, and the line says what to install."""
    folder = tmp_path / "stock"
    shutil.copytree(base, folder)
    config = folder / "processor_config.json"
    stock = config.read_text().replace("TinyQwenProcessor", "Qwen2_5_VLProcessor")
    config.write_text(stock)
    (folder / "preprocessor_config.json").write_text(json.dumps(json.loads(stock)["image_processor"]))
    with pytest.raises(UserError, match="needs torchvision; install the build that goes with your torch"):
        load_backbone(folder, BackboneConfig())


@pytest.mark.parametrize(
    ("lost", "said"), [("tokenizer.json", "cannot be read"), ("processor_config.json", "has no part for pictures")]
)
def test_a_folder_without_all_of_its_processor_is_a_clear_error(
    base: Path, tmp_path: Path, lost: str, said: str
) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(base, folder)
    (folder / lost).unlink()
    with pytest.raises(UserError, match=rf"(?s)the processor in .*torn {said}.*: is its download whole"):
        load_backbone(folder, BackboneConfig())
