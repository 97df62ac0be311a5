"""The memory model of editor RL: exact counts, bytes by hand, and passes against what autograd really keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.editors.tiny_qwen_image import tiny_qwen_image
from torch import Tensor, nn

from edit_r1 import assets
from edit_r1.editors.base import Conditioning
from edit_r1.editors.loading import load_editor
from edit_r1.editors.pipeline import PipelineEditor
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.dry_run import Live
from edit_r1.training.editor_architecture import Description, empty_conditioning, empty_editor, read_description
from edit_r1.training.editor_grpo import new_policy
from edit_r1.training.editor_memory import (
    Beside,
    Counts,
    EditorMemory,
    EditorWork,
    counts,
    editor_memory,
    loaded_as,
    one_pass,
    passes,
)
from edit_r1.training.editor_rollout import velocity_fn

TINY = read_description(assets.EDITOR)
ROWS = 3


def settings(**values: Any) -> EditorGrpoConfig:
    return EditorGrpoConfig(**values)


@pytest.mark.parametrize("rank", [0, 4])
def test_parameters_are_counted_without_weights(rank: int) -> None:
    """Those of the loaded editor, and those that its policy trains."""
    config = settings(lora_rank=rank)
    editor = load_editor(assets.EDITOR)
    whole = sum(p.numel() for p in editor.transformer.parameters())
    modules = [part for part in editor.pipeline.components.values() if isinstance(part, nn.Module)]
    everything = sum(p.numel() for part in modules for p in part.parameters())
    trained = sum(p.numel() for p in new_policy(editor, config, 0).parameters.values())
    found = counts(TINY, config)
    assert (found.transformer, found.frozen, found.trained) == (whole, everything - whole, trained)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch, of norms under autocast
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("bf16", "rank", "least"),
    # Rounded to bfloat16 a CPU keeps less than a GPU: its autocast leaves layer norms in bfloat16.
    [(False, 0, 0.95), (False, 4, 0.95), (True, 0, 0.75), (True, 4, 0.75)],
)
def test_activations_are_those_of_the_real_editor(bf16: bool, rank: int, least: float, checkpointing: bool) -> None:
    """The most that a CPU holds in a forward and backward pass is 95 to 100% of what is said, in bfloat16 75 to 100%.

    And what autograd's own hooks see saved is no more than that; without checkpointing it is most of it.
    """
    config = settings(bf16=bf16, lora_rank=rank, gradient_checkpointing=checkpointing)
    expected = passes(TINY, config, ROWS)
    editor = load_editor(assets.EDITOR, dtype=loaded_as(config))
    policy = new_policy(editor, config, 0)
    given = empty_conditioning(editor, TINY, ROWS).tensors
    conditioning = Conditioning({name: torch.zeros(t.shape, dtype=t.dtype) for name, t in given.items()})
    x, sigma = editor.noise(ROWS, torch.Generator()), torch.tensor(0.5)
    velocity = velocity_fn(editor, conditioning, config)
    for parameter in policy.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    parameters = list(editor.transformer.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    with Live([*parameters, *gradients, *conditioning.tensors.values(), x, sigma]) as live:
        velocity(x, sigma).float().square().mean().backward()
    assert least * expected < live.peak <= expected
    saved = saved_bytes(lambda: velocity(x, sigma), [*parameters, *conditioning.tensors.values(), x])
    assert saved < expected
    assert saved > (0.1 if checkpointing else 0.75) * expected


def saved_bytes(forward: Any, held: list[Tensor]) -> int:
    """Bytes of the storages that autograd saves in a forward pass, apart from those that are there anyway."""
    known = {tensor.untyped_storage().data_ptr() for tensor in held}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    storages = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in kept)}
    return sum(size for pointer, size in storages.items() if pointer not in known)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_further_block_adds_the_same(checkpointing: bool) -> None:
    """Two more blocks of a kind add twice what one more does; with checkpointing that is the input of one.

    An input in float32: for each row 64 tokens of the edit, 64 of the source and 32 of the text, 128 numbers each.
    """
    config = settings(gradient_checkpointing=checkpointing, lora_rank=4)
    one, two, four = (passes(deeper(TINY, "num_single_layers", blocks), config, ROWS) for blocks in (1, 2, 4))
    assert four - two == 2 * (two - one)
    if checkpointing:
        assert two - one == 4 * ROWS * (64 + 64 + 32) * 128


def test_classifier_free_guidance_passes_twice() -> None:
    """Qwen-Image-Edit without its guidance keeps about half."""
    config = settings(lora_rank=4)
    twice, once = (
        one_pass(editor, new_policy(editor, config, 0), description, config, ROWS).kept
        for editor, description in (tiny_qwen(guidance) for guidance in (4.0, 1.0))
    )
    assert 1.9 * once < twice < 2.1 * once


def tiny_qwen(guidance: float) -> tuple[PipelineEditor, Description]:
    """A random Qwen-Image-Edit without numbers, and its description."""
    pipeline = tiny_qwen_image("2509")
    parts = {name: dict(getattr(pipeline, name).config) for name in ("transformer", "vae")}
    parts["text_encoder"] = pipeline.text_encoder.config.to_dict() | {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"]
    }
    for name in ("transformer", "vae"):
        parts[name]["_class_name"] = type(getattr(pipeline, name)).__name__
    description = Description("QwenImageEditPlusPipeline", parts)
    editor = empty_editor(description, height=32, width=32)
    editor.guidance = guidance
    return editor, description


def deeper(description: Description, key: str, blocks: int) -> Description:
    transformer = description.parts["transformer"] | {key: blocks}
    return replace(description, parts={**description.parts, "transformer": transformer})


@pytest.fixture
def no_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have tests of their own, and take their time."""
    monkeypatch.setattr("edit_r1.training.editor_memory.passes", lambda *_, **__: 0)


