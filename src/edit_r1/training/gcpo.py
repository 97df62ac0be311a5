"""GCPO, Group Contrastive Preference Optimization (paper section 3), on TRL's `GRPOTrainer`.

For each preference pair the policy writes N traces of the winner and N of the loser. A trace earns the share of the
other group that it is on the right side of (`contrast`); advantages are centred within each group, with no standard
deviation and no KL term.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig

from edit_r1.data.gold import check_agreement, gold_checks
from edit_r1.data.store import JudgedPair, Records, read_edits, read_pairs, read_traces
from edit_r1.errors import UserError
from edit_r1.files import disk_errors
from edit_r1.records import Edit, Failure, Principle, Provenance, Verdict
from edit_r1.runs.progress import track
from edit_r1.runs.run import made_from, weights_of
from edit_r1.stages import PROBE, TRACES, TRAIN_PAIRS, GcpoConfig
from edit_r1.training.backbone import adapter, freeze, load_backbone, micro_batches, trainer_arguments
from edit_r1.training.gcpo_trainer import GcpoTrainer
from edit_r1.training.processes import callable_parts, console, counted, open_run, process
from edit_r1.training.sft import RunLog, finish, resume_point
from edit_r1.verifier.engines.transformers_engine import TransformersEngine
from edit_r1.verifier.prompting import build_prompt
from edit_r1.verifier.verifier import Completion, Verifier, read_completion


def pair_rows(pairs: Iterable[JudgedPair], end_id: int, template: str, *, gold: bool) -> Iterator[dict[str, Any]]:
    """Two rows per decided pair, winner then loser: the prompt, and what its traces are read by.

    With `gold` a row also holds whether each principle is met; `UserError` where nobody knows the truth.
    """
    for judged in pairs:
        preference = judged.preference
        if preference.choice == "same":
            continue
        both = [(preference.first, judged.first_truth), (preference.second, judged.second_truth)]
        for edit, truth in both if preference.choice == "first" else both[::-1]:
            prompt = build_prompt(edit.task, edit.image, edit.task.principles, template)
            if gold and not truth:
                raise UserError("check_weight needs pairs with truth, as the built-in world makes them: leave it at 0")
            yield {
                "images": list(prompt.images),
                "prompt": [{"role": "user", "content": prompt.text}],
                "questions": [p.question for p in edit.task.principles],
                "end_id": end_id,
                "gold": gold_checks(edit, truth) if gold else [],
            }


def rows_in_turn(pairs: Records[JudgedPair], end_id: int, template: str, *, gold: bool) -> Dataset:
    """`pair_rows` of decided pairs, each made when its turn comes: not all pictures may fit into memory."""

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        asked = {index // 2 for index in batch["index"]}  # of a batch every row is asked for once for every trace
        both = {pair: list(pair_rows([pairs[pair]], end_id, template, gold=gold)) for pair in asked}
        found = [both[index // 2][index % 2] for index in batch["index"]]
        return {key: [row[key] for row in found] for key in found[0]}

    return Dataset.from_dict({"index": list(range(2 * len(pairs)))}).with_transform(rows)


def check_enough(path: Path, pairs: int, config: GcpoConfig) -> None:
    """Raise a `UserError` where there are too few pairs for one step: the trainer would end without one."""
    processes = process().num_processes
    needed = config.pairs_per_step * processes
    if pairs < needed:
        raise UserError(
            f"{path} has {pairs} decided pairs, and a step takes {needed} (pairs_per_step {config.pairs_per_step} on "
            f"each of {processes} processes): lower pairs_per_step, or bring more pairs"
        )


def check_vllm(config: GcpoConfig) -> None:
    """Raise a `UserError` where vLLM should write the traces and is not here; TRL needs it for a server of it too."""
    if config.vllm != "off" and importlib.util.find_spec("vllm") is None:
        raise UserError(f'vllm = "{config.vllm}" needs the package vllm: install it, or add --set vllm=off')


_UNKNOWN = Provenance("policy", "", "", "", 0)
_PROBE_EDITS = 64  # of kept texts
Checked = tuple[Edit, list[bool]]
"""An edit, and whether each of its principles is met."""


def trace_verdict(completion: Completion, questions: list[str]) -> Verdict | Failure:
    """What a trace says, read as evaluation reads it."""
    return read_completion(completion, [Principle(q, "follow") for q in questions], _UNKNOWN)


def verdicts(
    completions: list[Any], completion_ids: list[list[int]], questions: list[list[str]], end_id: list[int]
) -> list[Verdict | Failure]:
    """The verdicts of a batch in TRL's columns; a trace is whole when it ends with its end token."""
    texts = [completion[0]["content"] for completion in completions]
    ended = [ids[-1:] == [end] for ids, end in zip(completion_ids, end_id, strict=True)]
    said = [Completion(text, finished) for text, finished in zip(texts, ended, strict=True)]
    return [trace_verdict(completion, asked) for completion, asked in zip(said, questions, strict=True)]


