"""The verifier: edits in, judgements out. Two pure steps (prompt, parse) around one impure call (the engine)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from edit_r1.errors import UserError
from edit_r1.images import image_hash
from edit_r1.records import Edit, EditTask, Failure, Principle, Provenance, Verdict
from edit_r1.verifier.aggregation import find_aggregate, reduce_scores
from edit_r1.verifier.decomposers import Decomposer
from edit_r1.verifier.engines.base import Completion, Engine
from edit_r1.verifier.prompting import build_prompt, prompt_hash
from edit_r1.verifier.trace import parse_trace

__all__ = ["Completion", "Engine", "Judgement", "Verifier", "read_completion", "unread"]

_SCORE_END = "</score>"


@dataclass(frozen=True)
class Judgement:
    """What a verifier makes of one edit over several traces.

    Attributes:
        verdicts: one per trace, in order; a `Failure` where the trace could not be read.
        score: mean aggregated score of the readable traces, in [0, 10]; None when none is readable.
        spread: sample standard deviation of those scores; None with fewer than two.
        failures: how many traces could not be read.
        scores: aggregated score of each trace, None for a failure.
    """

    verdicts: tuple[Verdict | Failure, ...]
    score: float | None
    spread: float | None
    failures: int
    scores: tuple[float | None, ...] = ()


class Verifier:
    """Judges edits with a model, principle by principle.

    Args:
        engine: the model.
        template: prompt file, `compact` (tiny models) or `verify` (real VLMs).
        aggregate: `model` (the trace's own score, as the paper), `weighted`, `min_geomean`, `expected` or `confident`.
            For the last two the engine must be built with `probabilities=True`.
        temperature: of the sampling; 0 is greedy, and then all traces of an edit are alike.
        max_tokens: longest trace.
        decomposer: asked for the principles of tasks that bring none; once per (picture, instruction) and call. Wrap it
            in `decomposers.cached` to keep them between calls.
        decompose_workers: decompositions in flight at once; more than 1 only for decomposers behind a server.
        checklist: whether it is asked about principles; without them its trace is a score, and thoughts at most.

    Raises:
        UserError: no template or aggregation has that name.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        template: str = "compact",
        aggregate: str = "model",
        temperature: float = 1.0,
        max_tokens: int = 512,
        decomposer: Decomposer | None = None,
        decompose_workers: int = 1,
        checklist: bool = True,
    ) -> None:
        self._engine = engine
        self._template = template
        self._aggregate_name = aggregate
        self._aggregate = find_aggregate(aggregate)
        self._prompt_hash = prompt_hash(template)
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._decomposer = decomposer
        self._decompose_workers = max(1, decompose_workers)
        self._checklist = checklist

    def score(self, edits: Sequence[Edit], traces: int = 4, seed: int = 0) -> list[Judgement]:
        """Judge edits, all in one call of the engine.

        Args:
            edits: what to judge; the order is kept.
            traces: how many traces to sample for each edit, at least 1.
            seed: of the sampling. The same edits, settings and seed give the same traces where the engine allows it.

        Returns:
            One judgement per edit. An edit whose principles could not be found has `traces` failures and no score.

        Raises:
            UserError: an instruction is empty, or a task brings no principles and there is no decomposer.
        """
        if traces < 1:
            raise ValueError(f"traces must be at least 1, not {traces}")
        found = self.principles([edit.task for edit in edits])
        asked = [(edit, given) for edit, given in zip(edits, found, strict=True) if not isinstance(given, Failure)]
        prompts = [build_prompt(edit.task, edit.image, given, self._template) for edit, given in asked]
        answers = iter(
            self._engine.generate(
                prompts, n=traces, seed=seed, max_tokens=self._max_tokens, temperature=self._temperature
            )
            if prompts
            else []
        )
        return [
            self._judge_failed(given, traces)
            if isinstance(given, Failure)
            else self._judge(edit, given, next(answers), traces, seed)
            for edit, given in zip(edits, found, strict=True)
        ]

    def principles(self, tasks: Sequence[EditTask]) -> list[tuple[Principle, ...] | Failure]:
        """The principles of each task: its own, or the decomposer's, asked once per (picture, instruction)."""
        if not self._checklist:
            return [()] * len(tasks)
        keys = [None if task.principles else (image_hash(task.source), task.instruction) for task in tasks]
        unknown = {key: task for key, task in zip(keys, tasks, strict=True) if key is not None}
        if not unknown:
            return [task.principles for task in tasks]
        decomposer = self._decomposer
        if decomposer is None:
            raise UserError("the task has no principles and the verifier has no decomposer: give one of them")
        with ThreadPoolExecutor(self._decompose_workers) as pool:
            sources, instructions = zip(*((task.source, task.instruction) for task in unknown.values()), strict=True)
            answers = list(pool.map(decomposer.principles, sources, instructions))
        known = dict(zip(unknown, answers, strict=True))
        return [task.principles if key is None else known[key] for key, task in zip(keys, tasks, strict=True)]

    def provenance(self, edit: Edit, traces: int, seed: int) -> Provenance:
        """What a verdict on this edit records about its making."""
        settings = {
            "template": self._template,
            "aggregate": self._aggregate_name,
            "temperature": self._temperature,
            "max_tokens": self._max_tokens,
            "traces": traces,
            "seed": seed,
        }
        return Provenance(
            model=self._engine.name,
            revision=self._engine.revision,
            prompt_hash=self._prompt_hash,
            sampling=json.dumps(settings, sort_keys=True),
            image_size=max(*edit.task.source.size, *edit.image.size),
        )

    def _judge(
        self, edit: Edit, principles: tuple[Principle, ...], completions: Sequence[Completion], traces: int, seed: int
    ) -> Judgement:
        if len(completions) != traces:
            raise RuntimeError(
                f"engine {self._engine.name} gave {len(completions)} traces where {traces} were asked for"
            )
        provenance = self.provenance(edit, traces, seed)
        verdicts = tuple(read_completion(completion, principles, provenance) for completion in completions)
        scores = tuple(
            None if isinstance(verdict, Failure) else self._aggregate(verdict, completion)
            for verdict, completion in zip(verdicts, completions, strict=True)
        )
        reduced = reduce_scores(scores)
        return Judgement(verdicts, reduced.mean, reduced.spread, reduced.failures, scores)

    def _judge_failed(self, failure: Failure, traces: int) -> Judgement:
        return Judgement((failure,) * traces, None, None, traces, (None,) * traces)


def read_completion(
    completion: Completion, principles: Sequence[Principle], provenance: Provenance
) -> Verdict | Failure:
    """Parse a completion. One that was cut off is `truncated`, unless the cut came right after the end of its score."""
    return unread(completion) or parse_trace(completion.text, principles, provenance)


def unread(completion: Completion) -> Failure | None:
    """Why a completion need not be parsed: there is no answer, or it was cut off before the end of its score."""
    if completion.failure is not None:
        return completion.failure
    if not completion.finished and not completion.text.rstrip().lower().endswith(_SCORE_END):
        return Failure("truncated", completion.text)
    return None
