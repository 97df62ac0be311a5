"""What a recipe needs before it is run: memory, disk and packages, from the model's configuration alone."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edit_r1 import assets
from edit_r1.config import beside, load_recipe, overrides_by_section, sections
from edit_r1.errors import UserError
from edit_r1.stages import BackboneConfig, ColdStartConfig, GcpoConfig
from edit_r1.training.architecture import Architecture, read_architecture
from edit_r1.training.backbone import micro_batches
from edit_r1.training.memory import (
    BFLOAT16,
    FLOAT32,
    VLLM_SHARE,
    Memory,
    Work,
    memory,
    trained_parameters,
    weights,
)
from edit_r1.verifier.prompting import load_template

STAGES = ("cold_start", "gcpo")
USABLE = 0.9
"""Share of a card that may be planned with; the rest is for CUDA itself, for workspaces and for gaps."""
PRINCIPLES = 10
"""As many as a decomposer writes in the paper, each of at most so many letters, and so many of the instruction."""
QUESTION, INSTRUCTION = 100, 200
LETTERS_PER_TOKEN = 4
"""What tokenizers of this size make of English, as a rule of thumb; images are most of a prompt anyway."""


@dataclass(frozen=True)
class Disk:
    """Bytes on disk."""

    model: int
    """The weights to start from, as they are published: in bfloat16."""
    checkpoints: int
    """Two of them, for the old one goes when the new one is there: what is trained, with its optimiser states."""
    result: int


@dataclass(frozen=True)
class Stage:
    """What one stage needs."""

    name: str
    backbone: BackboneConfig
    work: Work
    trained: int
    memory: Memory
    disk: Disk
    host: int
    """Bytes of the machine's own memory for each process, while it loads the weights."""


@dataclass(frozen=True)
class Report:
    """What a recipe needs, stage by stage."""

    size: Architecture
    stages: tuple[Stage, ...]
    missing: tuple[str, ...]
    """Packages that are not installed, each with what needs it."""


def examine(recipe: str, model: Path | None, gpus: int, card: int, overrides: Sequence[str] = ()) -> Report:
    """Read a recipe and the configuration of its model, and count.

    Args:
        recipe: as in `load_recipe`.
        model: a model's folder. Without it the file beside the recipe with the same name and the ending `.json`
            describes the model; without that it is the shipped tiny verifier.
        gpus: FSDP2 shards over so many.
        card: bytes of memory of one GPU.
        overrides: `section.key=value`.

    Raises:
        UserError: a mistake in the recipe, in the overrides or in the model's configuration, or a recipe without any
            of `STAGES`.
    """
    names = [name for name in STAGES if name in sections(recipe)]
    if not names:
        raise UserError(f"recipe {recipe} has neither a section [cold_start] nor [gcpo]; there is nothing to examine")
    changed = overrides_by_section(overrides, names)
    described = None if model else beside(recipe, ".json")
    folder = model or (None if described else assets.VERIFIER)
    size = read_architecture(described or (folder or assets.VERIFIER) / "config.json")
    gcpo = load_recipe(GcpoConfig, recipe, changed["gcpo"], "gcpo") if "gcpo" in names else GcpoConfig()
    stages: list[Stage] = []
    if "cold_start" in names:
        cold_start = load_recipe(ColdStartConfig, recipe, changed["cold_start"], "cold_start")
        pixels = _most_pixels("cold_start", cold_start.backbone, folder)
        # The traces to be learnt are taken to be as long as GCPO lets them become.
        work = cold_start_work(size, cold_start, pixels, gcpo.max_tokens)
        stages.append(_stage("cold_start", size, cold_start.backbone, work, gpus, 0))
    if "gcpo" in names:
        work = gcpo_work(size, gcpo, _most_pixels("gcpo", gcpo.backbone, folder), gpus)
        reserved = round(VLLM_SHARE * card) if gcpo.vllm == "colocate" else 0
        stages.append(_stage("gcpo", size, gcpo.backbone, work, gpus, reserved))
    return Report(size, tuple(stages), missing_packages(gcpo.vllm != "off", is_stock(folder)))