COUNTS = Counts(transformer=1000, frozen=100, trained=50, largest=200, trained_of_it=10, outside=100)
WORK = EditorWork(tasks=2, edits=6, rows=3)


@pytest.mark.usefixtures("no_passes")
def test_bytes_of_adapters_by_hand() -> None:
    """1000 numbers in bfloat16 and 50 of adapters in float32; a mean, a gradient and two states for each of the 50."""
    need = editor_memory(TINY, settings(bf16=True), COUNTS, WORK, 1, Beside())
    assert (need.transformer, need.frozen, need.loading) == (2000 + 200, 200, 2200 + 200)
    assert (need.copies, need.gradients, need.optimiser, need.swapped) == (200, 200, 400, 200)
    assert not need.base_swaps


@pytest.mark.usefixtures("no_passes")
def test_bytes_of_all_weights_by_hand() -> None:
    """Everything in float32, and beside the mean the base, which is put in their place within an update."""
    size = replace(COUNTS, trained=1000, trained_of_it=200)
    need = editor_memory(TINY, settings(bf16=True, lora_rank=0), size, WORK, 1, Beside())
    assert (need.transformer, need.frozen, need.copies) == (4000, 400, 8000)
    assert (need.gradients, need.optimiser, need.swapped) == (4000, 8000, 4000)
    assert need.base_swaps
    assert not editor_memory(TINY, settings(lora_rank=0, beta=0.0), size, WORK, 1, Beside()).base_swaps


@pytest.mark.usefixtures("no_passes")
def test_sharding_divides_the_transformer_and_what_goes_with_it() -> None:
    """Over 4 GPUs: a quarter of 2200 and of the 200; two blocks and what is outside of them are put together.

    2 x (2 x 200 + 4 x 10) + 2 x 100 bytes; and of gradients those of a block's 10 numbers. Without `shard` nothing is.
    """
    plain, sharded = (
        editor_memory(TINY, settings(bf16=True, shard=shard), COUNTS, WORK, 4, Beside()) for shard in (False, True)
    )
    assert plain.transformer == 2200
    assert sharded.transformer == 550 + 2 * (400 + 40) + 200
    assert (sharded.copies, sharded.gradients, sharded.optimiser) == (50, 50 + 40, 100)
    assert (sharded.frozen, sharded.loading, sharded.activations) == (plain.frozen, plain.loading, plain.activations)


@pytest.mark.usefixtures("no_passes")
@pytest.mark.parametrize(
    ("changes", "latents"),
    [
        ({"sample_steps": 5, "sde_steps": (0, 1)}, 6 + 2),  # five steps have six latents; two steps are stochastic
        ({"sample_steps": 5, "sde_steps": (0, 1, 2), "window": "random", "window_size": 1}, 6 + 1),
        ({"sample_steps": 5, "objective": "nft", "kernel": "ode", "kl": "velocity"}, 6 + 4 * 2),
    ],
)
def test_what_is_kept_of_the_edits_by_hand(changes: dict[str, Any], latents: int) -> None:
    """Latents of 64 tokens of 16 numbers in float32; twice the text's 32 x 64, CLIP's 64 and the source's 64 x 16."""
    need = editor_memory(TINY, settings(**changes), COUNTS, WORK, 1, Beside())
    assert need.rollout == 6 * (4 * latents * 64 * 16 + 2 * 4 * (32 * 64 + 64 + 64 * 16))


def test_the_peak_is_of_the_busiest_time() -> None:
    """What stays is 1 + 2 + 4 + 8 + 16 + 32 = 63; loading counts alone."""
    need = EditorMemory(
        transformer=1,
        frozen=2,
        copies=4,
        gradients=100,
        optimiser=8,
        swapped=10,
        base_swaps=False,
        activations=1000,
        sampling=300,
        rollout=16,
        loading=50,
        beside=Beside(weights=32, cache=400),
        overlap=False,
    )
    assert need.peak == 63 + 100 + 1000
    assert replace(need, base_swaps=True).peak == 63 + 100 + 1000 + 10
    assert replace(need, activations=0).peak == 63 + 400  # verifying, after 310 of sampling
    assert replace(need, activations=0, overlap=True).peak == 63 + 310 + 400
    assert replace(need, activations=0, sampling=0, beside=Beside(32)).peak == 63 + 100 + 10  # AdamW's own copy
    assert replace(need, loading=9999).peak == 9999
