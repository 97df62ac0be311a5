"""Editor GRPO (paper section 4): Flow-GRPO (arXiv 2505.05470) of an image editor, with the verifier's score as reward.

Pure functions first, then one loop: sample -> verify -> advantage -> update -> record. docs/editor_grpo.md has the
metrics and our choices where the paper is silent.

Shapes: P tasks, G edits of each (a group), B = P * G rows ordered [P, G], K stochastic steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edit_r1 import assets
from edit_r1.editors.base import Conditioning, Editor, edit, to_pil
from edit_r1.editors.loading import load_editor
from edit_r1.errors import UserError
from edit_r1.flow.gaussian import kl, log_prob
from edit_r1.flow.kernels import KERNELS, Transition
from edit_r1.flow.sampling import Trajectory, sample, transition_at
from edit_r1.records import Edit, EditTask
from edit_r1.runs.checkpoint import load_checkpoint, rng_state, save_checkpoint, set_rng_state
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.editor_groups import record_groups
from edit_r1.training.editor_lora import EditorLora
from edit_r1.training.editor_tasks import Tasks, edit_metrics, open_tasks
from edit_r1.verifier.decomposers import GrammarDecomposer
from edit_r1.verifier.local import load_verifier

__all__ = ["EditorGrpoConfig", "RewardFn", "clipped_objective", "group_advantages", "run", "train"]

RewardFn = Callable[[Sequence[Edit]], list[float | None]]
"""Scores in [0, 10], None where the verifier cannot be read. A function of the edits (their seeds included) alone."""


@dataclass(frozen=True)
class GroupAdvantages:
    """`values` [P, G], 0 for unreadable members; `signal` [P], whether a group's rewards differ at all."""

    values: Tensor
    signal: Tensor


def group_advantages(rewards_PG: Tensor, *, clip: float = 5.0, eps: float = 1e-4) -> GroupAdvantages:
    """Advantages within each group (paper section 4): (reward - mean) / (std + eps), clipped to +-clip.

    NaN marks an unreadable verdict: it is in neither mean nor std and its advantage is 0. A group with fewer than two
    readable members, or with equal rewards, has no signal and advantages of exactly 0. The std is that of the
    population. (All three are ours: the paper does not say.) Float64 inside; float32 out.
    """
    readable = ~rewards_PG.isnan()
    count = readable.sum(1, keepdim=True).clamp(min=1)
    rewards = torch.where(readable, rewards_PG.double(), 0.0)
    centred = torch.where(readable, rewards - rewards.sum(1, keepdim=True) / count, 0.0)
    std = (centred.square().sum(1, keepdim=True) / count).sqrt()
    low = torch.where(readable, rewards_PG, torch.inf).amin(1)
    high = torch.where(readable, rewards_PG, -torch.inf).amax(1)
    signal = high > low
    values = torch.where(signal[:, None], (centred / (std + eps)).clamp(-clip, clip), 0.0)
    return GroupAdvantages(values.float(), signal)


