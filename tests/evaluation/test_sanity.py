"""The sanity suite: judges with one known fault are unfit exactly there, and the whole command runs and resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.sanity_judges import Judge, Oracle, claims_of, silent
from tests.training.tiny_run import tiny_verifier, tiny_world
from typer.testing import CliRunner

from edit_r1.cli.main import app
from edit_r1.data.store import read_pairs
from edit_r1.evaluation import sanity
from edit_r1.evaluation.answers import Answer, answer_from_json, judgement_to_json
from edit_r1.evaluation.attacks import ATTACKS, edits_of
from edit_r1.evaluation.sanity_verdict import AttackResult, SanityResult, as_text, conclude, withstood
from edit_r1.records import Edit, Failure, Provenance, Verdict
from edit_r1.stages import TEST_PAIRS, SanityConfig
from edit_r1.verifier.engines.scripted import ScriptedEngine
from edit_r1.verifier.verifier import Verifier
from edit_r1.world.tasks import sample_task

NAMES = tuple(attack.name for attack in ATTACKS)
INJECTIONS = ("text_in_image", "text_in_instruction", "markers_in_instruction")
TASKS = 12


@pytest.fixture(scope="module")
def made() -> list[Mapping[str, Edit]]:
    """The attacks on some tasks of mixed categories."""
    rng = np.random.default_rng(5)
    return [edits_of(sample_task(rng, "test"), np.random.default_rng(k)) for k in range(TASKS)]


@pytest.fixture(scope="module")
def oracle(made: list[Mapping[str, Edit]]) -> Oracle:
    return Oracle(claims_of(made))


def verdict_on(judge: Judge, made: Sequence[Mapping[str, Edit]]) -> SanityResult:
    verifier = Verifier(ScriptedEngine(judge))
    said: dict[str, list[Answer]] = {}
    for name in made[0]:
        edits = [row[name] for row in made]
        judged = verifier.score(edits, traces=1)
        said[name] = [
            answer_from_json(judgement_to_json(j), e.task.principles) for j, e in zip(judged, edits, strict=True)
        ]
    return conclude(said, made, seed=0)


def test_the_truth_passes_the_whole_suite(made: list[Mapping[str, Edit]], oracle: Oracle) -> None:
    """Right edits get 10; each attack breaks a principle and gets less, in every task; text gains nothing."""
    result = verdict_on(oracle, made)
    assert (result.fit, result.unfit, result.tasks) == (True, (), TASKS)
    assert (result.right.score, result.faulty_below) == (10.0, 1.0)
    assert result.attacks["identity"].score == 0.0
    for name, attack in result.attacks.items():
        assert (attack.below, attack.ci95, attack.failure_rate) == (1.0, (1.0, 1.0), 0.0)
        assert attack.gain is None if name not in INJECTIONS else attack.gain is not None and attack.gain <= 0.0
    assert as_text(result).endswith(f"\nfit to be a reward ({TASKS} tasks)")


def test_a_constant_is_unfit_in_all(made: list[Mapping[str, Edit]], oracle: Oracle) -> None:
    """Every pair is a tie: half right, below every requirement, though no text gains anything."""
    result = verdict_on(oracle.constant, made)
    assert result.unfit == NAMES
    assert {attack.below for attack in result.attacks.values()} == {0.5}
    assert [result.attacks[name].gain for name in INJECTIONS] == [0.0] * 3


def test_failures_are_unfit_in_all_and_counted_by_kind(made: list[Mapping[str, Edit]]) -> None:
    """No score is no credit, neither below the right edit nor for the lack of a gain."""
    result = verdict_on(silent, made)
    assert result.unfit == NAMES
    for attack in result.attacks.values():
        assert (attack.score, attack.right, attack.below, attack.gain) == (None, None, 0.0, None)
        assert (attack.failure_rate, attack.failures) == (1.0, {"missing_principle": TASKS})
        assert attack.worst.trace == "no idea"


def test_a_judge_with_one_fault_is_unfit_exactly_there(made: list[Mapping[str, Edit]], oracle: Oracle) -> None:
    """Copies at 10 tie with the right edit; "score 10" at 10 ties too and gains; no source, no sense of what stayed."""
    copies = verdict_on(oracle.likes_copies, made)
    assert copies.unfit == ("identity",)
    assert copies.attacks["identity"].below == 0.5
    told = verdict_on(oracle.obeys_text, made)
    assert told.unfit == INJECTIONS
    for name in INJECTIONS:
        gain = told.attacks[name].gain
        assert gain is not None
        assert told.faulty.score is not None
        assert gain == pytest.approx(10 - told.faulty.score)
    assert "shuffled_source" in verdict_on(oracle.ignores_the_source, made).unfit
    assert as_text(told).endswith(f"\nunfit to be a reward: {', '.join(INJECTIONS)} ({TASKS} tasks)")


def answers(*scores: float | None) -> list[Answer]:
    """Answers of one trace each, unreadable where there is no score."""
    provenance = Provenance("", "", "", "", 64)
    return [
        Answer(score, (Failure("no_score", "?") if score is None else Verdict((), score, "", provenance),), (score,))
        for score in scores
    ]


def withstand(name: str, made: Sequence[Mapping[str, Edit]], **said: Sequence[Answer]) -> AttackResult:
    attack = next(attack for attack in ATTACKS if attack.name == name)
    edits = [row[name] for row in made[: len(said["right"])]]
    return withstood(
        attack, {"right": said["right"], "faulty": said.get("faulty", ()), name: said["forged"]}, edits, seed=0
    )


def test_ties_count_half_and_no_score_counts_nothing(made: list[Mapping[str, Edit]]) -> None:
    """Below, tie, above, no score, no right score: (1 + 0.5 + 0 + 0 + 0) / 5; the worst case is the one above, by 2."""
    found = withstand("grid", made, right=answers(9, 9, 7, 9, None), forged=answers(4, 9, 9, None, 3))
    assert found.below == pytest.approx(0.3)
    assert (found.score, found.right, found.gain, found.passed) == (6.25, 8.5, None, False)
    assert (found.failure_rate, found.failures) == (0.2, {"no_score": 1})
    assert (found.worst.task, found.worst.score, found.worst.right) == (2, 9, 7)


def test_nine_of_ten_are_enough_for_a_grid_and_not_for_a_copy(made: list[Mapping[str, Edit]]) -> None:
    right, forged = answers(*[7] * 10), answers(*[5] * 9, 8)
    assert withstand("grid", made, right=right, forged=forged).passed
    assert not withstand("identity", made, right=right, forged=forged).passed


def test_a_gain_counts_where_both_have_a_score(made: list[Mapping[str, Edit]]) -> None:
    """Gains of 1 and -1: their mean is 0, and two draws of two tasks reach from -1 to 1."""
    found = withstand(
        "text_in_image",
        made,
        right=answers(10, 10, 10, 10),
        faulty=answers(4, 4, None, 4),
        forged=answers(5, 3, 9, None),
    )
    assert (found.gain, found.gain_ci95) == (0.0, (-1.0, 1.0))
    assert found.below == 0.75


@pytest.mark.parametrize(("forged", "passed"), [(3.0, True), (3.5, False)])
def test_more_than_a_point_is_too_much_although_the_right_edit_wins(
    forged: float, passed: bool, made: list[Mapping[str, Edit]]
) -> None:
    """Equal gains have an interval without width: 1.0 may be reached, 1.5 not."""
    said = {"right": answers(9, 9), "faulty": answers(2, 2), "forged": answers(forged, forged)}
    found = withstand("markers_in_instruction", made, **said)
    assert (found.below, found.gain, found.passed) == (1.0, forged - 2, passed)


def test_the_upper_end_of_the_interval_decides(made: list[Mapping[str, Edit]]) -> None:
    """Gains of 2 and -2: their mean is 0, but two tasks reach to 2, and a point is allowed.

    Two edits of one source are drawn together, with the mean of 0 every time. The worst case is that of the largest
    gain over the faulty edit, though the other comes nearer to the right one.
    """
    said = {"right": answers(9, 5), "faulty": answers(2, 6), "forged": answers(4, 4)}
    found = withstand("text_in_image", made, **said)
    assert (found.below, found.gain, found.gain_ci95, found.passed) == (1.0, 0.0, (-2.0, 2.0), False)
    assert found.worst.task == 0
    of_one_source = withstand("text_in_image", [made[0]] * 2, **said)
    assert (of_one_source.gain_ci95, of_one_source.passed) == ((0.0, 0.0), True)


def test_the_command_runs_a_random_verifier_and_resumes(tmp_path: Path) -> None:
    """Its traces cannot be read: unfit, exit code 0. What is lost is asked about again, and the result is the same."""
    data, model, out = tiny_world(tmp_path), tiny_verifier(tmp_path), tmp_path / "out"
    command = ["evaluate", "sanity", "--preset", "smoke", "--set", "max_tokens=12"]
    command += [*("--data", str(data)), *("--model", str(model)), *("--out", str(out))]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert f"unfit to be a reward: {', '.join(NAMES)} (4 tasks)\n" in first.stdout
    document = json.loads((out / "sanity.json").read_text())
    assert (document["fit"], document["unfit"], document["tasks"]) == (False, list(NAMES), 4)
    with Image.open(out / "sanity.png") as sheet:
        assert sheet.width > 900
    (out / "done.json").unlink()
    (out / "sanity.json").unlink()
    (out / "traces" / "grid.jsonl").unlink()
    again = CliRunner().invoke(app, [*command, "--resume"])
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert json.loads((out / "sanity.json").read_text()) == document
    assert CliRunner().invoke(app, [*command, "--resume"]).stdout == first.stdout


def test_only_what_is_missing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oracle: Oracle, made: list[Mapping[str, Edit]]
) -> None:
    """Twelve kinds of two tasks are 24 questions; without two of the journals, four."""
    engine = ScriptedEngine(oracle)
    monkeypatch.setattr(sanity, "load_verifier", lambda *_, **__: Verifier(engine))
    whole = sanity.ask(tmp_path, made[:2], SanityConfig(tasks=2), tmp_path / "traces", 0)
    assert len(engine.calls) == 24
    for name in ("right", "border"):
        (tmp_path / "traces" / f"{name}.jsonl").unlink()
    assert sanity.ask(tmp_path, made[:2], SanityConfig(tasks=2), tmp_path / "traces", 0) == whole
    assert len(engine.calls) == 28


def test_tasks_are_the_first_of_the_worlds_test_pairs(tmp_path: Path) -> None:
    """The tiny world has six test pairs, of six tasks."""
    data = tiny_world(tmp_path)
    pairs = [pair.preference.task for pair in read_pairs(data / TEST_PAIRS)]
    for count, expected in ((4, pairs[:4]), (40, pairs)):
        records = [task.record() for task in sanity.first_tasks(data, count)]
        assert [(r.instruction, r.meta, r.principles) for r in records] == [
            (task.instruction, task.meta, task.principles) for task in expected
        ]
