"""How the shipped tiny editor was made: a VAE, text encoders that can read, then flow matching. Ours; not in the paper.

Flow matching first practises right edits, most of it near noise, where the edit is decided; then nearer to the image,
for sharpness, and a share of the targets misses what was asked, as in real edit data, so that the base holds a mixture
of right and wrong edits: good enough to be worth judging, and with modes from which reinforcement learning can choose.

Shapes: B batch, L latent tokens of D numbers, C H W image.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from edit_r1.editors.base import Conditioning, edit
from edit_r1.editors.kontext import KontextEditor
from edit_r1.editors.tiny import TinyEditorSize, build_tiny_kontext
from edit_r1.runs.checkpoint import (
    flatten_state,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
    unflatten_state,
)
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run
from edit_r1.stages import PretrainEditorConfig
from edit_r1.training.pretrain_text import garble, train_text
from edit_r1.training.pretrain_vae import to_model, train_vae
from edit_r1.training.steps import Ema, learning_rate, set_rate, update
from edit_r1.world.faults import HELDOUT_FAULT, SCENE_FAULTS, faulty_scene
from edit_r1.world.render import Array, render
from edit_r1.world.scene import Split, pick
from edit_r1.world.tasks import WorldTask, generator, judge_edits, sample_task
from edit_r1.world.words import vocabulary

_FAULTS = tuple(fault for fault in SCENE_FAULTS if fault != HELDOUT_FAULT)
_COPY_SHARE = 0.8
"""Share of untouched copies among faulty targets; the rest are of every fault. Copies are the usual failure of editors,
and the mode that reinforcement learning finds first."""
_EVALUATION_SEED = 1
_PRACTICE = (
    *("add",) * 3,
    *("replace",) * 3,
    *("text", "colour", "compound") * 2,
    *("move", "remove", "resize", "background", "tone", "style"),
)
"""Categories as often as they are trained on: what has to be painted anew takes the most practice."""
_CHANGED = 0.02  # mean square difference of normalised latents from which a token counts as changed

Example = tuple[WorldTask, Array, str]
"""A task, the image to be made of it, and the words that ask for it."""

# --- the algorithm -------------------------------------------------------------------------------------------------


def flow_matching_loss(
    editor: KontextEditor,
    target: Tensor,
    conditioning: Conditioning,
    shift: float,
    noise: torch.Generator,
    change_weight: float = 1.0,
) -> Tensor:
    """Mean squared error of the velocity at random noise levels: |v(x_t) - (x_1 - x_0)|^2, x_t = (1 - t) x_0 + t x_1.

    t is uniform, moved towards noise by `shift` e: t -> e t / (1 + (e - 1) t). Tokens in which the target differs from
    the source weigh `change_weight` times as much as the others (a weighted mean over B and L). The guidance that the
    transformer is told is random in [1, 5], one value per batch: there is nothing to distil here, and the editor must
    not mind which value a user gives.
    """
    told, editor.guidance = editor.guidance, 1 + 4 * float(torch.rand((), generator=noise))
    uniform = torch.rand(len(target), generator=noise)
    sigma_B = shift * uniform / (1 + (shift - 1) * uniform)
    ends = torch.randn(target.shape, generator=noise)
    latents = target + sigma_B[:, None, None] * (ends - target)
    velocity = editor.velocity(latents, sigma_B, conditioning)
    editor.guidance = told
    changed = (target - conditioning["reference"]).square().mean(dim=-1, keepdim=True) > _CHANGED
    weight = 1.0 + (change_weight - 1.0) * changed
    return (weight * (velocity.float() - (ends - target)).square()).mean() / weight.mean()


class NoisyEdits:
    """An endless stream of (task, target image, words): a share of right edits, the rest with a fault of the scene."""

    def __init__(self, rng: Generator, word_noise: float) -> None:
        self.rng = rng
        self.word_noise = word_noise

    def draw(self, count: int, right_share: float) -> list[Example]:
        """The next examples."""
        return [self._one(right_share) for _ in range(count)]

    def _one(self, right_share: float) -> Example:
        task = sample_task(self.rng, "train", pick(self.rng, _PRACTICE))
        if self.rng.random() < right_share:
            shown = task.operation.apply(task.scene)
        else:
            fault = "no_op" if self.rng.random() < _COPY_SHARE else pick(self.rng, _FAULTS)
            shown = faulty_scene(self.rng, task.scene, task.operation, fault)
        return task, render(shown), garble(self.rng, task.instruction, self.word_noise)


# --- measurements --------------------------------------------------------------------------------------------------


def edit_metrics(editor: KontextEditor, split: Split, count: int, steps: int, seed: int) -> dict[str, float]:
    """Oracle truth of sampled edits: success, share of principles met by category, share of untouched copies."""
    rng = generator(_EVALUATION_SEED, split)
    tasks = [sample_task(rng, split) for _ in range(count)]
    images = edit(editor, [task.record() for task in tasks], steps, seed)
    truths = judge_edits(tasks, images.permute(0, 2, 3, 1).numpy())
    metrics = {
        "oracle_success": float(np.mean([truth.success for truth in truths])),
        "noop_rate": float(np.mean([truth.noop for truth in truths])),
        "residual": float(np.mean([truth.reading.residual for truth in truths])),
    }
    for category in ("follow", "keep", "quality"):
        met = [
            finding.met
            for task, truth in zip(tasks, truths, strict=True)
            for claim, finding in zip(task.claims, truth.findings, strict=True)
            if claim.principle.category == category
        ]
        metrics[f"oracle_{category}"] = float(np.mean(met))
    return metrics


# --- the loops -----------------------------------------------------------------------------------------------------


def run(config: PretrainEditorConfig, *, out: Path, seed: int = 0, resume: bool = False) -> None:
    """Train all stages and write the editor into `out/editor`, with `metrics.json` beside its parts."""
    record = Run.open(out, config, resume, inputs={"seed": seed})
    if record.done is not None:
        return
    began = time.monotonic()
    torch.manual_seed(seed)
    pipeline: Any = build_tiny_kontext(TinyEditorSize(), vocabulary())
    metrics = train_vae(pipeline.vae, config, record, seed)
    editor = KontextEditor(pipeline, guidance=config.guidance, name="tiny-kontext")
    torch.manual_seed(seed)  # whether or not the VAE was trained just now
    if not record.checkpoint.is_file():
        metrics |= train_text(
            editor,
            np.random.default_rng([seed, 200]),
            steps=config.text_steps,
            batch=config.text_batch,
            peak_rate=config.text_learning_rate,
            word_noise=config.word_noise,
        )
    train_flow(editor, config, record, seed)
    editor.save(out / "editor")
    metrics |= edit_metrics(editor, "test", config.test_tasks, config.sampling_steps, seed)
    record.finish(metrics | {"seconds": time.monotonic() - began, "seed": seed})


def train_flow(editor: KontextEditor, config: PretrainEditorConfig, record: Run, seed: int) -> None:
    """The main stage: transformer and text encoders, jointly; leaves the average of the weights in the editor."""
    modules = nn.ModuleList([editor.transformer, editor.pipeline.text_encoder, editor.pipeline.text_encoder_2])
    modules.requires_grad_(True)
    parameters = list(modules.parameters())
    optimizer = torch.optim.AdamW(parameters, config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    ema = Ema(parameters, config.ema_decay)
    rng, noise = np.random.default_rng([seed, 100]), torch.Generator().manual_seed(seed)
    stream = NoisyEdits(rng, config.word_noise)
    state = _State(modules, optimizer, ema, {"data": rng, "noise": noise}, record)
    start = state.load()
    with track("Flow matching", config.steps, start=start) as bar:
        for step in range(start, config.steps):
            rate = learning_rate(step, config.steps, config.warmup_steps, config.decay_share)
            set_rate(optimizer, config.learning_rate * rate)
            practice = step < config.practice_share * config.steps
            examples = stream.draw(config.batch, 1.0 if practice else config.right_share)
            target, conditioning = encode_batch(editor, examples)
            shift, weight = (config.practice_shift, config.change_weight) if practice else (config.noise_shift, 1.0)
            loss = flow_matching_loss(editor, target, conditioning, shift, noise, weight)
            norm = update(optimizer, loss)
            ema.update(step)
            bar.advance(loss=float(loss.detach()))
            if (step + 1) % config.log_every == 0:
                record.log(step + 1, loss=float(loss.detach()), gradient_norm=norm)
            if (step + 1) % config.checkpoint_every == 0:
                state.save(step + 1)
                _look(editor, ema, config, record, step + 1, seed)
    ema.swap()
    modules.requires_grad_(False)


def encode_batch(editor: KontextEditor, examples: Sequence[Example]) -> tuple[Tensor, Conditioning]:
    """Target latents [B, L, D] and the conditioning of examples; gradients flow to the text encoders."""
    images = np.stack([render(task.scene) for task, _, _ in examples] + [target for _, target, _ in examples])
    source, target = editor.encode_images(to_model(images)).float().chunk(2)
    text, pooled = editor.encode_text([words for _, _, words in examples])
    return target, Conditioning({"text": text, "pooled": pooled, "reference": source})


class _State:
    """Everything that a resumed run needs: weights, optimiser, average, randomness and step."""

    def __init__(self, modules: nn.Module, optimizer: Any, ema: Ema, generators: dict[str, Any], record: Run) -> None:
        self.modules, self.optimizer, self.ema = modules, optimizer, ema
        self.generators, self.record = generators, record

    def save(self, step: int) -> None:
        tensors, optimizer = flatten_state(self.optimizer.state_dict(), "optimizer")
        tensors |= {f"model.{name}": tensor for name, tensor in self.modules.state_dict().items()}
        tensors |= {f"ema.{place}": tensor for place, tensor in enumerate(self.ema.shadow)}
        random, state = rng_state(self.generators)
        save_checkpoint(self.record.checkpoint, tensors | random, {"step": step, "optimizer": optimizer, **state})

    def load(self) -> int:
        if not self.record.checkpoint.is_file():
            self.record.rewind(0)  # the VAE's lines, whose steps are below 0, stay
            return 0
        tensors, state = load_checkpoint(self.record.checkpoint)
        own = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
        self.modules.load_state_dict(own)
        self.optimizer.load_state_dict(unflatten_state(tensors, state["optimizer"]))
        for place, shadow in enumerate(self.ema.shadow):
            shadow.copy_(tensors[f"ema.{place}"])
        set_rng_state(tensors, state, self.generators)
        self.record.rewind(state["step"])
        return state["step"]


def _look(editor: KontextEditor, ema: Ema, config: PretrainEditorConfig, record: Run, step: int, seed: int) -> None:
    """Judge the averaged weights, and keep them: early ones are the weaker editors that verifiers learn from."""
    ema.swap()
    try:
        metrics = edit_metrics(editor, "val", config.evaluation_tasks, config.sampling_steps, seed)
        editor.save(record.path / "editors" / f"{step:06d}")
    finally:
        ema.swap()
    record.log(step, **metrics)
