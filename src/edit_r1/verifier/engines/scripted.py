"""An engine that answers from a list or a function: for tests, and for replaying recorded traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from edit_r1.verifier.engines.base import Completion, no_answer
from edit_r1.verifier.prompting import Prompt

Answer = str | Completion
Script = Callable[[Prompt, int, int], Answer]
"""(prompt, number of the sample from 0, seed) -> answer."""


class ScriptedEngine:
    """Answers from `script`: a function, or a list that is handed out in order, prompt by prompt, sample by sample.

    A plain text counts as finished. Past the end of a list every answer is an engine failure. `calls` records every
    prompt that was asked.
    """

    def __init__(self, script: Script | Sequence[Answer], *, name: str = "scripted", revision: str = "") -> None:
        self.name = name
        self.revision = revision
        self.calls: list[Prompt] = []
        self._script: Script = script if callable(script) else _from_list(script)

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, seed: int, max_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        """See `Engine.generate`; `max_tokens` and `temperature` change nothing."""
        self.calls.extend(prompts)
        return [[_completion(self._script(prompt, sample, seed)) for sample in range(n)] for prompt in prompts]


def _from_list(answers: Sequence[Answer]) -> Script:
    rest: Iterator[Answer] = iter(answers)
    return lambda _prompt, _sample, _seed: next(rest, no_answer("the script has no further answers"))


def _completion(answer: Answer) -> Completion:
    return answer if isinstance(answer, Completion) else Completion(text=answer, finished=True)
