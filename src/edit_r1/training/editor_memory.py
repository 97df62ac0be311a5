"""What reinforcement learning of an editor needs of a GPU's memory, in bytes.

Parameters are counted in the editor itself, built without numbers. What passes through it is measured there too
(`dry_run`), in a transformer with one or two blocks of each kind; every further block adds what the second one did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edit_r1.editors.pipeline import PipelineEditor
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.dry_run import Gpu, Live
from edit_r1.training.editor_architecture import Description, empty_conditioning, empty_editor
from edit_r1.training.editor_grpo import new_policy
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.training.memory import FLOAT32


@dataclass(frozen=True)
class EditorWork:
    """What one process does in a step: `tasks`, all edits of them, and how many of those pass through together."""

    tasks: int
    edits: int
    rows: int


@dataclass(frozen=True)
class Beside:
    """The verifiers on the same GPU: weights, and the key-value cache of the traces that are written at once."""

    weights: int = 0
    cache: int = 0


@dataclass(frozen=True)
class EditorMemory:
    """Bytes on one GPU."""

    transformer: int
    """As held, adapters included; a part of it where it is sharded, and what FSDP2 gathers."""
    frozen: int
    """Text encoders and VAE, whole on every GPU."""
    copies: int
    """The running mean of what is trained, and the base where all weights are."""
    gradients: int
    optimiser: int
    swapped: int
    """Trained weights put aside while the mean or the base stands in; as much is AdamW's own for a moment."""
    base_swaps: bool
    """Whether that happens within an update."""
    activations: int
    """Of an update of one micro batch."""
    sampling: int
    """Of a step of sampling, or of the VAE, whichever is more."""
    rollout: int
    """Latents and conditioning of all edits of a step."""
    loading: int
    """Before anything is sharded or trained: every process holds the whole editor."""
    beside: Beside
    overlap: bool
    """Whether verifier and editor work at the same time."""

    @property
    def peak(self) -> int:
        """The most that is in use at a time: while loading, sampling, verifying or updating."""
        stays = self.transformer + self.frozen + self.copies + self.optimiser + self.rollout + self.beside.weights
        sampling = self.swapped + self.sampling
        cache = self.beside.cache
        verifying = sampling + cache if self.overlap else max(sampling, cache)
        update = self.gradients + max(self.activations + self.swapped * self.base_swaps, self.swapped)
        return max(self.loading, stays + max(verifying, update))


@dataclass(frozen=True)
class Counts:
    """Numbers, not bytes. `largest` is the largest block, `trained_of_it` what of a block is trained at most."""

    transformer: int
    frozen: int
    trained: int
    largest: int
    trained_of_it: int
    outside: int
    """Of the transformer, outside of its blocks."""


def counts(description: Description, config: EditorGrpoConfig) -> Counts:
    """The sizes of an editor and of what is trained of it, adapters apart from its own weights.

    What is trained is counted in one and two blocks of each kind, for adapting all of a large model takes its time.
    """
    editor = empty_editor(description, height=config.height, width=config.width)
    blocks = _blocks(editor.transformer)
    sizes = [_count(block.parameters()) for block in blocks]
    whole = _count(editor.transformer.parameters())
    shallow = dict.fromkeys(description.depths, 1)
    trained, in_block = _trained(description, config, shallow)
    total = trained
    for key, depth in description.depths.items():
        total += (depth - 1) * (_trained(description, config, shallow | {key: 2})[0] - trained)
    return Counts(
        transformer=whole,
        frozen=sum(
            _count(part.parameters())
            for part in editor.pipeline.components.values()
            if isinstance(part, nn.Module) and part is not editor.transformer
        ),
        trained=total,
        largest=max(sizes),
        trained_of_it=in_block,
        outside=whole - sum(sizes),
    )


def _trained(description: Description, config: EditorGrpoConfig, depths: Mapping[str, int]) -> tuple[int, int]:
    """Numbers that are trained, in all of a transformer with so many blocks and in the block that has most of them."""
    editor = empty_editor(description, height=config.height, width=config.width, depths=depths)
    policy = new_policy(editor, config, 0)
    in_blocks = [_count(p for p in block.parameters() if p.requires_grad) for block in _blocks(editor.transformer)]
    return _count(policy.parameters.values()), max(in_blocks)


def _blocks(transformer: nn.Module) -> list[nn.Module]:
    """What FSDP2 shards one by one (`processes.shard`)."""
    return [block for part in transformer.children() if isinstance(part, nn.ModuleList) for block in part]


def held_bytes(size: Counts, config: EditorGrpoConfig) -> int:
    """The transformer as `load_editor` and the policy hold it: in bfloat16 only where it is frozen."""
    adapters = FLOAT32 * size.trained if config.lora_rank else 0
    return number(config) * size.transformer + adapters


def number(config: EditorGrpoConfig) -> int:
    """Bytes of a number of an editor as it is loaded."""
    return loaded_as(config).itemsize


def loaded_as(config: EditorGrpoConfig) -> torch.dtype:
    """As training loads an editor."""
    return torch.bfloat16 if config.bf16 and config.lora_rank else torch.float32


