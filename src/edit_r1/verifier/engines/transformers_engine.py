"""Verifier in this process: batched sampling with a `transformers` vision-language model, tiny or real."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from edit_r1.errors import UserError
from edit_r1.verifier.engines.base import Completion, no_answer
from edit_r1.verifier.engines.watches import ScoreTokens, ScoreWatch, TextWatch
from edit_r1.verifier.prompting import Prompt, chat_message


class TransformersEngine:
    """Samples from `model` through `processor`, with left padding and no other randomness than the seed.

    The model's own generation defaults (top-k, top-p, repetition penalty) are switched off, so that `temperature` alone
    shapes the distribution, as the policy gradient of GCPO assumes.

    Args:
        model: a generative vision-language model of transformers (Qwen-VL classes); its device is used as it is.
        processor: called as `processor(text=[...], images=[[source, edited], ...], return_tensors="pt", padding=True)`;
            has `tokenizer` and `apply_chat_template`.
        name: model id for the provenance; by default the path that the model was loaded from.
        revision: commit or version of the weights.
        batch_size: rows (prompts x samples) generated at once. Part of what a seed means: another size, other samples.
        probabilities: fill `Completion.score_probs` and `Completion.log_prob`, for the aggregations `expected` and
            `confident`; before temperature.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str | None = None,
        revision: str = "",
        batch_size: int = 64,
        probabilities: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}: it must be at least 1")
        self.name = name or str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
        self.revision = revision
        self._model = model
        self._processor = processor
        self._tokenizer: Any = processor.tokenizer
        self._batch_size = batch_size
        self._score_tokens = ScoreTokens(self._tokenizer) if probabilities else None

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, seed: int, max_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        """See `Engine.generate`. The global random state is left as it was.

        Prompts of similar length share a batch, for a batch takes as long as its longest answer.

        Raises:
            UserError: the accelerator ran out of memory.
        """
        if not prompts or n < 1:
            return [[] for _ in prompts]
        draws = n if temperature > 0 else 1  # greedy samples are all alike: make one, hand it out n times
        completions: list[list[Completion]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].text))
        with _seeded(seed, self._model.device), _evaluating(self._model), _left_padding(self._tokenizer):
            for start, stop, rows in _batches(len(prompts), draws, self._batch_size):
                chosen = order[start:stop]
                made = self._answer([prompts[index] for index in chosen], rows, max_tokens, temperature)
                for index, found in zip(chosen, made, strict=True):
                    completions[index].extend(found)
        return [found * n if draws < n else found for found in completions]

    def _answer(self, prompts: Sequence[Prompt], n: int, max_tokens: int, temperature: float) -> list[list[Completion]]:
        """One batch. If it cannot be encoded, each prompt is tried alone, and the ones at fault become failures."""
        try:
            inputs = self._encode(prompts)
        except (ValueError, IndexError, OSError) as error:
            if len(prompts) == 1:
                return [[no_answer(f"the prompt cannot be encoded: {error}")] * n]
            return [found for prompt in prompts for found in self._answer([prompt], n, max_tokens, temperature)]
        try:
            return self._sample(inputs, n, max_tokens, temperature)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of memory with batch_size {self._batch_size}: lower it, or the size of the images"
            ) from error

    def _encode(self, prompts: Sequence[Prompt]) -> Any:
        texts = [
            self._processor.apply_chat_template(
                [chat_message(prompt.text, len(prompt.images))], add_generation_prompt=True, tokenize=False
            )
            for prompt in prompts
        ]
        images = [list(prompt.images) for prompt in prompts]
        return self._processor(text=texts, images=images, return_tensors="pt", padding=True).to(self._model.device)

    def _sample(self, inputs: Any, n: int, max_tokens: int, temperature: float) -> list[list[Completion]]:
        width = inputs["input_ids"].shape[1]
        score, text = None, None
        if self._score_tokens is not None:
            score, text = ScoreWatch(self._score_tokens, width), TextWatch(self._end_ids(), width)
        prompt_of = torch.arange(len(inputs["input_ids"]), device=self._model.device).repeat_interleave(n)
        with torch.no_grad():
            tokens: Tensor = self._model.generate(
                **(prefilled(self._model, inputs, prompt_of) if n > 1 else inputs),
                generation_config=self._settings(max_tokens, temperature),
                logits_processor=LogitsProcessorList([score, text] if score and text else []),
            )
        rows = tokens[:, width:].tolist()
        log_probs = text.log_probs.tolist() if text else [None] * len(rows)
        completions = [
            self._completion(row, score.seen.get(i) if score else None, log_prob)
            for i, (row, log_prob) in enumerate(zip(rows, log_probs, strict=True))
        ]
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _settings(self, max_tokens: int, temperature: float) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=temperature > 0,
            temperature=temperature if temperature > 0 else 1.0,
            top_k=0 if temperature > 0 else 50,
            top_p=1.0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            num_beams=1,
            use_cache=True,
            pad_token_id=self._pad_id(),
            eos_token_id=sorted(self._end_ids()),
        )

    def _end_ids(self) -> set[int]:
        """Ids that end an answer: the model's own, and the tokenizer's."""
        own = getattr(self._model.generation_config, "eos_token_id", None)
        ids = set(own if isinstance(own, list) else [own]) | {self._tokenizer.eos_token_id}
        return {int(i) for i in ids if i is not None}

    def _pad_id(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(pad) if pad is not None else min(self._end_ids())

    def _completion(self, row: list[int], seen: tuple[int, Tensor] | None, log_prob: float | None) -> Completion:
        ends = self._end_ids()
        length = next((i for i, token in enumerate(row) if token in ends), len(row))
        text = str(self._tokenizer.decode(row[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False))
        probs = None
        if seen is not None and self._score_tokens is not None and seen[0] < length:
            probs = self._score_tokens.read(row[:length], *seen)
        return Completion(text=text, finished=length < len(row), score_probs=probs, log_prob=log_prob)


def prefilled(model: Any, inputs: Mapping[str, Any], prompt_of: Tensor) -> dict[str, Any]:
    """What `model.generate` needs for several samples of a prompt when every prompt, pictures included, is read once.

    The key-value cache of all but the last prompt token is repeated, and so are the offsets of Qwen-VL's positions:
    sample i is of prompt `prompt_of[i]`.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    per_token = {key: value[:, :-1] for key, value in inputs.items() if value.shape == ids.shape}
    cache = model(**{**inputs, **per_token}, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_select_indices(prompt_of)
    model.model.rope_deltas = model.model.rope_deltas[prompt_of]
    return {"input_ids": ids[prompt_of], "attention_mask": mask[prompt_of], "past_key_values": cache}


def _batches(prompts: int, n: int, rows: int) -> Iterator[tuple[int, int, int]]:
    """(first prompt, one past the last prompt, samples of each) so that no batch has more than `rows` rows."""
    if n <= rows:
        per_batch = rows // n
        for start in range(0, prompts, per_batch):
            yield start, min(prompts, start + per_batch), n
        return
    for prompt in range(prompts):
        for done in range(0, n, rows):
            yield prompt, prompt + 1, min(rows, n - done)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Generator[None]:
    """Seed torch for the block, and give every random state back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def _evaluating(model: Any) -> Generator[None]:
    training = bool(model.training)
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _left_padding(tokenizer: Any) -> Generator[None]:
    """Generation needs the prompt's end at the right edge; a trainer that shares the tokenizer may not."""
    side = tokenizer.padding_side
    tokenizer.padding_side = "left"
    try:
        yield
    finally:
        tokenizer.padding_side = side
