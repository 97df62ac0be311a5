"""The nouns of the system, shared by disk, training, evaluation and the report.

All records are frozen. Images are PIL RGB. A trace that cannot be read is a `Failure`, never a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL.Image import Image

PrincipleCategory = Literal["follow", "keep", "quality"]
Choice = Literal["first", "second", "same"]
FailureKind = Literal[
    "truncated",
    "echoed_template",
    "duplicate_principle",
    "missing_principle",
    "unknown_principle",
    "bad_answer",
    "no_score",
    "several_scores",
    "not_a_number",
    "score_out_of_range",
    "empty",
    "engine",
    "unreachable",
]


@dataclass(frozen=True)
class Principle:
    """One yes/no question about an edited image (paper section 1): following, preservation or quality.

    `weight` is used by the `weighted` and `min_geomean` aggregations only; the paper gives none.
    """

    question: str
    category: PrincipleCategory
    weight: float = 1.0


@dataclass(frozen=True)
class EditTask:
    """A source image and what to do with it. `meta` is JSON of the data set's own (the world keeps its scene there)."""

    source: Image
    instruction: str
    category: str
    principles: tuple[Principle, ...] = ()
    meta: str = ""


@dataclass(frozen=True)
class Edit:
    """What an editor made of a task."""

    task: EditTask
    image: Image
    editor: str
    seed: int


@dataclass(frozen=True)
class Check:
    """The answer to one principle, with the evidence the verifier quoted; `box` is x1, y1, x2, y2 in pixels."""

    principle: Principle
    met: bool
    reason: str
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Provenance:
    """Which model, prompt and settings made a verdict; `sampling` is JSON, `image_size` the longer side in pixels."""

    model: str
    revision: str
    prompt_hash: str
    sampling: str
    image_size: int


@dataclass(frozen=True)
class Verdict:
    """One readable trace: every principle checked once, and the trace's own score in [0, 10] (paper section 1)."""

    checks: tuple[Check, ...]
    score: float
    trace: str
    provenance: Provenance


@dataclass(frozen=True)
class Failure:
    """A trace that cannot be read, or an engine that did not answer. Left out of means, and counted."""

    kind: FailureKind
    text: str


@dataclass(frozen=True)
class Preference:
    """A judgement of two edits of the same task. In the built-in world the annotators are simulated."""

    task: EditTask
    first: Edit
    second: Edit
    choice: Choice
    annotator: str
