"""What more traces buy: by hand, and through the real CLI."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.training.tiny_run import tiny_verifier, tiny_world
from typer.testing import CliRunner

from edit_r1.cli.main import app
from edit_r1.data.store import JudgedPair
from edit_r1.evaluation import calibration
from edit_r1.evaluation.answers import Answer, Answers, Inquiry
from edit_r1.evaluation.calibration import row, written_scores
from edit_r1.records import Check, Edit, EditTask, Failure, Preference, Principle, Provenance, Verdict
from edit_r1.stages import CalibrationConfig, EvaluateConfig

UNKNOWN = Provenance("", "", "", "", 0)


def answer(written: list[float | None], expected: list[float | None]) -> Answer:
    """Traces with these written and expected scores; None is a Failure."""
    verdicts = [Failure("empty", "") if score is None else Verdict((), score, "", UNKNOWN) for score in written]
    return Answer(None, tuple(verdicts), tuple(expected))


def pair(colour: str) -> JudgedPair:
    """A preference for the first edit of a task whose source has this colour."""
    task = EditTask(Image.new("RGB", (4, 4), colour), "x", "add")
    edit = Edit(task, task.source, "", 0)
    return JudgedPair(Preference(task, edit, edit, "first", ""))


def test_rows_by_hand() -> None:
    """Two pairs, in both of which the first edit is preferred.

    One trace: 7 against 7 is a tie, 2 against a Failure is one too: 0 right, ties half 0.5, no spread.
    Two traces: (7 + 8)/2 against (7 + 5)/2 is right, (2 + 4)/2 against 9 is wrong: 0.5 and 0.5. Spreads are
    |8 - 7|/sqrt 2, 2/sqrt 2 and 2/sqrt 2 (one readable trace has none): their mean is 5/(3 sqrt 2).
    """
    pairs = [pair("red"), pair("blue")]
    answers = [
        Answers(answer([7, 8], [7.5, 7.5]), answer([7, 5], [6.5, 6.5])),
        Answers(answer([2, 4], [3, 3]), answer([None, 9], [None, 2])),
    ]
    one = row("model", pairs, answers, written_scores, 1, tokens=50)
    assert (one.pairwise_accuracy, one.tie_half, one.tie_rate, one.spread, one.tokens) == (0, 0.5, 1, None, 50)
    assert (one.gain_per_1000_tokens, one.ci95) == (0, (0.5, 0.5))
    two = row("model", pairs, answers, written_scores, 2, tokens=50)
    assert (two.pairwise_accuracy, two.tie_half, two.tie_rate, two.tokens) == (0.5, 0.5, 0, 100)
    assert two.spread == pytest.approx(5 / (3 * 2**0.5))
    # Of two sources either may be drawn twice; two edits of one source are always drawn together.
    assert two.ci95 == (0.0, 1.0)
    assert row("model", [pair("red")] * 2, answers, written_scores, 2, tokens=50).ci95 == (0.5, 0.5)
    # The expected scores order both pairs with one readable trace each: 50 points above a coin for 100 tokens.
    expected = row("expected", pairs, answers, lambda side: side.scores, 2, tokens=50)
    assert expected.pairwise_accuracy == expected.tie_half == 1
    assert expected.gain_per_1000_tokens == pytest.approx(500)


def test_what_is_met_is_read_from_the_checks_alone() -> None:
    """Met follow (3) of follow and quality (1): 10 * 3 / 4; none for a Failure, or where no check has weight."""
    principles = (Principle("a ?", "follow", 3.0), Principle("b ?", "quality", 1.0))
    checks = (Check(principles[0], True, ""), Check(principles[1], False, ""))
    verdict = Verdict(checks, 2.0, "", UNKNOWN)
    said = answer([None, 5], [None, None])
    of_no_weight = replace(verdict, checks=(Check(Principle("a ?", "follow", 0.0), True, ""),))
    assert replace(said, verdicts=(*said.verdicts, verdict, of_no_weight)).met == (None, None, 7.5, None)


def test_every_way_to_score_has_its_own_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written scores order every pair, the engine's (expected, confident) the other way round, checks none of them."""
    asked: list[tuple[str, float, int]] = []

    def said(preferred: bool) -> Answer:
        verdict = Verdict((Check(Principle("?", "follow", 1.0), True, ""),), 9.0 if preferred else 1.0, "", UNKNOWN)
        return Answer(None, (verdict,) * 2, (1.0 if preferred else 9.0,) * 2)

    def scripted(_: Inquiry, pairs: list[JudgedPair]) -> list[Answers]:
        choices = [pair.preference.choice for pair in pairs]
        return [Answers(said(choice == "first"), said(choice == "second")) for choice in choices]

    def told(inquiries: list[Inquiry], config: EvaluateConfig, _: int) -> None:
        asked.extend((inquiry.aggregate, config.temperature, config.traces) for inquiry in inquiries)

    monkeypatch.setattr(calibration, "ask", told)
    monkeypatch.setattr(calibration, "read_answers", scripted)
    monkeypatch.setattr(calibration, "_length", lambda *_: 50.0)
    config, data, out = CalibrationConfig(traces=(1, 2), temperature=0.7), tiny_world(tmp_path), tmp_path / "out"
    rows = calibration.run(config, data=data, model=tmp_path, out=out, seed=0, resume=False)
    assert asked == [("expected", 0.7, 2), ("confident", 0.0, 1)]
    ways = ["greedy", "confident", "greedy_weighted", *["model", "expected", "weighted"] * 2]
    assert [r.score for r in rows] == ways
    assert [r.tie_half for r in rows] == [1.0, 0.0, 0.5] * 3


def test_nothing_written_gains_nothing_that_could_be_counted() -> None:
    """Without tokens there is no gain per token: None, and no division by zero."""
    silent = Answers(answer([None], [None]), answer([None], [None]))
    found = row("model", [pair("red")], [silent], written_scores, 1, tokens=0.0)
    assert (found.tie_half, found.tokens, found.gain_per_1000_tokens) == (0.5, 0, None)


def test_the_command_measures_resumes_and_prints(tmp_path: Path) -> None:
    """A random verifier writes nothing readable: every row is a tie at a coin's 50%, and nothing is made up."""
    data, model, out = tiny_world(tmp_path), tiny_verifier(tmp_path), tmp_path / "calibration"
    arguments = ["evaluate", "calibration", "--preset", "smoke", "--set", "max_tokens=6"]
    arguments += ["--data", str(data), "--model", str(model), "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads((out / "calibration.json").read_text())
    names = [(r["score"], r["traces"]) for r in rows]
    of_traces = [(name, n) for n in (1, 2) for name in ("model", "expected", "weighted")]
    assert names == [("greedy", 1), ("confident", 1), ("greedy_weighted", 1), *of_traces]
    assert all(r["tie_half"] == 0.5 and r["tie_rate"] == 1 for r in rows)
    assert rows[6]["tokens"] == 2 * rows[3]["tokens"] > 0
    again = CliRunner().invoke(app, [*arguments, "--resume"])
    assert again.exit_code == 0
    assert json.loads((out / "calibration.json").read_text()) == rows
