"""What a recipe for reinforcement learning of an editor needs before it is run: memory and disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edit_r1 import assets
from edit_r1.config import beside, load_recipe
from edit_r1.errors import UserError
from edit_r1.stages import BackboneConfig, EditorGrpoConfig, RewardConfig
from edit_r1.training import memory
from edit_r1.training.architecture import read_architecture
from edit_r1.training.doctor import USABLE, Disk, is_stock, missing_packages, prompt_tokens
from edit_r1.training.editor_architecture import read_description
from edit_r1.training.editor_memory import (
    Beside,
    Counts,
    EditorMemory,
    EditorWork,
    counts,
    editor_memory,
    held_bytes,
    number,
)

SECTION = "editor_grpo"
USUAL_VERIFIER = "qwen_vl/qwen2_5_vl_7b"
"""Its size stands for a verifier that is not there yet."""
LARGE = 1024
"""Pixels on the side of an image whose size the recipe leaves to the editor, for the verifier's tokens."""


@dataclass(frozen=True)
class EditorReport:
    """What `[editor_grpo]` of a recipe needs."""

    kind: str
    config: EditorGrpoConfig
    size: Counts
    work: EditorWork
    memory: EditorMemory
    disk: Disk
    host: int
    """Bytes of the machine's own memory for each process, while it loads the weights."""
    assumed: tuple[str, ...]
    """Folders of verifiers that are not there, for which `USUAL_VERIFIER` stands."""
    missing: tuple[str, ...]
    """Packages that are not installed, each with what needs it."""


def examine_editor(recipe: str, model: Path | None, gpus: int, overrides: Sequence[str] = ()) -> EditorReport:
    """Read a recipe and the configuration of its editor, and count.

    Args:
        recipe: as in `load_recipe`.
        model: an editor's folder. Without it the file `editor.json` beside the recipe describes the editor; without
            that it is the shipped tiny editor.
        gpus: tasks are spread over so many, and the transformer too where the recipe shards it.
        overrides: `editor_grpo.key=value`.

    Raises:
        UserError: a mistake in the recipe, the overrides or the editor's configuration, or tasks that cannot be spread.
    """
    prefix = f"{SECTION}."
    strangers = [override for override in overrides if not override.startswith(prefix)]
    if strangers:
        raise UserError(f"--set {strangers[0]}: start with a section, as in {SECTION}.key=value")
    config = load_recipe(EditorGrpoConfig, recipe, [text.removeprefix(prefix) for text in overrides], SECTION)
    described = None if model else beside(recipe, "editor.json")
    description = read_description(model or described or assets.EDITOR)
    size = counts(description, config)
    work = editor_work(config, gpus)
    tiny = model is None and described is None
    verifiers, assumed = verifiers_beside(config, work, assets.VERIFIER if tiny else None)
    held = held_bytes(size, config) + number(config) * size.frozen
    return EditorReport(
        kind=description.kind,
        config=config,
        size=size,
        work=work,
        memory=editor_memory(description, config, size, work, gpus, verifiers),
        disk=editor_disk(size, config),
        host=held,
        assumed=assumed,
        missing=missing_packages(
            False, "QwenImage" in description.kind or bool(assumed) or _stock_verifiers(config, tiny)
        ),
    )


def _stock_verifiers(config: EditorGrpoConfig, tiny: bool) -> bool:
    """Whether a verifier here has a processor of transformers; beside the tiny editor a missing one is tiny."""
    sources = [*config.rewards, *([config.judge] if config.judge else [])]
    folders = [Path(source.folder) for source in sources if source.folder is not None]
    return any(is_stock(folder) for folder in folders if folder.is_dir() or not tiny)


def editor_work(config: EditorGrpoConfig, gpus: int) -> EditorWork:
    """The share of one of `gpus` processes in a step."""
    tasks, rest = divmod(config.prompts_per_step, gpus)
    if rest or not tasks:
        raise UserError(
            f"prompts_per_step {config.prompts_per_step} cannot be shared by {gpus} GPUs; choose a multiple of that"
        )
    edits = tasks * config.group_size
    return EditorWork(tasks, edits, min(config.micro_batch, edits))


