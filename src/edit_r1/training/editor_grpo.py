"""Editor GRPO (paper section 4): reinforcement learning of an image editor, with the verifier's score as reward.

One loop for all editors and objectives: sample -> verify -> advantage -> update -> record. docs/editor_grpo.md has the
metrics and our choices where the paper is silent.

Shapes: P tasks, G edits of each (a group), B = P * G rows ordered [P, G].
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edit_r1 import assets
from edit_r1.editors.base import Editor
from edit_r1.editors.loading import load_editor
from edit_r1.editors.pipeline import PipelineEditor
from edit_r1.errors import UserError
from edit_r1.records import Edit
from edit_r1.runs.checkpoint import load_checkpoint, save_checkpoint
from edit_r1.runs.progress import notice, track
from edit_r1.runs.run import Run, made_from, weights_of
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.editor_advantages import Advantages, advantages
from edit_r1.training.editor_groups import record_groups
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.training.editor_probe import (
    Judges,
    group_diversity,
    probe,
    raise_alarms,
    reward_metrics,
    scores,
    trace_failures,
)
from edit_r1.training.editor_rewards import (
    Reward,
    RewardFn,
    component_weights,
    reward_function,
    reward_sources,
    reward_tensor,
    verify,
)
from edit_r1.training.editor_rollout import Draw, Part, sample_groups
from edit_r1.training.editor_tasks import Tasks, edit_metrics, open_tasks, resized
from edit_r1.training.editor_update import update
from edit_r1.training.processes import console, device, gathered, mean_of, of_first, open_run, process

__all__ = ["EditorGrpoConfig", "run", "train"]


def train(
    editor: Editor, tasks: Tasks, judges: Judges, config: EditorGrpoConfig, run: Run, *, seed: int, resume: bool
) -> EditorPolicy:
    """Train the editor in place. Begins anew, or at the checkpoint of `run` where there is one.

    On several processes each has its share of the tasks, with all edits of them.

    Raises:
        UserError: no verdict of a step could be read, a reward server stays away, or the loss is not finite; the last
            checkpoint is on disk.
    """
    share = _share(config.prompts_per_step)
    policy = new_policy(editor, config, seed)
    done = _resume(policy, run) if resume and run.checkpoint.exists() else 0
    if process().is_main_process:
        run.rewind(done or -1)  # the first probe is recorded at step 0, and once
    if done == 0:
        base = probe(editor, policy, tasks.probe, judges, config, seed)
        _log(run, 0, base)
        if base and config.guards.gap is not None and not {"probe_judge", "probe_oracle_success"} & base.keys():
            notice("no editor_grpo.judge looks on: the guard `gap` has nothing to compare the reward with")
        _save(run, policy, 0)
    with track("Editor GRPO", total=config.steps, start=done, console=console()) as bar:
        for step in range(done + 1, config.steps + 1):
            metrics = _one_step(editor, policy, tasks, judges.reward, config, run, Draw(seed, step), share)
            raised: dict[str, str] = {}
            if step % config.probe_every == 0 or step == config.steps:
                metrics |= probe(editor, policy, tasks.probe, judges, config, seed)
                raised = of_first(raise_alarms(run, step, metrics, config))
            _log(run, step, metrics)
            stopped = config.guards.stop and bool(raised)
            if stopped or step % config.checkpoint_every == 0 or step == config.steps:
                _save(run, policy, step)
            if stopped:
                raise UserError(_hacked(step, raised, run))
            bar.advance(reward=metrics["reward"], kl=metrics["kl"], failures=metrics["failure_rate"])
    return policy


def _one_step(
    editor: Editor,
    policy: EditorPolicy,
    tasks: Tasks,
    reward: RewardFn,
    config: EditorGrpoConfig,
    run: Run,
    draw: Draw,
    share: range,
) -> dict[str, float]:
    """Sample -> verify -> advantage -> update -> record, of one step."""
    clock, began = _Clock(), time.monotonic()
    first = (draw.step - 1) * config.prompts_per_step
    batch = [tasks.train(first + index) for index in share]
    draw = Draw(draw.seed, draw.step, share.start)
    # DiffusionNFT samples with the mean weights: they are the old policy that its two policies lie around.
    with policy.averaged() if config.objective == "nft" else nullcontext():
        parts, rewards = verify(
            clock.timed("sample", sample_groups(editor, batch, config, draw)),
            clock.timing("verify", reward),
            overlap=config.overlap,
        )
    everyone = gathered(reward_tensor(rewards, config.group_size, config).transpose(0, 1)).transpose(0, 1)
    scores_PG = gathered(scores(rewards).view(-1, config.group_size))
    found = advantages(
        everyone,
        component_weights(config),
        scale=config.advantages,
        clip=config.advantage_clip,
        eps=config.advantage_eps,
    )
    if not bool(found.readable.any()):
        raise UserError(_unreadable(draw.step, rewards, run))
    own = slice(share.start, share.stop)
    learned: dict[str, float] = {}
    try:
        with clock.of("update"):
            for _ in range(config.updates_per_rollout):
                learned = update(
                    editor, policy, parts, found.values[own].flatten(), found.readable[own].flatten(), config
                )
    except FloatingPointError as error:
        raise UserError(_diverged(draw.step, error, config, run)) from error
    edits = [edit for part in parts for edit in part.edits]
    if process().is_main_process and (draw.step % config.groups_every == 0 or draw.step == 1):
        record_groups(run.group_dir(draw.step), edits, scores_PG[own], found.values[own])
    return (
        reward_metrics(scores_PG)
        | learned
        | mean_of(edit_metrics(edits) | group_diversity(edits, config) | trace_failures(rewards))
        | _signal(found)
        | clock.shares(time.monotonic() - began)
    )


def new_policy(editor: Editor, config: EditorGrpoConfig, seed: int) -> EditorPolicy:
    """What a run with this configuration trains of an editor."""
    if config.gradient_checkpointing:
        transformer: Any = editor.transformer
        transformer.enable_gradient_checkpointing()
    return EditorPolicy(
        editor,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        learning_rate=config.learning_rate,
        ema_decay=config.ema_decay,
        seed=seed,
        sharded=config.shard and process().num_processes > 1,
    )


def run(
    config: EditorGrpoConfig,
    *,
    data: Path,
    model: Path | None,
    verifier: Path | None,
    out: Path,
    seed: int,
    resume: bool,
) -> None:
    """Train the editor in `model` (the shipped base by default) with the verifier in `verifier` as its reward.

    `config.rewards` may name more verifiers, or all of them. Leaves `out/model` (the whole editor) and, where LoRA was
    trained, `out/lora` (for diffusers' `load_lora_weights`), both with the mean weights.
    """
    base = model or assets.EDITOR
    judging = [Path(one.folder) for one in (*config.rewards, config.judge) if one is not None and one.folder]
    used = weights_of(base, verifier, *judging)
    inputs = {"seed": seed, **made_from(data), "model": str(model), "verifier": str(verifier), **used}
    folder = open_run(out, config, resume, inputs)
    if folder.done is not None:
        return
    with folder.unless_refused():
        _share(config.prompts_per_step)
        sources = reward_sources(config, verifier)
        tasks = open_tasks(data, seed, config.probe_tasks)
        editor = _open_editor(base, config, device())
        tasks = resized(tasks, editor.width, editor.height)
        judge = reward_function([config.judge], config) if config.judge else None
        judges = Judges(reward_function(sources, config), judge)
    policy = train(editor, tasks, judges, config, folder, seed=seed, resume=resume)
    weights = policy.average()
    if process().is_main_process:
        _export(base, weights, config, out)
        last = {name: value for line in folder.metrics() for name, value in line.items() if name != "step"}
        folder.finish(
            {"steps": config.steps, "edits": config.steps * config.prompts_per_step * config.group_size, **last}
        )
    process().wait_for_everyone()


def _open_editor(folder: Path, config: EditorGrpoConfig, device: torch.device | str) -> PipelineEditor:
    """The editor, its frozen weights held in what is computed in."""
    dtype = torch.bfloat16 if config.bf16 and config.lora_rank else None
    size = {"height": config.height, "width": config.width}
    return load_editor(folder, **size, guidance=config.guidance, dtype=dtype).to(device)


def _export(base: Path, weights: dict[str, Tensor], config: EditorGrpoConfig, out: Path) -> None:
    """Put the trained weights into a fresh copy of the base: however they were trained, they are saved the same way."""
    editor = _open_editor(base, config, "cpu")
    policy = new_policy(editor, config.model_copy(update={"shard": False}), 0)
    policy.assign(weights)
    if config.lora_rank:
        policy.save_lora(editor.pipeline, out / "lora")
        policy.merge()
    editor.save(out / "model")


def _share(prompts: int) -> range:
    """Which tasks of a step are this process's."""
    here = process()
    each, rest = divmod(prompts, here.num_processes)
    if rest:
        raise UserError(
            f"prompts_per_step {prompts} cannot be shared by {here.num_processes} processes; choose a multiple of that"
        )
    return range(here.process_index * each, (here.process_index + 1) * each)


def _signal(found: Advantages) -> dict[str, float]:
    return {"signal_share": found.signal.double().mean().item()}


def _log(run: Run, step: int, metrics: dict[str, float]) -> None:
    if process().is_main_process:
        run.log(step, **metrics)


def _resume(policy: EditorPolicy, run: Run) -> int:
    """Put back the state of the last checkpoint; returns its step, which is also the position in the data."""
    tensors, state = load_checkpoint(run.checkpoint)
    policy.load(tensors, state)
    return int(state["step"])


def _save(run: Run, policy: EditorPolicy, step: int) -> None:
    """The checkpoint: weights, mean weights, optimiser, step. Nothing random has a state (`editor_rollout`)."""
    tensors, state = policy.state()
    if process().is_main_process:
        save_checkpoint(run.checkpoint, tensors, {**state, "step": step})
    process().wait_for_everyone()  # one that ends in the meantime, after an alarm, would have the first one killed


def _unreadable(step: int, rewards: Sequence[Reward], run: Run) -> str:
    kinds = sum((Counter(reward.failures) for reward in rewards), Counter[str]())
    listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    listed += next((f"; {reward.trouble}" for reward in rewards if reward.trouble), "")
    listed = listed or "they have no checks, and `categories` asks for nothing else"
    return (
        f"none of the verifier's answers in step {step} could be read ({listed}); nothing can be learned from them. "
        f"See that it is a trained verifier and that `template` is its own; the last checkpoint is {run.checkpoint}"
    )


def _hacked(step: int, raised: Mapping[str, str], run: Run) -> str:
    reasons = "; ".join(f"{name}: {sentence}" for name, sentence in raised.items())
    return (
        f"stopped at step {step}, for the editor seems to exploit its reward ({reasons}); the checkpoint is in "
        f"{run.checkpoint}. See groups/ for the pictures; --resume goes on to the next alarm"
    )


def _diverged(step: int, error: FloatingPointError, config: EditorGrpoConfig, run: Run) -> str:
    return (
        f"training diverged at step {step} ({error}), from which nothing was learned; {run.checkpoint} has the weights "
        f"from before. Lower learning_rate (now {config.learning_rate:g}) and start again in another folder"
    )


class _Clock:
    """Seconds that the parts of a step take, each in its own thread perhaps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def shares(self, total: float) -> dict[str, float]:
        """The seconds of the parts and of the step, which took `total`, and each part's share of it."""
        shares = {name.replace("seconds", "share"): seconds / total for name, seconds in self.seconds.items()}
        return self.seconds | {"seconds_step": total} | shares

    @contextmanager
    def of(self, name: str) -> Generator[None]:
        start = time.monotonic()
        yield
        self.seconds[f"seconds_{name}"] = self.seconds.get(f"seconds_{name}", 0.0) + time.monotonic() - start

    def timed(self, name: str, parts: Iterator[Part]) -> Iterator[Part]:
        while True:
            with self.of(name):
                part = next(parts, None)
            if part is None:
                return
            yield part

    def timing(self, name: str, reward: RewardFn) -> RewardFn:
        def ask(edits: Sequence[Edit]) -> list[Reward]:
            with self.of(name):
                return reward(edits)

        return ask
