"""What a verifier needs of a model: prompts in, texts out. Its only impure call, and the only one that tests fake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edit_r1.records import Failure
from edit_r1.verifier.prompting import Prompt


@dataclass(frozen=True)
class Completion:
    """One answer of a model.

    Attributes:
        text: what it wrote, without the prompt and without special tokens.
        finished: it ended by itself and was not cut off at `max_tokens`.
        score_probs: probabilities of the scores where the score stands, if the engine was asked for probabilities and
            saw a score.
        log_prob: natural logarithm of the probability of `text` at temperature 1, without its end, if the engine was
            asked for probabilities.
        failure: set when there is no answer (a dead server, a prompt that cannot be encoded); `text` is then empty.
    """

    text: str
    finished: bool
    score_probs: Mapping[float, float] | None = None
    log_prob: float | None = None
    failure: Failure | None = None


def no_answer(message: str) -> Completion:
    """The completion of a prompt that an engine could not answer."""
    return Completion(text="", finished=False, failure=Failure("engine", message))


class Engine(Protocol):
    """Anything that answers prompts. `name` and `revision` identify the model in a verdict's provenance."""

    @property
    def name(self) -> str:
        """Model id."""
        ...

    @property
    def revision(self) -> str:
        """Which weights or deployment: a commit, a version, or ""."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, seed: int, max_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        """Answer every prompt `n` times: a list of `n` completions per prompt, in the order of the prompts.

        The same arguments give the same answers where the backend allows it. Temperature 0 is greedy. Trouble with one
        prompt is a completion with a `failure`, not an exception.
        """
        ...
