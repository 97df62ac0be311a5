"""The Kontext adapter says exactly what the diffusers pipeline says, and nothing of the task is lost on the way."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler  # pyright: ignore[reportPrivateImportUsage]
from peft import LoraConfig, inject_adapter_in_model
from tests.editors.conftest import tiny_editor
from torch import Tensor

from edit_r1.editors.base import edit, rollout, to_pil
from edit_r1.editors.kontext import KontextEditor
from edit_r1.errors import UserError
from edit_r1.records import EditTask

STEPS = 3


def start(editor: KontextEditor, count: int, seed: int = 1) -> Tensor:
    return editor.noise(count, torch.Generator().manual_seed(seed))


def pipeline_call(editor: KontextEditor, task: EditTask, latents: Tensor | None, **kwargs: Any) -> Tensor:
    """The stock `__call__` at the editor's size: one image [1, 3, H, W] in [0, 1]; the source has that size."""
    return editor.pipeline(
        image=task.source,
        prompt=task.instruction,
        latents=latents,
        num_inference_steps=STEPS,
        **editor.guidance_arguments(editor.guidance),
        height=editor.height,
        width=editor.width,
        max_area=editor.height * editor.width,
        _auto_resize=False,
        max_sequence_length=editor.text_tokens,
        output_type="pt",
        **kwargs,
    ).images


@pytest.mark.parametrize("dynamic", [True, False])
def test_ode_sampling_equals_the_pipelines_own_call(
    editor: KontextEditor, tasks: list[EditTask], dynamic: bool
) -> None:
    """Text, reference tokens, position numbers, guidance, schedule, solver and decoding, all at once."""
    original = editor.pipeline.scheduler
    editor.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=dynamic, shift=1.0 if dynamic else 3.0
    )
    try:
        noise = start(editor, 3)
        ours = editor.decode(rollout(editor, editor.encode(tasks), noise, STEPS).latents[-1])
        theirs = torch.cat([pipeline_call(editor, task, noise[i : i + 1]) for i, task in enumerate(tasks)])
    finally:
        editor.pipeline.scheduler = original
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 96), (80, 48)])
def test_pictures_that_are_not_square_are_the_pipelines_too(
    editor: KontextEditor, tasks: list[EditTask], height: int, width: int
) -> None:
    """Rows and columns, of latents and of position numbers, are not taken for each other."""
    other = KontextEditor(editor.pipeline, height=height, width=width)
    shaped = [replace(task, source=task.source.resize((width, height))) for task in tasks]
    noise = start(other, 3)
    ours = other.decode(rollout(other, other.encode(shaped), noise, STEPS).latents[-1])
    theirs = torch.cat([pipeline_call(other, task, noise[i : i + 1]) for i, task in enumerate(shaped)])
    assert theirs.shape == (3, 3, height, width)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_same_generator_gives_the_pipelines_noise(editor: KontextEditor, tasks: list[EditTask]) -> None:
    theirs = pipeline_call(editor, tasks[0], None, generator=torch.Generator().manual_seed(5))
    ours = editor.decode(rollout(editor, editor.encode(tasks[:1]), start(editor, 1, seed=5), STEPS).latents[-1])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_source_and_instruction_reach_the_velocity(editor: KontextEditor, tasks: list[EditTask]) -> None:
    """A published recipe once trained an editor that never saw the source: each condition alone must matter."""
    task, other = tasks[0], tasks[1]
    mixed = [task, replace(task, source=other.source), replace(task, instruction=other.instruction)]
    conditioning = editor.encode(mixed)
    latents = start(editor, 1).expand(3, -1, -1)
    with torch.no_grad():
        first, other_source, other_words = editor.velocity(latents, torch.tensor(0.7), conditioning)
    assert (first - other_source).abs().mean() > 1e-3
    assert (first - other_words).abs().mean() > 1e-3


