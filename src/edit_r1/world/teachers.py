"""Imperfect teachers: each sees the truth through its own errors, and scores in its own way (paper section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from numpy.random import Generator

from edit_r1.records import Check, Principle
from edit_r1.world.tasks import Truth


@dataclass(frozen=True)
class Teacher:
    """An error profile: `misses` are the shares of unmet principles called met, `alarms` the reverse, by category.

    The score is 10 * (share of met checks) ** `strictness`, plus normal noise, on the 0.5 grid; 0 for a copy.
    """

    name: str
    misses: dict[str, float] = field(default_factory=dict[str, float])
    alarms: float = 0.02
    strictness: float = 1.0
    spread: float = 0.5


TEACHERS = (
    Teacher("plain", {"follow": 0.08, "keep": 0.15, "quality": 0.10}),
    Teacher("lenient", {"follow": 0.05, "keep": 0.30, "quality": 0.30}, alarms=0.01, strictness=0.6, spread=0.8),
    Teacher("strict", {"follow": 0.10, "keep": 0.05, "quality": 0.05}, alarms=0.10, strictness=1.8, spread=0.8),
)


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of one edit."""

    teacher: str
    checks: tuple[Check, ...]
    score: float


def teach(
    rng: Generator,
    teacher: Teacher,
    principles: Sequence[Principle],
    truth: Truth,
    weights: Mapping[str, float] | None = None,
) -> Lesson:
    """One teacher's checks and score; the evidence it quotes is always what is there, its answers may be wrong.

    `principles` are those that `truth` has findings of, `weights` those of the checks in the score, by category: by
    default all count alike, as no annotator counts them (`annotators.COST`).
    """
    checks: list[Check] = []
    for principle, finding in zip(principles, truth.findings, strict=True):
        rate = teacher.alarms if finding.met else teacher.misses.get(principle.category, 0.0)
        met = finding.met != (rng.random() < rate)
        checks.append(Check(principle, met, finding.evidence))
    each = [weights[check.principle.category] if weights else 1.0 for check in checks]
    share = sum(weight for weight, check in zip(each, checks, strict=True) if check.met) / sum(each)
    raw = 0.0 if truth.noop else 10 * share**teacher.strictness + rng.normal(0, teacher.spread)
    return Lesson(teacher.name, tuple(checks), min(10.0, max(0.0, round(raw * 2) / 2)))