def editor_memory(
    description: Description, config: EditorGrpoConfig, size: Counts, work: EditorWork, gpus: int, beside: Beside
) -> EditorMemory:
    """What one of `gpus` GPUs holds; with `config.shard` FSDP2 cuts the transformer and all that goes with it."""
    parts = gpus if config.shard else 1
    held, frozen, trained = held_bytes(size, config), number(config) * size.frozen, FLOAT32 * size.trained
    here = -(-trained // parts)
    # FSDP2 puts together the block at work, the next one, and what is outside of blocks; and a block's gradient.
    adapters = FLOAT32 * size.trained_of_it if config.lora_rank else 0
    gathered = 2 * (number(config) * size.largest + adapters) + number(config) * size.outside
    editor = empty_editor(description, height=config.height, width=config.width, dtype=loaded_as(config))
    return EditorMemory(
        transformer=held if parts == 1 else -(-held // parts) + gathered,
        frozen=frozen,
        copies=here if config.lora_rank else 2 * here,
        gradients=here + (FLOAT32 * size.trained_of_it if parts > 1 else 0),
        optimiser=2 * here,
        swapped=here,
        base_swaps=not config.lora_rank and config.beta > 0,
        activations=passes(description, config, work.rows),
        sampling=max(passes(description, config, work.rows, learn=False), _vae(editor, work)),
        rollout=_rollout(editor, description, config, work),
        loading=held + frozen,
        beside=beside,
        overlap=config.overlap,
    )


def passes(description: Description, config: EditorGrpoConfig, rows: int, *, learn: bool = True) -> int:
    """The most that is held while `rows` edits pass through the transformer, and back if it learns.

    Two lines over the number of blocks: what is held at the end of the forward pass, autocast's copies of trained
    weights included, and what is held at the most while the gradients come. The reference's pass, which needs no
    gradients, is below both.
    """
    depths = description.depths
    shallow = dict.fromkeys(depths, 1)
    first = _one_pass(description, config, rows, shallow, learn)
    forward, backward = first.forward, first.peak
    for key, blocks in depths.items():
        second = _one_pass(description, config, rows, shallow | {key: 2}, learn)
        forward += (blocks - 1) * (second.computed - first.computed)
        backward += (blocks - 1) * (second.kept - first.kept)
    return max(forward, backward)


@dataclass(frozen=True)
class Pass:
    """Bytes: the most of the forward pass; what is held at its end, within autocast and after it; the most of all."""

    forward: int
    computed: int
    kept: int
    peak: int


def _one_pass(
    description: Description, config: EditorGrpoConfig, rows: int, depths: Mapping[str, int], learn: bool
) -> Pass:
    editor = empty_editor(description, height=config.height, width=config.width, dtype=loaded_as(config), depths=depths)
    return one_pass(editor, new_policy(editor, config, 0), description, config, rows, learn=learn)


def one_pass(
    editor: PipelineEditor,
    policy: EditorPolicy,
    description: Description,
    config: EditorGrpoConfig,
    rows: int,
    *,
    learn: bool = True,
) -> Pass:
    """Pass `rows` edits through an editor without numbers, gradients of earlier micro batches being there."""
    transformer: Any = editor.transformer
    gpu = Gpu(config.bf16)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing(gpu.checkpoint)
    conditioning = empty_conditioning(editor, description, rows)
    x = torch.empty(rows, editor.rows * editor.columns, transformer.config.in_channels, device="meta")
    sigma = torch.empty((), device="meta")
    for parameter in policy.parameters.values():
        parameter.grad = torch.empty_like(parameter)
    gradients = [parameter.grad for parameter in policy.parameters.values() if parameter.grad is not None]
    live = Live([*transformer.parameters(), *gradients, *conditioning.tensors.values(), x, sigma])
    with live:
        with nullcontext() if learn else torch.no_grad():
            with gpu:
                velocity = editor.velocity(x, sigma, conditioning)
                forward, computed = live.peak, live.now
            kept = live.now
        if learn:
            velocity.float().square().mean().backward()
    return Pass(forward, computed, kept, live.peak)


def _vae(editor: PipelineEditor, work: EditorWork) -> int:
    """The most that the VAE holds: for the sources of all tasks at once, or for the edits of a micro batch."""
    known = list(editor.pipeline.vae.parameters())
    with Live(known) as encoding:
        editor.encode_images(torch.empty(work.tasks, 3, editor.height, editor.width, device="meta"))
    with Live(known) as decoding:
        editor.decode(
            torch.empty(
                work.rows, editor.rows * editor.columns, editor.pipeline.transformer.config.in_channels, device="meta"
            )
        )
    return max(encoding.peak, decoding.peak)


def _rollout(editor: PipelineEditor, description: Description, config: EditorGrpoConfig, work: EditorWork) -> int:
    """What is kept of a step's edits: latents of every step and means of stochastic ones in float32; conditioning.

    The conditioning is there twice, for all edits and in micro batches. DiffusionNFT keeps four tensors of a level.
    """
    latents = editor.rows * editor.columns * editor.pipeline.transformer.config.in_channels
    stochastic = len(config.sde_steps) if config.window == "fixed" else config.window_size
    tensors = config.sample_steps + 1 + (4 * config.nft_levels if config.objective == "nft" else stochastic)
    conditioning = sum(_bytes(tensor) for tensor in empty_conditioning(editor, description, 1).tensors.values())
    return work.edits * (FLOAT32 * tensors * latents + 2 * conditioning)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)