def test_conditioning_cached_for_a_group_gives_the_same_velocity(editor: KontextEditor, tasks: list[EditTask]) -> None:
    cached = editor.encode(tasks).repeat(2)
    fresh = editor.encode([task for task in tasks for _ in range(2)])
    latents = start(editor, 6)
    with torch.no_grad():
        whole = editor.velocity(latents, torch.tensor(0.4), cached)
        torch.testing.assert_close(whole, editor.velocity(latents, torch.tensor(0.4), fresh))
        part = editor.velocity(latents[[4, 1]], torch.tensor(0.4), cached.select([4, 1]))
    torch.testing.assert_close(part, whole[[4, 1]], atol=1e-5, rtol=1e-4)


def test_a_source_that_comes_twice_is_encoded_once(
    editor: KontextEditor, tasks: list[EditTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = editor.encode_images

    def counted(images: Tensor) -> Tensor:
        seen.append(len(images))
        return encode(images)

    monkeypatch.setattr(editor, "encode_images", counted)
    editor.encode([tasks[0], tasks[1], tasks[0], tasks[0]])
    assert seen == [2]


def test_noise_levels_may_differ_between_samples(editor: KontextEditor, tasks: list[EditTask]) -> None:
    """GRPO trains on random steps: a vector of noise levels gives each row what a scalar gives it."""
    conditioning, latents, levels = editor.encode(tasks), start(editor, 3), torch.tensor([0.9, 0.5, 0.1])
    with torch.no_grad():
        together = editor.velocity(latents, levels, conditioning)
        alone = [editor.velocity(latents[i : i + 1], levels[i], conditioning.select([i])) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_only_the_transformer_is_trainable(tasks: list[EditTask]) -> None:
    editor = tiny_editor()
    conditioning = editor.encode(tasks)
    assert not any(tensor.requires_grad for tensor in conditioning.tensors.values())
    editor.velocity(start(editor, 3), torch.tensor(0.5), conditioning).square().mean().backward()
    assert all(parameter.grad is not None for parameter in editor.transformer.parameters())
    frozen = (editor.pipeline.vae, editor.pipeline.text_encoder, editor.pipeline.text_encoder_2)
    assert not any(parameter.requires_grad for part in frozen for parameter in part.parameters())


def test_lora_starts_as_the_base_and_reaches_every_block(tasks: list[EditTask]) -> None:
    editor = tiny_editor()
    conditioning, latents = editor.encode(tasks), start(editor, 3)
    with torch.no_grad():
        before = editor.velocity(latents, torch.tensor(0.5), conditioning)
        inject_adapter_in_model(LoraConfig(r=4, target_modules=list(editor.lora_targets)), editor.transformer)
        after = editor.velocity(latents, torch.tensor(0.5), conditioning)
    assert torch.equal(before, after)
    adapted = {name for name, _ in editor.transformer.named_parameters() if "lora_A" in name}
    for target in editor.lora_targets:
        assert any(f".{target}.lora_A" in f".{name}" for name in adapted), target
    blocks = {".".join(name.split(".")[:2]) for name in adapted if "blocks" in name}
    assert len(blocks) == 2 + 4


def test_edits_do_not_depend_on_the_batch_size(editor: KontextEditor, tasks: list[EditTask]) -> None:
    whole = edit(editor, tasks, STEPS, seed=3)
    assert whole.shape == (3, 3, 64, 64)
    torch.testing.assert_close(edit(editor, tasks, STEPS, seed=3, batch=2), whole, atol=1e-5, rtol=0)
    assert not torch.equal(edit(editor, tasks, STEPS, seed=4), whole)


def test_pictures_are_rounded_not_cut(editor: KontextEditor) -> None:
    levels = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 254.6 / 255, 1.0, 1.5])
    (image,) = to_pil(levels.reshape(1, 1, 1, 6).expand(1, 3, 1, 6))
    assert [image.getpixel((x, 0)) for x in range(6)] == [(v,) * 3 for v in (0, 0, 1, 255, 255, 255)]


def test_a_size_that_does_not_divide_is_refused(editor: KontextEditor) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        KontextEditor(editor.pipeline, height=60)


def test_a_guidance_is_refused_where_the_transformer_is_told_none() -> None:
    pipeline = tiny_editor().pipeline
    pipeline.transformer.register_to_config(guidance_embeds=False)
    with pytest.raises(UserError, match="kontext takes no guidance"):
        KontextEditor(pipeline, guidance=2.5)
    assert KontextEditor(pipeline).guidance == 2.5  # the default, which nobody reads
