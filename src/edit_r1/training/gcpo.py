"""GCPO, Group Contrastive Preference Optimization (paper section 3), on TRL's `GRPOTrainer`.

For each preference pair the policy writes N traces of the winner and N of the loser. A trace earns the share of the
other group that it is on the right side of; advantages are centred within each group, with no standard deviation and
no KL term.

Shapes: P pairs, N traces. The rows of a generation batch are ordered [P, 2, N], winner before loser.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from edit_r1.data.gold import check_agreement, gold_checks
from edit_r1.data.store import JudgedEdit, JudgedPair, read_edits, read_pairs
from edit_r1.files import disk_errors
from edit_r1.records import Failure, Principle, Provenance
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run
from edit_r1.stages import PROBE, TRAIN_PAIRS, GcpoConfig
from edit_r1.training.sft import RunLog, finish, last_checkpoint
from edit_r1.training.shared_prompts import answer_logits, padded, sample_answers, select_rows
from edit_r1.verifier.engines.transformers_engine import TransformersEngine
from edit_r1.verifier.prompting import build_prompt
from edit_r1.verifier.tiny import load_verifier_model
from edit_r1.verifier.verifier import Completion, Verifier, read_completion


def contrast(scores_P2N: Tensor) -> Tensor:
    """Inter-group rewards (paper section 3): [P, 2, N] scores, winner first, to [P, 2, N] rewards in [0, 1].

    r^w_j = share of the loser's readable traces that winner trace j scores strictly above; r^l_j = share of the
    winner's readable traces that score strictly above loser trace j. NaN marks a Failure: it earns 0 and is not counted
    among its opponents' N, and without a readable opponent a trace earns 0. (Ours: the paper does not say.)
    """
    winner, loser = scores_P2N[:, 0], scores_P2N[:, 1]
    above = winner[:, :, None] > loser[:, None, :]  # [P, N winner, N loser]; False wherever a NaN is
    readable_winner, readable_loser = (~winner.isnan()).sum(1), (~loser.isnan()).sum(1)
    reward_winner = above.sum(2) / readable_loser.clamp(min=1)[:, None]
    reward_loser = above.sum(1) / readable_winner.clamp(min=1)[:, None]
    return torch.stack([reward_winner, reward_loser], 1)


def centred(rewards_P2N: Tensor) -> Tensor:
    """Intra-group advantages (paper section 3): rewards less the mean of their own group; no standard deviation.

    TRL's `scale_rewards="none"` computes the same; a test holds the two together.
    """
    return rewards_P2N - rewards_P2N.mean(-1, keepdim=True)


class PairSampler(Sampler[int]):
    """Rows 2p (winner) and 2p + 1 (loser) of a pair, N times each and side by side: both in one generation batch.

    `pairs` wraps TRL's own order of prompts (shuffling, repetition over iterations), here over pairs.
    """

    def __init__(self, pairs: RepeatSampler, traces: int) -> None:
        self._pairs, self._traces = pairs, traces

    def __iter__(self) -> Iterator[int]:
        for pair in self._pairs:
            for row in (2 * pair, 2 * pair + 1):
                yield from [row] * self._traces

    def __len__(self) -> int:
        return 2 * self._traces * len(self._pairs)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle by the number of the epoch, so that a resumed run goes on in the order of an uninterrupted one."""
        self._pairs.generator.manual_seed((self._pairs.seed or 0) + epoch)


# An unreadable trace is expected, counted and logged as failure_rate; TRL would print each one.
logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)


