"""Data sets: the built-in world, and for real images texts of teachers and preferences of people."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from edit_r1.config import Config

EDITS, TRAIN_PAIRS, TEST_PAIRS, HELDOUT_PAIRS, PROBE = "edits", "pairs_train", "pairs_test", "pairs_heldout", "probe"
"""The data sets of a world: the folders that `edit-r1 world make` writes into its own."""

SAMPLED = "tiny-"
"""How the editors of those edits of a world begin that the tiny editor made; the others are drawn."""

TRACES = "traces"
"""The data set of kept texts: the folder that `edit-r1 verifier traces` writes into its own."""

EDITOR_TASKS = "editor_tasks"
"""The data set of tasks for the editor: the folder that `edit-r1 editor tasks` writes into its own."""

Aggregation = Literal["model", "weighted", "min_geomean", "expected", "confident"]
"""How a trace becomes a number: `verifier.aggregation`."""
Measured = Literal["test", "val"]
"""What a loop may be measured on: `val` while settings are chosen, `test` for what is reported."""


PairFormat = Literal["jsonl", "editreward-data", "editscore-bench", "tiger-bench", "genai-bench"]
"""Formats of preferences: a manifest of one's own, and public data sets (`data/pairs/public.py`)."""


class WorldConfig(Config):
    """`[world]`: how many scenes, edits and simulated preferences the built-in world makes."""

    cold_start_edits: int = Field(default=4800, gt=0)
    train_pairs: int = Field(default=800, gt=0)
    test_pairs: int = Field(default=1000, gt=0)
    heldout_pairs: int = Field(default=200, gt=0)
    probe_edits: int = Field(default=64, gt=0)
    split: Measured = "test"
    """Where the pairs in `pairs_test` come from, and the tasks on which editors are measured."""
    editor_share: float = Field(default=0.15, ge=0, le=1)
    """Share of the edits that the tiny editor makes; faults are drawn into the others."""
    editor_steps: tuple[int, ...] = (3, 6)
    """Sampling steps of that editor, each for an equal part of its edits: fewer steps, a weaker editor."""
    label_noise: float = Field(default=0.1, ge=0, lt=0.5)
    """Share of the training pairs that a simulated annotator labels the wrong way round; held-out pairs have none."""


class ServerConfig(Config):
    """A server that speaks OpenAI's protocol; a verifier behind one is asked with the settings of its user."""

    operational: ClassVar[frozenset[str]] = frozenset({"base_url", "api_key_env", "concurrency", "timeout", "retries"})
    base_url: str
    """Of the API, as in `http://127.0.0.1:8000/v1`."""
    model: str
    """As the server calls it."""
    api_key_env: str | None = None
    """The environment variable that holds the key; without it no key is sent."""
    concurrency: int = Field(default=8, gt=0, le=100)
    """Requests in flight at once; a client keeps at most 100 connections."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one request."""
    retries: int = Field(default=4, ge=0)
    """Further tries of a request after the first, with growing pauses."""


class EndpointConfig(ServerConfig):
    """A chat model, with how it is asked."""

    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=2048, gt=0)


class TeacherConfig(EndpointConfig):
    """`[[traces.teachers]]`: a model, a manner and a temperature, which write texts on every edit."""

    name: str = Field(min_length=1)
    temperature: float = Field(default=0.7, ge=0)
    system: str = "plain"
    """The system prompt: `plain`, `strict` or `terse`, or the path of a `.txt` file of your own."""
    texts: int = Field(default=1, gt=0)
    """Texts on each edit."""


class GoldConfig(EndpointConfig):
    """`[traces.gold]`: the stronger model whose answers decide which text is kept. Its scores are not used."""

    system: str = "gold"


class TracesConfig(Config):
    """`[traces]`: texts of teachers on real edits, of which gold keeps one for each (paper section 2)."""

    operational: ClassVar[frozenset[str]] = frozenset({"give_up_after"})
    template: Literal["compact", "verify"] = "verify"
    """The prompt of teachers and gold; `compact` is for tiny verifiers."""
    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    gold: GoldConfig
    decomposer: EndpointConfig | None = None
    """Names the principles of edits that bring none; gold's endpoint by default, without its system prompt."""
    give_up_after: int = Field(default=10, gt=0)
    """So many requests in a row without an answer, retries included in each, and an endpoint is left alone."""

    @field_validator("teachers")
    @classmethod
    def _distinct(cls, teachers: tuple[TeacherConfig, ...]) -> tuple[TeacherConfig, ...]:
        if len({teacher.name for teacher in teachers}) < len(teachers):
            raise ValueError("must have different names")
        return teachers


class PairsConfig(Config):
    """`[pairs]`: preferences of people over real edits, made ready for GCPO (paper section 3)."""

    operational: ClassVar[frozenset[str]] = frozenset({"give_up_after"})
    test_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the source images whose pairs are held out, as `pairs_test`; 1 for a bench."""
    decomposer: EndpointConfig | None = None
    """Names the principles of pairs that bring none."""
    give_up_after: int = Field(default=10, gt=0)
    """So many requests in a row without an answer, retries included in each, and the decomposer is left alone."""


class TasksConfig(Config):
    """`[tasks]`: pictures and instructions of one's own, made ready for editor GRPO."""

    operational: ClassVar[frozenset[str]] = frozenset({"give_up_after"})
    decomposer: EndpointConfig | None = None
    """Names the principles of tasks that bring none."""
    give_up_after: int = Field(default=10, gt=0)
    """So many requests in a row without an answer, retries included in each, and the decomposer is left alone."""


class SamplingConfig(Config):
    """How an editor makes an edit."""

    steps: int = Field(default=28, gt=0)
    """Sampling steps; the tiny editor wants 5."""
    height: int | None = Field(default=None, gt=0)
    """In pixels, as in `[editor_grpo]`; by default the editor's own. An edit has this area, in its source's shape."""
    width: int | None = Field(default=None, gt=0)
    guidance: float | None = Field(default=None, ge=0)
    """How strongly the editor follows the instruction (docs/editors.md); by default as its adapter says."""
    bf16: bool = False
    """Hold and compute the editor in bfloat16."""


class SampleConfig(SamplingConfig):
    """`[sample]`: edits of one's own tasks by an editor."""

    per_task: int = Field(default=1, gt=0)
