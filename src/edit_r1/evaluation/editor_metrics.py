"""Numbers of an editor: pure functions of what the oracle reads in its edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edit_r1.evaluation.metrics import by_category, ci95
from edit_r1.records import PrincipleCategory


@dataclass(frozen=True)
class EditOutcome:
    """One sample of an editor as the oracle sees it.

    Attributes:
        truth: category of each principle and whether it is met.
        noop: the edit shows the same scene as the source.
        reward: the verifier's score, None when no trace was readable.
        group: what the bootstrap keeps together: the task.
        category: the task's category.
    """

    truth: tuple[tuple[PrincipleCategory, bool], ...]
    noop: bool
    reward: float | None
    group: str
    category: str = ""

    @property
    def success(self) -> bool:
        """Every principle is met."""
        return all(met for _, met in self.truth)

    def meets(self, category: PrincipleCategory) -> bool:
        """Every principle of the category is met; true where there is none."""
        return all(met for name, met in self.truth if name == category)


@dataclass(frozen=True)
class EditorMetrics:
    """How well an editor edits, by the oracle; all shares in [0, 1] and of edits.

    Attributes:
        oracle_success: every principle is met.
        ci95: 95% interval of `oracle_success`.
        tasks: how many different tasks.
        oracle_follow: every principle of instruction following is met. Not below `oracle_success`, as the next two.
        oracle_keep: every principle of preservation is met.
        oracle_quality: every principle of image quality is met.
        reward: the verifier's mean score in [0, 10], over edits that have one; None when none has.
        noop_rate: the edit shows the same scene as the source.
    """

    oracle_success: float
    ci95: tuple[float, float]
    tasks: int
    oracle_follow: float
    oracle_keep: float
    oracle_quality: float
    reward: float | None
    noop_rate: float

    def to_json(self) -> dict[str, Any]:
        """`E` of report.json."""
        return asdict(self) | {"ci95": list(self.ci95)}


def editor_metrics(edits: Sequence[EditOutcome], *, seed: int = 0) -> EditorMetrics:
    """All numbers of an editor. Raises `ValueError` without edits."""
    successes = [edit.success for edit in edits]
    interval = ci95(successes, [edit.group for edit in edits], seed=seed)
    rewards = [edit.reward for edit in edits if edit.reward is not None]
    return EditorMetrics(
        oracle_success=_share(successes),
        ci95=interval,
        tasks=len({edit.group for edit in edits}),
        oracle_follow=_share([edit.meets("follow") for edit in edits]),
        oracle_keep=_share([edit.meets("keep") for edit in edits]),
        oracle_quality=_share([edit.meets("quality") for edit in edits]),
        reward=float(np.mean(rewards)) if rewards else None,
        noop_rate=_share([edit.noop for edit in edits]),
    )


def edits_by_category(edits: Sequence[EditOutcome]) -> dict[str, dict[str, float]]:
    """`oracle_success` and number of `tasks` of every task category, in alphabetical order."""

    def numbers(rows: Sequence[EditOutcome]) -> dict[str, float]:
        return {"oracle_success": _share([row.success for row in rows]), "tasks": len({row.group for row in rows})}

    return by_category(edits, numbers)


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