class GcpoTrainer(GRPOTrainer):
    """TRL's trainer with what GCPO needs: pairs that stay together, and scores contrasted over gathered groups."""

    args: GRPOConfig
    num_generations: int
    _tokenizer: Any
    _parts: list[dict[str, Any]] | None = None  # the generation batch, in the pieces that pass through the model

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler[int]:
        data = dataset if dataset is not None else self.train_dataset
        pairs = RepeatSampler(
            data_source=range(len(data) // 2),  # pyright: ignore[reportArgumentType]  (only its length is used)
            mini_repeat_count=1,
            batch_size=(self.args.generation_batch_size or 0) // (2 * self.num_generations),
            repeat_count=self.num_iterations * (self.args.steps_per_generation or 1),
            shuffle=True,
            seed=self.args.seed,
        )
        return PairSampler(pairs, self.num_generations)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        """Prepare the N equal prompts of a group once, pictures included."""
        ids, images, fields = super()._tokenize_prompts(prompts[:: self.num_generations])
        assert images is not None
        rows = fields | {"input_ids": ids, "images": images, "num_images": [len(row) for row in images]}
        rows = select_rows(rows, [row // self.num_generations for row in range(len(prompts))])
        del rows["num_images"]
        return rows.pop("input_ids"), rows.pop("images"), rows

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Read every prompt, pictures included, once for its N traces; TRL's plain path reads it N times."""
        if self.use_vllm or self.use_transformers_continuous_batching or self.is_fsdp_enabled:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        rows = multimodal_fields | {"input_ids": prompt_ids, "num_images": [len(row) for row in images]}
        rows |= {"attention_mask": [[1] * len(ids) for ids in prompt_ids]}
        prompts = padded(
            select_rows(rows, list(range(0, len(prompt_ids), self.num_generations))),
            self._tokenizer.pad_token_id,
            self.accelerator.device,
        )
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, generation_kwargs=self.generation_kwargs
            ) as policy,
            torch.no_grad(),
        ):
            answers = sample_answers(policy, prompts, self.num_generations, self.generation_config)
        ends = set(self.eos_token_ids)
        lengths = [next((i + 1 for i, t in enumerate(row) if t in ends), len(row)) for row in answers]
        return [row[:length] for row, length in zip(answers, lengths, strict=True)], None

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        scores: Tensor = super()._calculate_rewards(*args, **kwargs)  # gathered over processes, NaN for a Failure
        grouped = scores[:, 0].view(-1, 2, self.num_generations)
        rewards = contrast(grouped)
        for name, value in group_metrics(grouped, rewards).items():
            self._metrics["train"][name].append(value)
        return rewards.view(-1, 1)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        # As TRL does in training, but for its shuffling: the traces of a prompt stay side by side, to share it below.
        parts = self.args.steps_per_generation or 1
        if self._step % (parts * self.num_iterations) == 0 or self._parts is None:
            batch = self._generate_and_score_completions(generation_batch)
            size = len(batch["num_images"]) // parts
            self._parts = [select_rows(batch, list(range(k * size, (k + 1) * size))) for k in range(parts)]
        return self._parts[self._step % parts]

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **inputs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities and entropies [R, K] of answers; TRL's plain path where a model is wrapped."""
        if args or model is not self.accelerator.unwrap_model(model) or self.args.gradient_checkpointing:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **inputs
            )
        width = input_ids.shape[1] - logits_to_keep
        prompts = {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}
        prompts |= {"num_images": inputs["num_images"], "mm_token_type_ids": inputs["mm_token_type_ids"][:, :width]}
        prompts |= {"input_ids": input_ids[:, :width], "attention_mask": attention_mask[:, :width]}
        answers, mask = input_ids[:, width:], attention_mask[:, width:]
        with self.accelerator.autocast():
            logits = answer_logits(model, prompts, answers, mask)
        log_probs = (logits.float() / self.temperature).log_softmax(-1)
        entropy = -(log_probs.detach().exp() * log_probs.detach()).sum(-1)
        return log_probs.gather(-1, answers[:, :, None])[:, :, 0], entropy, None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        # A trace with advantage 0 adds nothing to the loss or its gradient, for there is no KL term; many have it, in
        # pairs that are already told apart, or not at all. Leaving them out is exact and saves their passes.
        rows = inputs["advantages"].nonzero().flatten().tolist() or [0]
        return super()._compute_loss(model, select_rows(inputs, rows)) * (len(rows) / len(inputs["advantages"]))


def group_metrics(scores_P2N: Tensor, rewards_P2N: Tensor) -> dict[str, float]:
    """What a batch tells: accuracy of trace means on its own (noisy) labels, ties, failures, share with signal."""
    means = scores_P2N.nanmean(-1)
    margin = means[:, 0] - means[:, 1]
    known = ~margin.isnan()
    return {
        "pair_accuracy": ((margin > 0) & known).float().mean().item(),
        "pair_ties": (~known | (margin == 0)).float().mean().item(),
        "failure_rate": scores_P2N.isnan().float().mean().item(),
        "signal_share": (centred(rewards_P2N).abs().amax((1, 2)) > 0).float().mean().item(),
    }


def pair_rows(pairs: Iterator[JudgedPair], end_id: int) -> Iterator[dict[str, Any]]:
    """Two rows per decided pair, winner then loser: the prompt, and what its traces are read by."""
    for judged in pairs:
        preference = judged.preference
        if preference.choice == "same":
            continue
        both = (preference.first, preference.second)
        for edit in both if preference.choice == "first" else both[::-1]:
            prompt = build_prompt(edit.task, edit.image, edit.task.principles)
            yield {
                "images": list(prompt.images),
                "prompt": [{"role": "user", "content": prompt.text}],
                "questions": [p.question for p in edit.task.principles],
                "end_id": end_id,
            }