def score_reward(
    completions: list[Any], completion_ids: list[list[int]], questions: list[list[str]], end_id: list[int], **_: Any
) -> list[float | None]:
    """TRL's reward function: raw scores, None for a Failure; the trainer then contrasts them."""
    found = verdicts(completions, completion_ids, questions, end_id)
    return [None if isinstance(verdict, Failure) else verdict.score for verdict in found]


def check_reward(
    completions: list[Any],
    completion_ids: list[list[int]],
    questions: list[list[str]],
    end_id: list[int],
    gold: list[list[bool]],
    **_: Any,
) -> list[float | None]:
    """TRL's second reward function, for `check_weight`: the share of a trace's checks that are right."""
    found = verdicts(completions, completion_ids, questions, end_id)
    return [
        None
        if isinstance(verdict, Failure)
        else sum(c.met == met for c, met in zip(verdict.checks, truths, strict=True)) / len(truths)
        for verdict, truths in zip(found, gold, strict=True)
    ]


class ProbeLog(RunLog):
    """Also measures the checks on a fixed probe set: the reasoning must not rot while the score improves."""

    def __init__(self, *args: Any, probe: list[Checked], every: int, verifier: Verifier) -> None:
        super().__init__(*args)
        self._probe, self._every, self._verifier = probe, every, verifier

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every `every` steps, in all processes alike: each may hold a part of the weights."""
        super().on_step_end(args, state, control, **kwargs)
        if not self._probe or state.global_step % self._every:
            return
        with callable_parts(kwargs["model"]):
            judgements = self._verifier.score([edit for edit, _ in self._probe], traces=2, seed=0)
        if state.is_world_process_zero:
            agreement = check_agreement(judgements, [gold for _, gold in self._probe])
            self._run.log(state.global_step, probe_check_accuracy=agreement)


def probe_set(data: Path, traces: str | None) -> list[Checked]:
    """Edits with the true answer to each principle, of kept texts or the data's own; none without either.

    A text that agrees with gold in every check has gold's answers.

    Raises:
        UserError: `traces` holds no texts, or none of them agrees with gold wholly.
    """
    if traces is None:
        own = read_edits(data / PROBE) if (data / PROBE).is_dir() else ()
        return [(judged.edit, gold_checks(judged.edit, judged.truth)) for judged in own]
    agreed = (kept for kept in read_traces(Path(traces) / TRACES) if kept.agreement == 1)
    found: list[Checked] = []
    for kept in islice(agreed, _PROBE_EDITS):
        verdict = read_completion(Completion(kept.text, finished=True), kept.edit.task.principles, _UNKNOWN)
        if isinstance(verdict, Verdict):
            found.append((kept.edit, [check.met for check in verdict.checks]))
    if not found:
        raise UserError(f"no text in {traces} agrees with gold in every check; leave gcpo.probe out")
    return found


def run(config: GcpoConfig, *, data: Path, model: Path, out: Path, seed: int, resume: bool) -> None:
    """Train the verifier in `model` on the pairs in `data`; the result is `out/model`.

    Where `data` has a probe set with truth, the checks are measured on it along the way.

    Raises:
        UserError: `data` has fewer pairs than a step takes, or no truth where `check_weight` needs it; no vLLM.
    """
    inputs: dict[str, Any] = {"seed": seed, **made_from(data), "model": str(model), **weights_of(model), **counted()}
    if config.probe is not None:
        inputs["probe"] = made_from(Path(config.probe))["content"]
    folder = open_run(out, config, resume, inputs)
    if folder.done is not None:
        return
    with folder.unless_refused():
        check_vllm(config)
        pairs = read_pairs(data / TRAIN_PAIRS, decided=True)
        check_enough(data / TRAIN_PAIRS, len(pairs), config)
        probe = probe_set(data, config.probe)
        list(pair_rows([pairs[0]], 0, config.backbone.template, gold=config.check_weight > 0))  # data without truth
        torch.manual_seed(seed)
        policy, processor = load_backbone(model, config.backbone)
    end_id = processor.tokenizer.eos_token_id
    template, gold = config.backbone.template, config.check_weight > 0
    dataset = rows_in_turn(pairs, end_id, template, gold=gold)
    checkpoints = out / "trainer"
    last, done = resume_point(folder, resume)
    engine = TransformersEngine(policy, processor, name=str(model), batch_size=config.rows_per_step)
    verifier = Verifier(engine, template=template, max_tokens=config.max_tokens)
    with track("GCPO", total=config.steps, start=done, console=console()) as bar:
        log = ProbeLog(folder, bar, probe=probe, every=config.probe_every, verifier=verifier)
        rewards: list[Any] = [score_reward, check_reward] if gold else [score_reward]
        trainer = new_trainer(policy, processor, dataset, rewards, config, checkpoints, seed, [log])
        with disk_errors(checkpoints):
            trainer.train(resume_from_checkpoint=last)
    finish(folder, trainer, processor, {"pairs": len(pairs), "steps": config.steps})


def new_trainer(
    policy: Any,
    processor: Any,
    dataset: Dataset,
    rewards: list[Any],
    config: GcpoConfig,
    checkpoints: Path,
    seed: int,
    callbacks: list[TrainerCallback],
) -> GcpoTrainer:
    """The trainer of `policy` on `rows_in_turn`; `rewards` are functions of TRL's: of scores, and perhaps of checks."""
    if config.freeze_vision:
        freeze(policy.model.visual)
    trainer = GcpoTrainer(
        model=policy,
        reward_funcs=rewards,
        args=_arguments(config, checkpoints, seed),
        train_dataset=dataset,
        processing_class=processor,
        callbacks=callbacks,
        peft_config=adapter(config.backbone),
        settings=config,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(config: GcpoConfig, out: Path, seed: int) -> GRPOConfig:
    rows = config.rows_per_step
    parts = micro_batches(rows, config.micro_batch)
    return GRPOConfig(
        max_steps=config.steps,
        per_device_train_batch_size=rows // parts,
        gradient_accumulation_steps=parts,
        steps_per_generation=parts,
        num_generations=config.traces,
        num_iterations=config.updates_per_batch,
        reward_weights=[1.0, config.check_weight] if config.check_weight > 0 else None,
        temperature=config.temperature,
        max_completion_length=config.max_tokens,
        epsilon=config.clip,
        beta=0.0,
        loss_type=config.loss_type,
        scale_rewards=config.scale_rewards,
        use_vllm=config.vllm != "off",
        vllm_mode="server" if config.vllm == "server" else "colocate",
        vllm_server_base_url=config.vllm_server,
        vllm_server_host="127.0.0.1",  # where there is no address; TRL asks 0.0.0.0, which not every system routes
        learning_rate=config.learning_rate,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        weight_decay=0.0,
        save_steps=config.checkpoint_every,
        logging_steps=1,
        **trainer_arguments(config.backbone, out, seed),
    )
