"""Imperfect teachers: each sees the truth through its own errors, and scores in its own way (paper section 2)."""

from __future__ import annotations

from dataclasses import dataclass, field

from numpy.random import Generator

from edit_r1.records import Check
from edit_r1.world.tasks import Truth, WorldTask


@dataclass(frozen=True)
class Teacher:
    """An error profile: `misses` are the shares of unmet principles called met, `alarms` the reverse, by category.

    The score is 10 * (share of met principles) ** `strictness`, plus normal noise, on the 0.5 grid.
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


def teach(rng: Generator, teacher: Teacher, task: WorldTask, truth: Truth) -> Lesson:
    """One teacher's checks and score; the evidence it quotes is always what is there, its answers may be wrong."""
    checks: list[Check] = []
    for claim, finding in zip(task.claims, truth.findings, strict=True):
        rate = teacher.alarms if finding.met else teacher.misses.get(claim.principle.category, 0.0)
        met = finding.met != (rng.random() < rate)
        checks.append(Check(claim.principle, met, finding.evidence))
    share = sum(check.met for check in checks) / len(checks)
    raw = 0.0 if truth.noop else 10 * share**teacher.strictness + rng.normal(0, teacher.spread)
    return Lesson(teacher.name, tuple(checks), min(10.0, max(0.0, round(raw * 2) / 2)))
