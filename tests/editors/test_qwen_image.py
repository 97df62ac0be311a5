"""The Qwen-Image-Edit adapter says what both diffusers pipelines say; sources here are twice as wide as high."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageEditPipeline  # pyright: ignore[reportPrivateImportUsage]
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from tests.editors.tiny_qwen_image import tiny_qwen_image
from torch import Tensor

from edit_r1.editors.base import edit, rollout
from edit_r1.editors.loading import load_editor
from edit_r1.editors.qwen_image import QwenImageEditor
from edit_r1.errors import UserError
from edit_r1.records import EditTask
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.world.tasks import generator, sample_task

STEPS = 3
KINDS = ("first", "2509", "2511")
VAE_AREA, LATER_AREA = 64 * 64, 32 * 32
HEIGHT, WIDTH = 32, 96  # what the pipelines make of VAE_AREA at 2:1: 90.5 x 45.3, rounded to multiples of 32


def tiny_editor(kind: str, **options: Any) -> QwenImageEditor:
    area = VAE_AREA if kind == "first" else LATER_AREA
    return QwenImageEditor(tiny_qwen_image(kind), height=HEIGHT, width=WIDTH, condition_area=area, **options)


@pytest.fixture(scope="module", params=KINDS)
def editor(request: pytest.FixtureRequest) -> QwenImageEditor:
    """Shared: tests must not change its weights."""
    torch.set_num_threads(1)
    return tiny_editor(request.param)


@pytest.fixture(scope="module")
def tasks() -> list[EditTask]:
    """Three tasks with different sources, and instructions of different lengths."""
    rng = generator(0, "train")
    drawn = [sample_task(rng, "train", category).record() for category in ("colour", "remove", "compound")]
    assert len({len(task.instruction.split()) for task in drawn}) > 1
    return [replace(task, source=task.source.resize((128, 64))) for task in drawn]


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipelines' own rule with their areas, of about a million pixels, made small."""
    rule = pipeline_qwenimage_edit.calculate_dimensions
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda _, ratio: rule(VAE_AREA, ratio))
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", VAE_AREA)
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "CONDITION_IMAGE_SIZE", LATER_AREA)


def start(editor: QwenImageEditor, count: int, seed: int = 1) -> Tensor:
    return editor.noise(count, torch.Generator().manual_seed(seed))


def pipeline_call(editor: QwenImageEditor, task: EditTask, latents: Tensor | None, **kwargs: Any) -> Tensor:
    """The stock `__call__`: one image [1, 3, 32, 96] in [0, 1]."""
    return editor.pipeline(
        image=task.source,
        prompt=task.instruction,
        **editor.guidance_arguments(editor.guidance),
        latents=latents,
        num_inference_steps=STEPS,
        height=HEIGHT,
        width=WIDTH,
        output_type="pt",
        **kwargs,
    ).images


