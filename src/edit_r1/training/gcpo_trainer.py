"""TRL's `GRPOTrainer` with what GCPO needs: pairs that stay together, scores contrasted over gathered groups.

Shapes: P pairs, N traces. The rows of a generation batch are ordered [P, 2, N], winner before loser.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from edit_r1.errors import UserError
from edit_r1.stages import GcpoConfig
from edit_r1.training.contrast import contrast, group_metrics, pointwise
from edit_r1.training.shared_prompts import answer_logits, joined, padded, sample_answers, select_rows, without_adapter


class PairSampler(Sampler[int]):
    """Rows 2p (winner) and 2p + 1 (loser) of a pair, N times each and side by side: both in one generation batch.

    `pairs` wraps TRL's own order of prompts (shuffling, repetition over iterations), here over pairs.
    """

    def __init__(self, pairs: RepeatSampler, traces: int) -> None:
        self._pairs, self._traces = pairs, traces

    def __iter__(self) -> Iterator[int]:
        for pair in self._pairs:
            yield from rows_of(pair, self._traces)

    def __len__(self) -> int:
        return 2 * self._traces * len(self._pairs)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle by the number of the epoch, so that a resumed run goes on in the order of an uninterrupted one."""
        self._pairs.generator.manual_seed((self._pairs.seed or 0) + epoch)


def rows_of(pair: int, traces: int) -> list[int]:
    """The rows of a pair, each once for every trace."""
    return [2 * pair] * traces + [2 * pair + 1] * traces


# An unreadable trace is expected, counted and logged as failure_rate; TRL would print each one.
logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)


_ROUNDING, _SCALED_ROUNDING = 1e-5, 1e-2
"""Advantages of a group that differ by less do so by rounding; the latter where its own deviation divides them."""