_UNKNOWN = Provenance("policy", "", "", "", 0)


def trace_score(completion: Completion, questions: list[str]) -> float | None:
    """The trace's own score, or None for a Failure: read as evaluation reads it."""
    verdict = read_completion(completion, [Principle(q, "follow") for q in questions], _UNKNOWN)
    return None if isinstance(verdict, Failure) else verdict.score


def score_reward(
    completions: list[Any], completion_ids: list[list[int]], questions: list[list[str]], end_id: list[int], **_: Any
) -> list[float | None]:
    """TRL's reward function: raw scores, which the trainer then contrasts."""
    texts = [completion[0]["content"] for completion in completions]
    ended = [ids[-1:] == [end] for ids, end in zip(completion_ids, end_id, strict=True)]
    said = [Completion(text, finished) for text, finished in zip(texts, ended, strict=True)]
    return [trace_score(completion, asked) for completion, asked in zip(said, questions, strict=True)]


class ProbeLog(RunLog):
    """Also measures the checks on a fixed probe set: the reasoning must not rot while the score improves."""

    def __init__(self, *args: Any, probe: list[JudgedEdit], every: int, verifier: Verifier) -> None:
        super().__init__(*args)
        self._probe, self._every, self._verifier = probe, every, verifier

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure every `every` steps."""
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step % self._every == 0:
            judgements = self._verifier.score([judged.edit for judged in self._probe], traces=2, seed=0)
            gold = [gold_checks(judged.edit, judged.truth) for judged in self._probe]
            self._run.log(state.global_step, probe_check_accuracy=check_agreement(judgements, gold))


def run(config: GcpoConfig, *, data: Path, model: Path, out: Path, seed: int, resume: bool) -> None:
    """Train the verifier in `model` on the pairs in `data`; the result is `out/model`."""
    folder = Run.open(out, config, resume, inputs={"seed": seed, "data": str(data), "model": str(model)})
    if folder.done is not None:
        return
    torch.manual_seed(seed)
    policy, processor = load_verifier_model(model)
    policy.model.visual.requires_grad_(not config.freeze_vision)
    dataset = Dataset.from_list(list(pair_rows(read_pairs(data / TRAIN_PAIRS), processor.tokenizer.eos_token_id)))
    checkpoints = out / "trainer"
    last = last_checkpoint(checkpoints) if resume else None
    done = int(last.name.split("-")[1]) if last else 0
    folder.rewind(done)
    engine = TransformersEngine(policy, processor, name=str(model), batch_size=128)
    verifier = Verifier(engine, max_tokens=config.max_tokens)
    with track("GCPO", total=config.steps, start=done) as bar:
        probe = list(read_edits(data / PROBE))
        trainer = GcpoTrainer(
            model=policy,
            reward_funcs=score_reward,
            args=_arguments(config, checkpoints, seed),
            train_dataset=dataset,
            processing_class=processor,
            callbacks=[ProbeLog(folder, bar, probe=probe, every=config.probe_every, verifier=verifier)],
        )
        trainer.remove_callback(PrinterCallback)
        with disk_errors(checkpoints):
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    finish(folder, policy, processor, {"pairs": len(dataset) // 2, "steps": config.steps})


def _arguments(config: GcpoConfig, out: Path, seed: int) -> GRPOConfig:
    rows = 2 * config.pairs_per_step * config.traces
    micro_batches = next(k for k in range(1, rows + 1) if rows % k == 0 and rows // k <= config.micro_batch)
    return GRPOConfig(
        output_dir=str(out),
        max_steps=config.steps,
        per_device_train_batch_size=rows // micro_batches,
        gradient_accumulation_steps=micro_batches,
        steps_per_generation=micro_batches,
        num_generations=config.traces,
        num_iterations=1,
        temperature=config.temperature,
        max_completion_length=config.max_tokens,
        epsilon=config.clip,
        beta=0.0,
        loss_type="grpo",
        scale_rewards="none",
        learning_rate=config.learning_rate,
        adam_epsilon=config.adam_epsilon,
        lr_scheduler_type="cosine",  # to 0, so that the last steps average the noise of the first
        max_grad_norm=config.max_grad_norm,
        weight_decay=0.0,
        save_steps=config.checkpoint_every,
        save_total_limit=1,
        logging_steps=1,
        seed=seed,
        data_seed=seed,
        bf16=False,
        gradient_checkpointing=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