def velocities(editor: QwenImageEditor, tasks: Sequence[EditTask], sigma: float = 0.7) -> Tensor:
    """Velocities of all tasks from one noise."""
    latents = start(editor, 1).expand(len(tasks), -1, -1)
    with torch.no_grad():
        return editor.velocity(latents, torch.tensor(sigma), editor.encode(tasks))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_ode_sampling_equals_the_pipelines_own_call(
    editor: QwenImageEditor, tasks: list[EditTask], guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text, padding, reference tokens, positions, guidance, schedule, solver and decoding, all at once."""
    monkeypatch.setattr(editor, "guidance", guidance)
    noise = start(editor, 3)
    ours = editor.decode(rollout(editor, editor.encode(tasks), noise, STEPS).latents[-1])
    theirs = torch.cat([pipeline_call(editor, task, noise[i : i + 1]) for i, task in enumerate(tasks)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert theirs.std() > 1e-3  # not all white or black


def test_the_same_generator_gives_the_pipelines_noise(editor: QwenImageEditor, tasks: list[EditTask]) -> None:
    theirs = pipeline_call(editor, tasks[0], None, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(edit(editor, tasks[:1], STEPS, seed=5), theirs, atol=1e-5, rtol=0)


def test_noise_levels_are_the_schedulers(editor: QwenImageEditor, tasks: list[EditTask]) -> None:
    """Bitwise what the pipeline leaves in its scheduler; the last level above 0 is shift_terminal."""
    pipeline_call(editor, tasks[0], start(editor, 1))
    assert torch.equal(editor.sigmas(STEPS), editor.pipeline.scheduler.sigmas)
    assert editor.sigmas(STEPS)[-2].item() == pytest.approx(0.02, abs=1e-6)


def test_guidance_keeps_the_length_of_every_token(tasks: list[EditTask]) -> None:
    """Tokens u + w (c - u), scaled to the norm of c: other directions, and the norms that w = 1 gives."""
    editor = tiny_editor("first")
    guided = velocities(editor, tasks)
    editor.guidance = 1.0
    plain = velocities(editor, tasks)
    torch.testing.assert_close(guided.norm(dim=-1), plain.norm(dim=-1))
    assert (guided - plain).abs().max() > 1e-3


def test_no_guidance_without_a_negative_prompt(tasks: list[EditTask]) -> None:
    editor = tiny_editor("first", negative_prompt=None)
    guided = velocities(editor, tasks)
    editor.guidance = 1.0
    assert torch.equal(guided, velocities(editor, tasks))


def test_source_and_instruction_reach_the_velocity(
    editor: QwenImageEditor, tasks: list[EditTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone must matter; the source must matter both as reference tokens and in the text encoder's eyes."""
    monkeypatch.setattr(editor, "guidance", 1.0)
    task, other = tasks[0], tasks[1]
    known = editor.encode([task, replace(task, source=other.source), replace(task, instruction=other.instruction)])
    assert not torch.equal(known["reference"][0], known["reference"][1])
    assert torch.equal(known["reference"][0], known["reference"][2])
    length = int(known["text_mask"][0].sum())
    assert (known["text"][0, :length] - known["text"][1, :length]).abs().mean() > 1e-3
    first, other_source, other_words = velocities(
        editor, [task, replace(task, source=other.source), replace(task, instruction=other.instruction)]
    )
    assert (first - other_source).abs().mean() > 1e-4
    assert (first - other_words).abs().mean() > 1e-4


def test_a_group_shares_what_was_encoded_once(
    editor: QwenImageEditor, tasks: list[EditTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four tasks two are distinct, of one source: two texts, one negative prompt, one image."""
    calls: list[str] = []
    encode_prompt, encode_images = editor.pipeline.encode_prompt, editor.encode_images

    def read(words: list[str], images: Any, **kwargs: Any) -> Any:
        calls.extend(words)
        return encode_prompt(words, images, **kwargs)

    def looked(images: Tensor) -> Tensor:
        calls.append(f"{len(images)} image")
        return encode_images(images)

    monkeypatch.setattr(editor.pipeline, "encode_prompt", read)
    monkeypatch.setattr(editor, "encode_images", looked)
    other = replace(tasks[0], instruction=tasks[2].instruction)
    repeated = editor.encode([tasks[0], tasks[0], other, other])
    assert sorted(calls) == sorted([tasks[0].instruction, other.instruction, " ", "1 image"])
    grouped = editor.encode([tasks[0], other]).repeat(2)
    assert all(torch.equal(repeated[name], grouped[name]) for name in grouped.tensors)


def test_rows_do_not_depend_on_their_neighbours(editor: QwenImageEditor, tasks: list[EditTask]) -> None:
    """Padding is not attended to, and every row has its own noise level: a batch gives what each task alone gives."""
    latents, levels, conditioning = start(editor, 3), torch.tensor([0.9, 0.5, 0.1]), editor.encode(tasks)
    assert not conditioning["text_mask"].all()
    with torch.no_grad():
        together = editor.velocity(latents, levels, conditioning)
        alone = [editor.velocity(latents[i : i + 1], levels[i], editor.encode([tasks[i]])) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_image_tokens_have_rows_and_columns(editor: QwenImageEditor, tasks: list[EditTask]) -> None:
    """The pipelines forget to say which tokens are the image; told nothing, the encoder numbers them in a line."""
    pipeline, seen = editor.pipeline, tasks[0].source.resize((WIDTH, HEIGHT))
    first = isinstance(pipeline, QwenImageEditPipeline)
    picture = "" if first else "Picture 1: <|vision_start|><|image_pad|><|vision_end|>"
    words = pipeline.prompt_template_encode.format(picture + tasks[0].instruction)
    told = pipeline.processor(text=[words], images=[seen], padding=True, return_tensors="pt")
    line = {**told, "mm_token_type_ids": torch.zeros_like(told["mm_token_type_ids"])}
    skip = pipeline.prompt_template_encode_start_idx
    with torch.no_grad():
        grid, row = (
            pipeline.text_encoder(**inputs, output_hidden_states=True).hidden_states[-1][:, skip:]
            for inputs in (told, line)
        )
    ours, _ = pipeline.encode_prompt([tasks[0].instruction], [seen])
    torch.testing.assert_close(ours, grid)
    assert (ours - row).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "size"), [("first", (1440, 736)), ("2509", (544, 256))])
def test_the_text_encoder_sees_the_pipelines_own_size(
    kind: str, size: tuple[int, int], tasks: list[EditTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """2:1 at 1024^2 pixels is 1448 x 724, at 384^2 543 x 272; the nearest multiples of 32 are 45, 23 and 17, 8."""
    editor = QwenImageEditor(tiny_qwen_image(kind), height=HEIGHT, width=WIDTH, guidance=1.0)
    sizes: list[tuple[int, int]] = []

    def looked(_: Any, images: Any, **__: Any) -> tuple[Tensor, None]:
        sizes.append(images[0].size)
        return torch.zeros(1, 2, 32), None

    monkeypatch.setattr(editor.pipeline, "encode_prompt", looked)
    editor.encode(tasks[:1])
    assert sizes == [size]


def test_only_the_transformer_is_trainable(tasks: list[EditTask]) -> None:
    """All of it, but for what the last block makes of the text: nothing reads that."""
    editor = tiny_editor("first")
    conditioning = editor.encode(tasks)
    assert not any(tensor.requires_grad for tensor in conditioning.tensors.values())
    editor.velocity(start(editor, 3), torch.tensor(0.5), conditioning).square().mean().backward()
    idle = {name for name, parameter in editor.transformer.named_parameters() if parameter.grad is None}
    assert all(
        name.startswith(("transformer_blocks.1.attn.to_add_out", "transformer_blocks.1.txt_mlp")) for name in idle
    )
    frozen = (editor.pipeline.vae, editor.pipeline.text_encoder)
    assert not any(parameter.requires_grad for part in frozen for parameter in part.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_trained_lora_and_saved_editor_load_with_stock_diffusers(
    kind: str, tasks: list[EditTask], tmp_path: Path
) -> None:
    editor = tiny_editor(kind)
    editor.save(tmp_path / "model")
    base = velocities(editor, tasks)
    lora = EditorPolicy(editor, rank=2, alpha=4, learning_rate=0.02, ema_decay=0.5, seed=0)
    for target in editor.lora_targets:
        assert any(f".{target}.lora_A" in name for name in lora.parameters), target
    for _ in range(3):
        editor.velocity(start(editor, 3), torch.tensor(0.5), editor.encode(tasks)).square().mean().backward()
        lora.step()
    lora.assign(lora.average())
    expected = velocities(editor, tasks)
    assert (expected - base).abs().mean() > 1e-3
    lora.save_lora(editor.pipeline, tmp_path / "lora")

    stock = type(editor.pipeline).from_pretrained(tmp_path / "model", use_safetensors=True)
    loaded = load_editor(tmp_path / "model", height=HEIGHT, width=WIDTH)
    assert isinstance(loaded, QwenImageEditor)
    for other in (stock, loaded.pipeline):
        other.prompt_template_encode_start_idx = editor.pipeline.prompt_template_encode_start_idx
    loaded.condition_area = editor.condition_area
    assert torch.equal(velocities(loaded, tasks), base)
    stock.load_lora_weights(str(tmp_path / "lora"))
    again = QwenImageEditor(stock, height=HEIGHT, width=WIDTH, condition_area=editor.condition_area)
    torch.testing.assert_close(velocities(again, tasks), expected, rtol=1e-4, atol=1e-5)
    noise = start(editor, 1)
    ours = editor.decode(rollout(editor, editor.encode(tasks[:1]), noise, STEPS).latents[-1])
    torch.testing.assert_close(pipeline_call(again, tasks[0], noise), ours, rtol=0, atol=1e-4)


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        QwenImageEditor(tiny_qwen_image("first"), height=60, width=64)


def test_a_guidance_distilled_model_is_refused_for_diffusers_cannot_run_it() -> None:
    pipeline = tiny_qwen_image("first", guidance_embeds=True)
    with pytest.raises(UserError, match="guidance-distilled"):
        QwenImageEditor(pipeline)
    with pytest.raises(TypeError, match="positional argument"):
        pipeline.transformer(
            torch.zeros(1, 2, 16),
            torch.zeros(1, 2, 32),
            timestep=torch.ones(1),
            guidance=torch.ones(1),
            img_shapes=[[(1, 1, 2)]],
        )