def cold_start_work(size: Architecture, config: ColdStartConfig, pixels: int, answer: int) -> Work:
    """The micro batch of a cold start; images of `pixels` pixels, answers of `answer` tokens."""
    rows = config.batch_size // micro_batches(config.batch_size, config.micro_batch or config.batch_size)
    patches = 2 * (pixels // size.patch**2)
    prompt = prompt_tokens(config.backbone.template, patches // size.merge**2)
    return Work(rows=rows, prompt=prompt, answer=answer, patches=patches)


def gcpo_work(size: Architecture, config: GcpoConfig, pixels: int, gpus: int) -> Work:
    """The micro batch of GCPO, and the traces that transformers writes at once.

    Those are a step's, where vLLM does not write them, or the probe's, which are at most as many.
    """
    rows = config.rows_per_step
    patches = 2 * (pixels // size.patch**2)
    return Work(
        rows=rows // micro_batches(rows, config.micro_batch),
        prompt=prompt_tokens(config.backbone.template, patches // size.merge**2),
        answer=config.max_tokens,
        patches=patches,
        trains_vision=not config.freeze_vision,
        whole_logits=gpus == 1 and not config.backbone.gradient_checkpointing,
        written=rows if config.vllm == "off" or config.probe else 0,
    )


def prompt_tokens(template: str, of_images: int) -> int:
    """Tokens of a prompt: those of its images, and its text with an instruction and ten principles."""
    letters = len(load_template(template)) + INSTRUCTION + PRINCIPLES * QUESTION
    return of_images + letters // LETTERS_PER_TOKEN


def disk(size: Architecture, backbone: BackboneConfig, trained: int) -> Disk:
    """What lies on disk: `trained` numbers and two states for each in a checkpoint, and the whole model as a result."""
    held = weights(size, backbone)
    kept = FLOAT32 * trained if backbone.lora_rank else held
    return Disk(
        model=BFLOAT16 * size.parameters,
        checkpoints=2 * (kept + 2 * FLOAT32 * trained),
        result=held,  # with LoRA the merged model and its adapter
    )


def missing_packages(vllm: bool, stock_processor: bool) -> tuple[str, ...]:
    """Optional packages that a recipe needs and that are not installed."""
    needed = {"vllm": "writes the traces"} if vllm else {}
    needed |= {"torchvision": "the stock processors of Qwen-VL import it"} if stock_processor else {}
    return tuple(f"{name} ({why})" for name, why in needed.items() if importlib.util.find_spec(name) is None)


def check_fit(stage: Stage, card: int) -> None:
    """Raise a `UserError` that names what to change when a stage does not fit a card of `card` bytes."""
    need, usable, copy = stage.memory, USABLE * card, stage.disk.model
    if need.reserved and copy > USABLE * need.reserved:
        raise UserError(
            f"[{stage.name}] vLLM takes {VLLM_SHARE:.0%} of a GPU, {_gib(need.reserved)} GiB, and its copy of the "
            f'model needs {_gib(copy)}: set {stage.name}.vllm="server" or "off", or take larger cards'
        )
    if need.peak <= usable:
        return
    raise UserError(
        f"[{stage.name}] needs {_gib(need.peak)} GiB on each GPU, and {_gib(usable)} of {_gib(card)} are usable: "
        f"{remedy(stage)}"
    )


def remedy(stage: Stage) -> str:
    """The settings that the largest part of the need depends on."""
    name, need, backbone = stage.name, stage.memory, stage.backbone
    states = need.weights + need.optimiser + need.gradients
    if need.cache > max(states, need.gradients + need.activations):
        return f'lower {name}.pairs_per_step, {name}.traces or {name}.max_tokens, or set {name}.vllm="server"'
    if need.activations > states:
        saving = "" if backbone.gradient_checkpointing else f"set {name}.backbone.gradient_checkpointing=true, or "
        return f"{saving}lower {name}.micro_batch or {name}.backbone.max_pixels"
    return ("" if backbone.lora_rank else f"set {name}.backbone.lora_rank=64, or ") + "shard over more GPUs"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}"


def _stage(name: str, size: Architecture, backbone: BackboneConfig, work: Work, gpus: int, reserved: int) -> Stage:
    trained = trained_parameters(size, backbone, work.trains_vision)
    need = memory(size, backbone, work, gpus, reserved)
    return Stage(name, backbone, work, trained, need, disk(size, backbone, trained), weights(size, backbone))


def _most_pixels(name: str, backbone: BackboneConfig, folder: Path | None) -> int:
    """The size of the largest image that reaches the model: the recipe's limit, or that of the folder's processor."""
    if backbone.max_pixels is not None:
        return backbone.max_pixels
    for file in ("processor_config.json", "preprocessor_config.json"):
        path = folder / file if folder else None
        if path and path.is_file():
            values = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
            values = values.get("image_processor", values)
            limit = values.get("max_pixels") or values.get("size", {}).get("longest_edge")
            if limit:
                return int(limit)
    raise UserError(f"how large images may be is not known: set {name}.backbone.max_pixels, such as 401408")


def is_stock(folder: Path | None) -> bool:
    """Whether a model comes with a processor of transformers, not with ours."""
    path = folder / "processor_config.json" if folder else None
    return not (path and path.is_file() and "TinyQwenProcessor" in path.read_text(encoding="utf-8"))
