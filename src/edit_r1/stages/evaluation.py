"""Measurements."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from edit_r1.config import Config
from edit_r1.stages.data import Aggregation, EndpointConfig, Measured, SamplingConfig, ServerConfig


class EvaluateConfig(Config):
    """`[evaluate]`: how many held-out pairs, tasks and traces both evaluations use."""

    pairs: int = Field(default=1000, gt=0)
    base_pairs: int = Field(default=100, gt=0)
    """Pairs for the untrained base, of either kind, whose traces are failures: fewer tell as much."""
    heldout_pairs: int = Field(default=200, gt=0)
    template: Literal["compact", "verify"] = "compact"
    traces: int = Field(default=4, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    max_tokens: int = Field(default=160, gt=0)
    batch_size: int = Field(default=128, gt=0)
    tasks: int = Field(default=300, gt=0)
    editor_steps: int = Field(default=5, gt=0)
    """Sampling steps of editors, as many as they are trained with."""
    examples: int = Field(default=8, gt=0)


class CalibrationConfig(Config):
    """`[calibration]`: what more traces buy."""

    pairs: int = Field(default=300, gt=0)
    template: Literal["compact", "verify"] = "compact"
    traces: tuple[PositiveInt, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    """Numbers of traces per edit; the largest is drawn, and its first ones are the others."""
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=160, gt=0)
    batch_size: int = Field(default=128, gt=0)


class SanityConfig(Config):
    """`[sanity]`: the attacks that a verifier must withstand before an editor is trained with it.

    The defaults ask it as the editor's training does, for one greedy trace, and take the score as it is written.
    """

    tasks: int = Field(default=200, gt=0)
    template: Literal["compact", "verify"] = "compact"
    traces: int = Field(default=1, gt=0)
    aggregate: Aggregation = "model"
    """How a trace becomes a number; of the reward that an editor is trained with where that is another."""
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=160, gt=0)
    batch_size: int = Field(default=128, gt=0)


class BestOfConfig(Config):
    """`[best_of]`: how much a choice among N edits gains.

    The defaults ask the verifier as the editor's training does: one greedy trace.
    """

    split: Measured = "test"
    """Where the tasks come from."""
    tasks: int = Field(default=300, gt=0)
    candidates: int = Field(default=16, gt=0)
    """Edits of each task; N is every power of two up to this number, and the number itself."""
    steps: int = Field(default=5, gt=0)
    """Sampling steps of the editor."""
    template: Literal["compact", "verify"] = "compact"
    traces: int = Field(default=1, gt=0)
    aggregate: Aggregation = "confident"
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=160, gt=0)
    batch: int = Field(default=128, gt=0)
    """Edits that go through the verifier together, and at most through the editor."""


class EditsConfig(Config):
    """`[edits]`: editors compared by a verifier, on edits of one's own tasks."""

    operational: ClassVar[frozenset[str]] = frozenset({"give_up_after"})
    endpoint: ServerConfig | None = None
    """A verifier behind a server, where the command line names no folder; asked with the settings below."""
    decomposer: EndpointConfig | None = None
    """Names the principles of tasks that bring none."""
    give_up_after: int = Field(default=10, gt=0)
    """So many requests in a row without an answer, retries included in each, and the decomposer is left alone."""
    template: Literal["compact", "verify"] = "verify"
    """The prompt; `compact` is for tiny verifiers."""
    traces: int = Field(default=4, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    max_tokens: int = Field(default=1024, gt=0)
    batch: int = Field(default=16, gt=0)
    """Edits that are judged together; what an interruption may lose."""


class EditConfig(SamplingConfig):
    """`[edit]`: one picture, how it is edited, and the verifier that is asked about the edits.

    The defaults are for the built-in world. Of this section `edit-r1 score` takes what is the verifier's,
    but for `traces`, which it has as an option.
    """

    steps: int = Field(default=5, gt=0)
    """Sampling steps; FLUX.1-Kontext wants about 28."""
    traces: int = Field(default=1, gt=0)
    """Traces on each of several edits: one is greedy, several are sampled and averaged."""
    template: Literal["compact", "verify"] = "compact"
    """The prompt; `verify` is for real verifiers."""
    max_tokens: int = Field(default=160, gt=0)
    endpoint: ServerConfig | None = None
    """A verifier behind a server, where the command line names no folder; asked with the settings above."""
    decomposer: EndpointConfig | None = None
    """Names the principles; without it they come from the grammar of the built-in world."""
