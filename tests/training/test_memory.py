"""The memory model: counts that are exact, bytes by hand, and activations against what autograd really keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from PIL import Image
from tests.training.tiny_qwen2_5 import tiny_qwen2_5
from tests.training.tiny_run import tiny_verifier

from edit_r1 import assets
from edit_r1.errors import UserError
from edit_r1.stages import BackboneConfig
from edit_r1.training.architecture import Architecture, Tower, measure, read_architecture
from edit_r1.training.backbone import adapter, load_backbone
from edit_r1.training.memory import Work, activations, cache, copies, head, memory, trained_parameters

TOWER = Tower(
    layers=2,
    hidden=8,
    heads=2,
    kv_heads=1,
    head_dim=4,
    between=16,
    gated=True,
    head_norms=False,
    joint=False,
    layer_parameters=300,
)
SIZE = Architecture(
    kind="qwen2_5_vl",
    parameters=1000,
    vision_parameters=300,
    adapted_width=50,
    vocabulary=10,
    language=TOWER,
    vision=replace(TOWER, layers=1, layer_parameters=200),
    mergers=1,
    patch=2,
    merge=2,
)
WORK = Work(rows=2, prompt=6, answer=4, patches=8, written=4)
FULL, LORA = BackboneConfig(), BackboneConfig(lora_rank=3)
FULL16, LORA16 = BackboneConfig(bf16=True), BackboneConfig(bf16=True, lora_rank=3)


def test_parameters_of_the_tiny_verifier_are_counted_without_its_weights() -> None:
    """On the meta device as in the real model, tied embeddings once; adapters are those that peft makes."""
    real, _ = load_backbone(assets.VERIFIER, BackboneConfig())
    size = read_architecture(assets.VERIFIER / "config.json")
    assert size == measure(real)
    assert size.parameters == sum(p.numel() for p in real.parameters())
    assert size.vision_parameters == sum(p.numel() for p in real.model.visual.parameters())
    lora = adapter(LORA)
    assert lora is not None
    expected = sum(p.numel() for p in get_peft_model(real, lora).parameters() if p.requires_grad)
    assert trained_parameters(size, LORA) == expected


@pytest.mark.parametrize(
    ("backbone", "weights", "trained"),
    [
        (FULL, 4 * 1000, 1000),  # float32
        (FULL16, 4 * 1000, 1000),  # trained weights stay float32
        (LORA, 4 * 1000 + 4 * 150, 150),  # 3 x 50 numbers of adapters
        (LORA16, 2 * 1000 + 4 * 150, 150),  # frozen ones in bfloat16
    ],
)
def test_bytes_by_hand(backbone: BackboneConfig, weights: int, trained: int) -> None:
    """Weights as held; a gradient (4 bytes) and two optimiser states (8 bytes) for every number that is trained."""
    need = memory(SIZE, backbone, WORK)
    assert (need.weights, need.gradients, need.optimiser) == (weights, 4 * trained, 8 * trained)


def test_a_frozen_vision_tower_has_no_gradients() -> None:
    """1000 parameters less 300."""
    need = memory(SIZE, FULL, replace(WORK, trains_vision=False))
    assert (need.weights, need.gradients, need.optimiser) == (4000, 2800, 5600)


def test_sharding_divides_states_and_nothing_else() -> None:
    """Over 4 GPUs: a quarter of weights, gradients, states, and on top what is gathered.

    Gathered are two layers of 300 and the 1000 - 2 * 300 - 200 = 200 parameters outside of layers, in c = 4 bytes.
    """
    one, four = memory(SIZE, FULL, WORK), memory(SIZE, FULL, WORK, gpus=4)
    assert four.weights == 1000 + 4 * (2 * 300 + 200)
    assert (four.gradients, four.optimiser) == (1000, 2000)
    assert (four.activations, four.cache) == (one.activations, one.cache)
    # In bfloat16 a single GPU also holds autocast's copies, 2 bytes for each trained weight.
    alone, shared = memory(SIZE, FULL16, WORK), memory(SIZE, FULL16, WORK, gpus=4)
    assert alone.activations - shared.activations == copies(SIZE, FULL16) == 2000


def test_cache_by_hand() -> None:
    """4 traces of 10 tokens, key and value of 1 head x 4 numbers, 2 layers and one more, 4 bytes; 4 x 4 x 10 words."""
    assert cache(SIZE, FULL, WORK) == 4 * (10 * 2 * 4 * 3 * 4 + 160)
    assert cache(SIZE, FULL16, WORK) == 4 * (10 * 2 * 4 * 3 * 2 + 160)
    assert cache(SIZE, FULL, replace(WORK, written=0)) == 0


def test_the_peak_is_of_writing_or_of_learning() -> None:
    """Gradients and activations are not there while traces are written; weights and states always are."""
    need = memory(SIZE, FULL, WORK, reserved=7)
    assert need.peak == need.weights + need.optimiser + 7 + max(need.gradients + need.activations, need.cache)
    many = memory(SIZE, FULL, replace(WORK, written=10**6))
    assert many.peak == many.weights + many.optimiser + many.cache


def test_checkpointing_keeps_inputs_and_one_layer() -> None:
    """Deep towers cost a fraction; doubling the layers adds their inputs alone, 4 bytes x h = 8 for each token."""
    deep = replace(SIZE, language=replace(TOWER, layers=40))
    saving = BackboneConfig(gradient_checkpointing=True)
    assert activations(deep, saving, WORK) < 0.2 * activations(deep, FULL, WORK)
    deeper = replace(SIZE, language=replace(TOWER, layers=80))
    assert activations(deeper, saving, WORK) - activations(deep, saving, WORK) == 40 * 20 * 4 * 8


Maker = Callable[[Path], Path]


@pytest.mark.parametrize("make", [tiny_qwen2_5, tiny_verifier], ids=["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("backbone", [FULL, FULL16, LORA, LORA16], ids=["full", "full bf16", "lora", "lora bf16"])
def test_activations_are_those_that_autograd_keeps(make: Maker, backbone: BackboneConfig, tmp_path: Path) -> None:
    """What a forward pass saves is no more than the formula says, and at most a quarter less.

    The head is apart: TRL computes it in tiles.
    """
    model, processor = load_backbone(make(tmp_path), backbone)
    picture = "<|vision_start|> <|image_pad|> <|vision_end|> "
    inputs = processor(
        text=[2 * picture + " red" * words for words in (30, 60)],
        images=[[Image.new("RGB", (64, 64))] * 2] * 2,
        return_tensors="pt",
        padding=True,
    )
    size = measure(model)
    lora = adapter(backbone)
    if lora is not None:
        get_peft_model(model, lora)  # puts the adapters into the model itself
    with torch.autocast("cpu", torch.bfloat16, enabled=backbone.bf16):
        found = kept_bytes(model, lambda: model.model(**inputs, use_cache=False))
    rows, tokens = inputs["input_ids"].shape
    work = Work(rows=rows, prompt=tokens, answer=0, patches=len(inputs["pixel_values"]) // rows)
    expected = activations(size, backbone, work) - head(size, backbone, work) + copies(size, backbone)
    assert 0.75 * expected < found < expected


def kept_bytes(model: Any, forward: Callable[[], object]) -> int:
    """Bytes of the storages that autograd holds after a forward pass, without the parameters themselves."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    storages = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in kept)}
    return sum(nbytes for pointer, nbytes in storages.items() if pointer not in parameters)


def test_other_models_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"type 'llama'; known are qwen2_5_vl and qwen3_vl"):
        read_architecture(config)
