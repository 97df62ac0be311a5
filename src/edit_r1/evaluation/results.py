"""What the evaluations leave in a run folder, and what the report reads: the formats of its JSON files.

    demo.json                  `DemoResult`
    evaluation/verifier.json   `VerifierResult`   (or evaluation/verifier/verifier.json)
    evaluation/editor.json     `EditorResult`     (or evaluation/editor/editor.json)

Paths of images are relative to the folder of the file. Stages go by name: base, cold_start, gcpo for verifiers; base,
grpo for editors. Every part may be missing, for a stage may not have been run; other keys are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edit_r1.errors import UserError
from edit_r1.evaluation.editor_metrics import EditorMetrics
from edit_r1.evaluation.metrics import Confusion, VerifierMetrics
from edit_r1.records import PrincipleCategory

VERIFIER_STAGES = ("base", "cold_start", "gcpo")
EDITOR_STAGES = ("base", "grpo")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class CheckResult(_Record):
    """One principle as the verifier answered it; `truth` is the oracle's word, None where nobody knows."""

    question: str
    category: str
    met: bool
    reason: str = ""
    truth: bool | None = None


class EditScore(_Record):
    """What one verifier makes of one edit.

    Attributes:
        score: mean over its readable traces, in [0, 10]; None when none is readable.
        trace: the text of one of them.
        checks: of that trace; empty when it cannot be read.
        failure: why that trace cannot be read; None when it can.
    """

    score: float | None = None
    trace: str = ""
    checks: tuple[CheckResult, ...] = ()
    failure: str | None = None


class PairScores(_Record):
    """What one verifier makes of the two edits of a pair."""

    first: EditScore
    second: EditScore


class PairExample(_Record):
    """A held-out preference with the pictures and the scores of every verifier."""

    instruction: str
    category: str
    source: str
    first: str
    second: str
    choice: Literal["first", "second", "same"]
    stages: dict[str, PairScores] = Field(default_factory=dict)


class PairNumbers(_Record):
    """Agreement on the pairs of one task category."""

    pairwise_accuracy: float
    tie_half: float
    pairs: int


class VerifierResult(_Record):
    """evaluation/verifier.json."""

    stages: dict[str, VerifierMetrics] = Field(default_factory=dict)
    heldout: dict[str, VerifierMetrics] = Field(default_factory=dict)
    by_category: dict[str, dict[str, PairNumbers]] = Field(default_factory=dict)
    confusion: dict[str, dict[str, Confusion]] = Field(default_factory=dict)
    sampled: dict[str, dict[str, Confusion]] = Field(default_factory=dict)
    """The same of an editor's own edits alone."""
    weighted_tie_half: dict[str, float] = Field(default_factory=dict)
    """`tie_half` of the weighted share of met checks in place of the score."""
    costs: dict[str, dict[PrincipleCategory, float] | None] = Field(default_factory=dict)
    """Points that an unmet check costs (`costs.score_costs`)."""
    copy_score: dict[str, float | None] = Field(default_factory=dict)
    """Mean score of copies of the source (`costs.copy_score`)."""
    failures: dict[str, dict[str, int]] = Field(default_factory=dict)
    examples: tuple[PairExample, ...] = ()


class EditResult(_Record):
    """One sample of an editor, with the verifier's score and the oracle's word."""

    image: str
    score: float | None = None
    success: bool
    checks: tuple[CheckResult, ...] = ()


class EditExample(_Record):
    """One task and what each editor made of it; `goal` is the picture of the right edit, empty where there is none."""

    instruction: str
    category: str
    source: str
    goal: str | None = None
    edits: dict[str, EditResult] = Field(default_factory=dict)


class SuccessNumbers(_Record):
    """Oracle success on the tasks of one category."""

    oracle_success: float
    tasks: int


class EditorResult(_Record):
    """evaluation/editor.json."""

    stages: dict[str, EditorMetrics] = Field(default_factory=dict)
    by_category: dict[str, dict[str, SuccessNumbers]] = Field(default_factory=dict)
    examples: tuple[EditExample, ...] = ()


class DemoResult(_Record):
    """demo.json: which run this is; `seconds` is the wall-clock time of all stages."""

    preset: str | None = None
    seed: int | None = None
    split: str | None = None
    commit: str | None = None
    seconds: float | None = None
    command: str | list[str] | None = None


class StageFolder(_Record):
    """What a training stage left in its run directory; `metrics` are the lines of metrics.jsonl."""

    name: str
    metrics: tuple[dict[str, Any], ...] = ()
    config: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    done: dict[str, Any] | None = None


RecordT = TypeVar("RecordT", bound=BaseModel)


def read_result(model: type[RecordT], path: Path) -> RecordT | None:
    """Read one of the files above; None when it is missing.

    Raises:
        UserError: it is damaged, or a value is not what it should be.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise UserError(f"{path} is damaged ({what}); run its stage again") from error