def clipped_objective(log_probs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The clipped objective of one stochastic step as a loss, per row (Flow-GRPO equation 5; paper section 4).

        -min(rho A, clip(rho, 1 - eps, 1 + eps) A),     rho = exp(log_probs - old)

    Args:
        log_probs: of the rollout's step under the trained weights, [B]; with gradients.
        old: of the same step under the weights that made the rollout, [B].
        advantages: [B].
        clip: eps; it goes with the reduction of the log-probabilities (1e-4 for means).

    Returns:
        The loss [B], and where the clip binds [B]: there the row has no gradient.
    """
    ratio = (log_probs - old).exp()
    plain = ratio * advantages
    bounded = ratio.clamp(1 - clip, 1 + clip) * advantages
    return -torch.minimum(plain, bounded), bounded < plain


@dataclass(frozen=True)
class Rollout:
    """Edits of P tasks, G each, and what is needed to score their steps again.

    `parts` are the rows in the micro batches in which they went through the model: the update passes them in the same
    shapes, so that unchanged weights give bitwise the same log-probabilities.
    """

    parts: tuple[tuple[Trajectory, Conditioning], ...]
    edits: tuple[Edit, ...]


def sample_groups(
    editor: Editor, tasks: Sequence[EditTask], config: EditorGrpoConfig, generator: torch.Generator, seed: int
) -> Rollout:
    """Sample `group_size` edits of every task; each task is encoded once. `seed` only labels the edits."""
    group = config.group_size
    conditioning = editor.encode(tasks).repeat(group)
    if config.shared_noise:
        noise = editor.noise(len(tasks), generator).repeat_interleave(group, dim=0)
    else:
        noise = editor.noise(len(tasks) * group, generator)
    sigmas = editor.sigmas(config.sample_steps)
    parts: list[tuple[Trajectory, Conditioning]] = []
    edits: list[Edit] = []
    for start in range(0, len(noise), config.micro_batch):
        rows = slice(start, start + config.micro_batch)
        part = conditioning.select(rows)
        trajectory = sample(
            _velocity_fn(editor, part),
            noise[rows],
            sigmas,
            KERNELS[config.kernel],
            config.noise_level,
            generator,
            sde_steps=config.sde_steps,
            reduction=config.reduction,
        )
        parts.append((trajectory, part))
        for image in to_pil(editor.decode(trajectory.latents[-1])):
            edits.append(Edit(tasks[len(edits) // group], image, editor.name, seed))
    return Rollout(tuple(parts), tuple(edits))


def step_transition(
    editor: Editor, trajectory: Trajectory, conditioning: Conditioning, index: int, config: EditorGrpoConfig
) -> Transition:
    """The distribution of stochastic step `index` of a rollout under the editor's present weights."""
    x, sigmas = trajectory.latents[index], trajectory.sigmas
    velocity = _velocity_fn(editor, conditioning)(x, sigmas[index])
    return transition_at(KERNELS[config.kernel], x, velocity, sigmas, index, config.noise_level)


def update(
    editor: Editor, lora: EditorLora, rollout: Rollout, advantages_B: Tensor, config: EditorGrpoConfig
) -> dict[str, float]:
    """One step of the optimiser; gradients are accumulated over the rollout's micro batches and stochastic steps.

    loss = mean over rows and steps of (clipped objective + beta KL to the frozen base), both with `config.reduction`.

    Returns:
        `loss`; `kl`, in nats per step whatever the reduction (0 when beta is 0, for it is not computed then);
        `clip_share` and `ratio_shift` (mean |rho - 1|) of rows and steps; `grad_norm`, before clipping.

    Raises:
        FloatingPointError: the loss or the gradient is not finite; the weights are as before.
    """
    sums = dict.fromkeys(("loss", "kl", "clip_share", "ratio_shift"), 0.0)
    count = len(advantages_B) * len(config.sde_steps)
    first = 0
    for trajectory, conditioning in rollout.parts:
        rows = slice(first, first + len(conditioning))
        advantages = advantages_B[rows].to(trajectory.latents.device)
        for old, index in zip(trajectory.log_probs, trajectory.steps, strict=True):
            transition = step_transition(editor, trajectory, conditioning, index, config)
            log_probs = log_prob(trajectory.latents[index + 1], transition, config.reduction)
            losses, bound = clipped_objective(log_probs, old, advantages, config.clip)
            if config.beta:
                with lora.reference():
                    base = step_transition(editor, trajectory, conditioning, index, config)
                losses = losses + config.beta * kl(transition.mean, base.mean, base.std, config.reduction)
                sums["kl"] += kl(transition.mean.detach(), base.mean, base.std, "sum").sum().item()
            loss = losses.sum() / count
            loss.backward()
            sums["loss"] += loss.item() * count
            sums["clip_share"] += bound.sum().item()
            sums["ratio_shift"] += (log_probs.detach() - old).expm1().abs().sum().item()
        first = rows.stop
    metrics = {name: value / count for name, value in sums.items()}
    metrics["grad_norm"] = lora.gradient_norm(config.max_grad_norm)
    if not all(map(_finite, metrics.values())):
        raise FloatingPointError(f"loss {metrics['loss']:.3g}, gradient norm {metrics['grad_norm']:.3g}")
    lora.step()
    return metrics


def probe(
    editor: Editor, lora: EditorLora, tasks: Sequence[EditTask], reward: RewardFn, config: EditorGrpoConfig, seed: int
) -> dict[str, float]:
    """Measure the mean weights on fixed tasks, with fixed noise and deterministic sampling."""
    with lora.averaged():
        images = to_pil(edit(editor, tasks, config.probe_steps, seed, batch=config.micro_batch))
    edits = [Edit(task, image, editor.name, seed) for task, image in zip(tasks, images, strict=True)]
    metrics = reward_metrics(torch.tensor(_numbers(reward(edits)))[:, None]) | edit_metrics(edits)
    return {f"probe_{name}": value for name, value in metrics.items()}


def reward_metrics(rewards_PG: Tensor) -> dict[str, float]:
    """`reward` and `reward_std` over readable rewards (NaN without any), and `failure_rate`."""
    readable = rewards_PG[~rewards_PG.isnan()].double()
    mean = readable.mean()
    return {
        "reward": mean.item(),
        "reward_std": (readable - mean).square().mean().sqrt().item(),
        "failure_rate": rewards_PG.isnan().double().mean().item(),
    }


def train(
    editor: Editor, tasks: Tasks, reward: RewardFn, config: EditorGrpoConfig, run: Run, *, seed: int, resume: bool
) -> EditorLora:
    """Train LoRA of the editor in place; the loop. Begins anew, or at the checkpoint of `run` where there is one.

    Raises:
        UserError: the loss is not finite; the last good checkpoint is on disk.
    """
    lora = EditorLora(
        editor,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        learning_rate=config.learning_rate,
        ema_decay=config.ema_decay,
        seed=seed,
    )
    noise = torch.Generator().manual_seed(seed)
    done = 0
    if resume and run.checkpoint.exists():
        tensors, state = load_checkpoint(run.checkpoint)
        lora.load(tensors, state)
        set_rng_state(tensors, state, {"noise": noise})
        done = int(state["step"])
    run.rewind(done or -1)  # the first probe is recorded at step 0, and once
    if done == 0:
        run.log(0, **probe(editor, lora, tasks.probe, reward, config, seed))
        _save(run, lora, noise, 0)
    with track("Editor GRPO", total=config.steps, start=done) as bar:
        for step in range(done + 1, config.steps + 1):
            clock = _Clock()
            first = (step - 1) * config.prompts_per_step
            batch = [tasks.train(index) for index in range(first, first + config.prompts_per_step)]
            rollout = sample_groups(editor, batch, config, noise, _step_seed(seed, step))
            clock.lap("sample")

            rewards_PG = torch.tensor(_numbers(reward(rollout.edits))).view(-1, config.group_size)
            clock.lap("verify")

            groups = group_advantages(rewards_PG, clip=config.advantage_clip, eps=config.advantage_eps)
            learned: dict[str, float] = {}
            try:
                for _ in range(config.updates_per_rollout):
                    learned = update(editor, lora, rollout, groups.values.flatten(), config)
            except FloatingPointError as error:
                raise UserError(_diverged(step, error, config, run)) from error
            clock.lap("update")

            metrics = reward_metrics(rewards_PG) | learned | edit_metrics(rollout.edits)
            metrics["signal_share"] = groups.signal.double().mean().item()
            if step % config.probe_every == 0 or step == config.steps:
                metrics |= probe(editor, lora, tasks.probe, reward, config, seed)
            if step % config.groups_every == 0 or step == 1:
                record_groups(run.group_dir(step), rollout.edits, rewards_PG, groups.values)
            run.log(step, **metrics, **clock.seconds)
            if step % config.checkpoint_every == 0 or step == config.steps:
                _save(run, lora, noise, step)
            bar.advance(reward=metrics["reward"], kl=metrics["kl"], failures=metrics["failure_rate"])
    return lora


def run(
    config: EditorGrpoConfig, *, data: Path, model: Path | None, verifier: Path, out: Path, seed: int, resume: bool
) -> None:
    """Train the editor in `model` (the shipped base by default) with the verifier in `verifier` as its only reward.

    Leaves `out/lora` (for diffusers' `load_lora_weights`) and `out/model` (the whole editor, merged), both with the
    mean weights.
    """
    inputs = {"seed": seed, "data": str(data), "model": str(model), "verifier": str(verifier)}
    folder = Run.open(out, config, resume, inputs=inputs)
    if folder.done is not None:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    editor = load_editor(model or assets.EDITOR).to(device)
    reward = verifier_reward(verifier, config)
    tasks = open_tasks(data, seed, config.probe_tasks)
    lora = train(editor, tasks, reward, config, folder, seed=seed, resume=resume)
    lora.save(editor.pipeline, out / "lora")
    lora.merge()
    editor.save(out / "model")
    last = {name: value for line in folder.metrics() for name, value in line.items() if name != "step"}
    folder.finish({"steps": config.steps, "edits": config.steps * config.prompts_per_step * config.group_size, **last})


def verifier_reward(folder: Path, config: EditorGrpoConfig) -> RewardFn:
    """The mean score over `traces` sampled traces of a verifier; the edits' own seed is the seed of the sampling."""
    verifier = load_verifier(
        folder,
        template=config.template,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        batch_size=config.verify_batch,
        decomposer=GrammarDecomposer(),
    )

    def reward(edits: Sequence[Edit]) -> list[float | None]:
        return [judgement.score for judgement in verifier.score(edits, config.traces, edits[0].seed)]

    return reward


def _velocity_fn(editor: Editor, conditioning: Conditioning) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, sigma: editor.velocity(x, sigma, conditioning)


def _numbers(rewards: Sequence[float | None]) -> list[float]:
    return [float("nan") if reward is None else reward for reward in rewards]


def _finite(value: float) -> bool:
    return value - value == 0


def _step_seed(seed: int, step: int) -> int:
    """A seed of its own for the verifier in every step."""
    return (seed * 1_000_003 + step) % 2**31


def _save(run: Run, lora: EditorLora, noise: torch.Generator, step: int) -> None:
    """The checkpoint: weights, mean weights, optimiser, randomness; `step` is also the position in the data."""
    tensors, state = lora.state()
    random_tensors, random_state = rng_state({"noise": noise})
    save_checkpoint(run.checkpoint, tensors | random_tensors, {**state, **random_state, "step": step})


def _diverged(step: int, error: FloatingPointError, config: EditorGrpoConfig, run: Run) -> str:
    return (
        f"training diverged at step {step} ({error}); the last good weights are in {run.checkpoint}; "
        f"lower learning_rate (now {config.learning_rate:g}) and start again in another folder"
    )


class _Clock:
    """Seconds per part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[f"seconds_{name}"] = now - self._last
        self._last = now