class GcpoTrainer(GRPOTrainer):
    """See the module. `settings` says how scores become rewards, and whether pairs without signal are replaced."""

    args: GRPOConfig
    num_generations: int
    _tokenizer: Any
    _parts: list[dict[str, Any]] | None = None  # the generation batch, in the pieces that pass through the model
    _pairs: PairSampler

    def __init__(self, *args: Any, settings: GcpoConfig, **kwargs: Any) -> None:
        self._settings = settings
        super().__init__(*args, **kwargs)

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
        self._pairs = PairSampler(pairs, self.num_generations)
        return self._pairs

    def get_train_dataloader(self) -> DataLoader[Any]:
        """TRL's, in which several processes find the sampler too where a resumed run skips what it has seen."""
        loader: Any = super().get_train_dataloader()
        if self.accelerator.num_processes > 1:
            loader.set_sampler(self._pairs)
        return loader

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
            answers = sample_answers(without_adapter(policy), prompts, self.num_generations, self.generation_config)
        ends = set(self.eos_token_ids)
        lengths = [next((i + 1 for i, t in enumerate(row) if t in ends), len(row)) for row in answers]
        return [row[:length] for row, length in zip(answers, lengths, strict=True)], None

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = super()._calculate_rewards(*args, **kwargs)  # gathered over processes, NaN for a Failure
        scores = found[:, 0].view(-1, 2, self.num_generations)
        settings = self._settings
        contrasts = settings.reward == "contrast"
        own = contrast(scores, settings.margin, settings.tie_credit) if contrasts else pointwise(scores)
        rewards = torch.cat([own.view(-1, 1), found[:, 1:].nan_to_num(0.0)], dim=1)
        total = (rewards * self.reward_weights.to(rewards.device)).sum(1)
        for name, value in group_metrics(scores, total.view_as(scores)).items():
            self._metrics["train"][name].append(value)
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        # The mean of equal rewards may miss them by a rounding, which a standard deviation then makes large.
        groups = batch["advantages"].view(-1, self.num_generations)
        least = _SCALED_ROUNDING if self.scale_rewards == "group" else _ROUNDING
        flat = groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True) < least
        batch["advantages"] = groups.masked_fill(flat, 0.0).flatten()
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        # As TRL does in training, but for its shuffling: the traces of a prompt stay side by side, to share it below.
        parts = self.args.steps_per_generation or 1
        if self._step % (parts * self.num_iterations) == 0 or self._parts is None:
            batch = self._refilled(self._generate_and_score_completions(generation_batch))
            size = len(batch["num_images"]) // parts
            self._parts = [select_rows(batch, list(range(k * size, (k + 1) * size))) for k in range(parts)]
        return self._parts[self._step % parts]

    def _refilled(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Dynamic sampling: pairs without any advantage give way to others, from at most `refills` further batches."""
        rows, total = 2 * self.num_generations, len(batch["num_images"])
        if self._settings.refills and total % rows:
            raise UserError(f"refills needs whole pairs on every process: {total} traces are not a multiple of {rows}")
        for attempt in range(self._settings.refills):
            dead = (~_signal(batch, rows)).nonzero().flatten().tolist()
            wanted: Any = self.accelerator.gather(torch.tensor([len(dead)], device=self.accelerator.device))
            if not wanted.any():
                break
            fresh = self._generate_and_score_completions(self._other_pairs(attempt, total // rows))
            places = dict(zip(dead, _signal(fresh, rows).nonzero().flatten().tolist(), strict=False))
            chosen = [
                pair * rows + row + (total if place in places else 0)
                for place in range(total // rows)
                for pair in [places.get(place, place)]
                for row in range(rows)
            ]
            batch = joined(batch, fresh, chosen, self._tokenizer.pad_token_id)
        return batch

    def _other_pairs(self, attempt: int, count: int) -> list[dict[str, Any]]:
        """Rows of pairs drawn at random, the same in a resumed run; each process draws its own."""
        place = (self.args.seed, self.state.global_step, attempt, self.accelerator.process_index)
        data: Any = self.train_dataset
        drawn = random.Random(repr(place)).sample(range(len(data) // 2), count)
        return data.__getitems__([row for pair in drawn for row in rows_of(pair, self.num_generations)])

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **inputs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities and entropies [R, K] of answers, `batch_size` rows at a time.

        TRL's plain path is taken where a model is wrapped, or sharded.
        """
        wrapped = self.is_fsdp_enabled or model is not self.accelerator.unwrap_model(model)
        if wrapped or self.args.gradient_checkpointing:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **inputs
            )
        total, width = len(input_ids), input_ids.shape[1] - logits_to_keep
        prompts = {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}
        prompts |= {"num_images": inputs["num_images"], "mm_token_type_ids": inputs["mm_token_type_ids"][:, :width]}
        prompts |= {"input_ids": input_ids[:, :width], "attention_mask": attention_mask[:, :width]}
        answers, mask = input_ids[:, width:], attention_mask[:, width:]
        log_probs, entropies = [], []
        for rows in torch.arange(total).split(batch_size or total):
            part = prompts if len(rows) == total else select_rows(prompts, rows.tolist())
            found, entropy = self._read_answers(model, part, answers[rows], mask[rows], compute_entropy)
            log_probs.append(found)
            entropies.append(entropy)
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None

    def _read_answers(
        self, model: Any, prompts: dict[str, Any], answers: Tensor, mask: Tensor, compute_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        with self.accelerator.autocast():
            logits = answer_logits(without_adapter(model), prompts, answers, mask)
        log_probs = (logits.float() / self.temperature).log_softmax(-1)
        known = log_probs.detach()
        entropy = -(known.exp() * known).sum(-1) if compute_entropy else None
        return log_probs.gather(-1, answers[:, :, None])[:, :, 0], entropy

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        # A trace with advantage 0 adds nothing to the loss or its gradient, for there is no KL term; many have it, in
        # pairs that are already told apart, or not at all. Leaving them out is exact and saves their passes.
        # Every process passes as many, for TRL gathers what it measures of them.
        advantages: Tensor = inputs["advantages"]
        counts: Any = self.accelerator.gather(advantages.count_nonzero())
        most = max(1, int(counts.max()))
        rows = sorted(advantages.abs().argsort(descending=True, stable=True)[:most].tolist())
        loss = super()._compute_loss(model, select_rows(inputs, rows)) * (most / len(advantages))
        if not counts.any():  # one trace has passed so that there is a loss: nothing is learnt from it, or measured
            for name, values in self._metrics["train"].items():
                if name == "entropy" or name.startswith("clip_ratio/"):
                    values.pop()
        return loss


def _signal(batch: dict[str, Any], rows: int) -> Tensor:
    """Which pairs of a batch have an advantage that is not 0."""
    return batch["advantages"].view(-1, rows).any(1)
