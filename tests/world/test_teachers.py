"""Imperfect teachers: their measured errors, their scores, and which of their texts is kept."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edit_r1.verifier.selection import agreement, select
from edit_r1.world.annotators import COST
from edit_r1.world.faults import candidate, draw_faults
from edit_r1.world.oracle import Reading
from edit_r1.world.tasks import Truth, WorldTask, generator, sample_task
from edit_r1.world.teachers import TEACHERS, Teacher, teach


@pytest.fixture(scope="module")
def edits() -> list[tuple[WorldTask, Truth]]:
    rng = generator(0, "train")
    found: list[tuple[WorldTask, Truth]] = []
    for _ in range(4000):
        task = sample_task(rng, "train")
        made = candidate(rng, task.scene, task.operation, draw_faults(rng))
        found.append((task, task.judge(Reading(made.scene, made.defects, 0.0))))
    return found


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda teacher: teacher.name)
def test_measured_errors_are_the_profile(teacher: Teacher, edits: list[tuple[WorldTask, Truth]]) -> None:
    """Misses by category and false alarms, each within four standard errors."""
    rng = np.random.default_rng(1)
    wrong: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for task, truth in edits:
        lesson = teach(rng, teacher, task.principles, truth)
        for claim, finding, check in zip(task.claims, truth.findings, lesson.checks, strict=True):
            kind = "alarm" if finding.met else claim.principle.category
            total[kind] += 1
            wrong[kind] += check.met != finding.met
    profile = {**teacher.misses, "alarm": teacher.alarms}
    assert set(total) == set(profile) == {"follow", "keep", "quality", "alarm"}
    for kind, rate in profile.items():
        assert wrong[kind] / total[kind] == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / total[kind])), kind


def test_profiles_differ() -> None:
    assert len({teacher.name for teacher in TEACHERS}) == len(TEACHERS) >= 3
    assert len({(tuple(t.misses.items()), t.alarms, t.strictness) for t in TEACHERS}) == len(TEACHERS)


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda teacher: teacher.name)
def test_lessons_quote_the_truth_and_score_on_the_grid(teacher: Teacher, edits: list[tuple[WorldTask, Truth]]) -> None:
    rng = np.random.default_rng(2)
    for task, truth in edits[:500]:
        lesson = teach(rng, teacher, task.principles, truth)
        assert [check.reason for check in lesson.checks] == [finding.evidence for finding in truth.findings]
        assert [check.principle for check in lesson.checks] == [claim.principle for claim in task.claims]
        assert 0.0 <= lesson.score <= 10.0
        assert lesson.score * 2 == round(lesson.score * 2)
        if truth.noop:
            assert lesson.score == 0.0


def test_score_by_hand() -> None:
    """Without errors and noise: 10 * share ** strictness. Five of six met at strictness 2: 10 * 25/36 = 6.94 -> 7.0.

    With the annotators' weights a defect costs 1 of 4 + 3 * 2 + 2 = 12 (one principle to follow), or 1 of 14 (two):
    10 * (11/12)^2 = 8.40 and 10 * (13/14)^2 = 8.62 -> 8.5.
    """
    rng = generator(3, "train")
    while len((task := sample_task(rng, "train")).claims) != 6:
        pass
    goal = task.operation.apply(task.scene)
    exact = Teacher("exact", alarms=0.0, strictness=2.0, spread=0.0)
    assert teach(rng, exact, task.principles, task.judge(Reading(goal, frozenset(), 0.0))).score == 10.0
    assert teach(rng, exact, task.principles, task.judge(Reading(goal, frozenset({"grid"}), 0.0))).score == 7.0
    assert teach(rng, exact, task.principles, task.judge(Reading(goal, frozenset({"grid"}), 0.0)), COST).score == 8.5


def test_selection_makes_better_lessons(edits: list[tuple[WorldTask, Truth]]) -> None:
    """The kept text of three agrees with gold more often than the best teacher's texts do on their own."""
    rng = np.random.default_rng(4)
    kept: list[float] = []
    alone: list[list[float]] = []
    for task, truth in edits[:1000]:
        gold = [finding.met for finding in truth.findings]
        lessons = [teach(rng, teacher, task.principles, truth) for teacher in TEACHERS]
        agreements = [agreement(one.checks, gold) for one in lessons]
        alone.append(agreements)
        kept.append(agreements[select(lessons, gold)])
    assert np.mean(kept) > np.mean(alone, axis=0).max() + 0.01
    assert np.mean(kept) < 1.0