def verifiers_beside(
    config: EditorGrpoConfig, work: EditorWork, default: Path | None = None
) -> tuple[Beside, tuple[str, ...]]:
    """What verifiers on the editor's own GPU hold, and which of their folders are not there.

    Without `rewards` there is one, of the command line. `default` stands for folders that are not there, where given.
    """
    sources = [
        *(config.rewards or (RewardConfig(folder="the one of --verifier"),)),
        *([config.judge] if config.judge else []),
    ]
    beside_it = [source for source in sources if source.folder is not None and source.device is None]
    here = [Path(str(source.folder)) for source in beside_it]
    missing = [folder for folder in here if not (folder / "config.json").is_file()]
    stand_in = default / "config.json" if default else beside(USUAL_VERIFIER, ".json")
    assert stand_in is not None
    paths = [stand_in if folder in missing else folder / "config.json" for folder in here]
    found = [_verifier(path, source, config, work) for path, source in zip(paths, beside_it, strict=True)]
    both = Beside(sum(one.weights for one in found), max((one.cache for one in found), default=0))
    return both, () if default else tuple(map(str, missing))


def _verifier(path: Path, source: RewardConfig, config: EditorGrpoConfig, work: EditorWork) -> Beside:
    """One verifier, with the settings of its own. It sees source and edit, both as large as the editor makes them."""
    size = read_architecture(path)
    dtype = json.loads(path.read_text(encoding="utf-8")).get("dtype", "bfloat16")  # it is loaded as it was saved
    backbone = BackboneConfig(bf16=dtype == "bfloat16")
    side = size.patch * size.merge
    images = 2 * ((config.height or LARGE) // side) * ((config.width or LARGE) // side)
    asked = (source.traces or config.traces) * (work.rows if config.overlap else work.edits)
    written = memory.Work(
        rows=0,
        prompt=prompt_tokens(source.template or config.template, images),
        answer=source.max_tokens or config.max_tokens,
        patches=0,
        written=min(config.verify_batch, asked),
    )
    return Beside(memory.computed(backbone) * size.parameters, memory.cache(size, backbone, written))


def editor_disk(size: Counts, config: EditorGrpoConfig) -> Disk:
    """What lies on disk: in a checkpoint the trained numbers, their running mean and two states for each."""
    whole = number(config) * (size.transformer + size.frozen)
    lora = memory.FLOAT32 * size.trained if config.lora_rank else 0
    return Disk(
        model=memory.BFLOAT16 * (size.transformer + size.frozen),
        checkpoints=2 * 4 * memory.FLOAT32 * size.trained,
        result=whole + lora,
    )


def check_editor_fit(report: EditorReport, card: int) -> None:
    """Raise a `UserError` that names what to change when an editor's training does not fit a card of `card` bytes."""
    need, usable = report.memory.peak, USABLE * card
    if need > usable:
        raise UserError(
            f"[{SECTION}] needs {need / 2**30:.1f} GiB on each GPU, and {usable / 2**30:.1f} of {card / 2**30:.1f} are "
            f"usable: {editor_remedy(report, usable)}"
        )


def editor_remedy(report: EditorReport, usable: float) -> str:
    """The settings that the need depends on: the verifier if that is enough, else those of the largest part."""
    need, config = report.memory, report.config
    lora = "" if config.lora_rank else f", or set {SECTION}.lora_rank=64"
    if need.loading == need.peak:
        return f"every process loads the whole editor before it is sharded; take larger cards{lora}"
    verifier = need.beside.weights + need.beside.cache
    if verifier and need.peak - verifier <= usable:
        return f"give the verifier a GPU of its own ({SECTION}.rewards: device) or a server (endpoint)"
    if max(need.activations, need.sampling) > need.transformer + need.copies + need.optimiser + need.gradients:
        saving = "" if config.gradient_checkpointing else f"set {SECTION}.gradient_checkpointing=true, or "
        return f"{saving}lower {SECTION}.micro_batch, {SECTION}.height or {SECTION}.width"
    return ("shard over more GPUs" if config.shard else f"set {SECTION}.shard=true and take more GPUs") + lora
