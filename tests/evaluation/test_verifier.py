"""Measuring a verifier: scripted traces of known worth give numbers known on paper, and the journal resumes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.tiny_run import WORLD, tiny_verifier, tiny_world

from edit_r1.data.gold import gold_checks, truth_of
from edit_r1.data.store import JudgedPair, read_pairs, write_pairs
from edit_r1.errors import UserError
from edit_r1.evaluation import answers as asking
from edit_r1.evaluation import verifier as evaluation
from edit_r1.evaluation.metrics import Confusion
from edit_r1.evaluation.results import VerifierResult
from edit_r1.evaluation.sanity import first_tasks
from edit_r1.images import image_hash
from edit_r1.records import Check
from edit_r1.stages import SAMPLED, TEST_PAIRS, EvaluateConfig
from edit_r1.verifier.engines.scripted import ScriptedEngine
from edit_r1.verifier.prompting import Prompt
from edit_r1.verifier.trace import format_trace
from edit_r1.verifier.verifier import Verifier
from edit_r1.world.annotators import utility
from edit_r1.world.tasks import world_task

CONFIG = EvaluateConfig(pairs=6, heldout_pairs=4, traces=2, examples=4)


def answers(data: Path) -> dict[str, str]:
    """For every edited image of the data the trace of a perfect verifier, whose score is ten times the utility."""
    texts: dict[str, str] = {}
    for name in ("pairs_test", "pairs_heldout"):
        for pair in read_pairs(data / name):
            for edit, reading in (
                (pair.preference.first, pair.first_truth),
                (pair.preference.second, pair.second_truth),
            ):
                truth = truth_of(edit, reading)
                checks = [
                    Check(principle, finding.met, finding.evidence)
                    for principle, finding in zip(edit.task.principles, truth.findings, strict=True)
                ]
                texts[image_hash(edit.image)] = format_trace(checks, 10 * utility(world_task(edit.task), truth))
    return texts


def scripted(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str], *, broken: int = 0) -> ScriptedEngine:
    """Put a verifier with known answers in place of the model; the first `broken` edits get an unreadable trace."""
    hopeless = list(texts)[:broken]

    def say(prompt: Prompt, sample: int, seed: int) -> str:
        key = image_hash(prompt.images[1])
        return "no idea" if key in hopeless else texts[key]

    engine = ScriptedEngine(say)
    monkeypatch.setattr(asking, "load_verifier", lambda *_, **__: Verifier(engine))
    return engine


def test_a_perfect_verifier_is_measured_as_perfect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are the annotators' own utilities and held-out labels have no noise: all pairs right, all checks true."""
    data = tiny_world(tmp_path)
    scripted(monkeypatch, answers(data))
    found = evaluation.evaluate(
        CONFIG, data=data, models={"gcpo": tmp_path}, out=tmp_path / "out", seed=0, resume=False
    )["gcpo"]
    assert found["pairwise_accuracy"] == found["tie_half"] == found["check_accuracy"] == 1.0
    assert found["failure_rate"] == found["tie_rate"] == 0.0
    assert (found["pairs"], found["traces"]) == (6, 2)
    result = json.loads((tmp_path / "out" / "verifier.json").read_text())
    assert result["heldout"]["gcpo"]["pairs"] == 4
    for example in result["examples"]:
        assert all((tmp_path / "out" / example[key]).is_file() for key in ("source", "first", "second"))


def test_checks_are_told_from_the_score_that_sums_them_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """True checks under scores turned upside down: no pair is right by the score, most are by the checks."""
    data = tiny_world(tmp_path)
    pairs = list(read_pairs(data / TEST_PAIRS))
    texts = {key: re.sub(r"<score> (.*) </score>", _upside_down, text) for key, text in answers(data).items()}
    scripted(monkeypatch, texts)
    shown = evaluation.run(CONFIG, data=data, model=tmp_path, out=tmp_path / "out", seed=0, resume=False)
    result = VerifierResult.model_validate_json((tmp_path / "out" / "verifier.json").read_text())
    assert result.stages["verifier"].pairwise_accuracy == 0.0
    right = 0.0
    for pair in pairs:
        first, second = (
            sum(
                principle.weight
                for principle, met in zip(edit.task.principles, gold_checks(edit, truth), strict=True)
                if met
            )
            for edit, truth in (
                (pair.preference.first, pair.first_truth),
                (pair.preference.second, pair.second_truth),
            )
        )
        right += 0.5 if first == second else float((first > second) == (pair.preference.choice == "first"))
    assert result.weighted_tie_half["verifier"] == pytest.approx(right / len(pairs))
    assert right / len(pairs) > 0.5
    copies = [
        truth_of(edit, truth).noop
        for pair in pairs
        for edit, truth in (
            (pair.preference.first, pair.first_truth),
            (pair.preference.second, pair.second_truth),
        )
    ]
    assert result.copy_score["verifier"] == (10.0 if any(copies) else None)  # 0 turned upside down
    assert f"by its checks alone     {right / len(pairs):.1%}" in shown


def _upside_down(score: re.Match[str]) -> str:
    return f"<score> {10 - float(score[1])} </score>"


def test_faults_in_an_editors_own_edits_are_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every first edit is said to be an editor's own, and of these every check is called met.

    So none of its faults is seen, and all of the others are.
    """
    world, own = tiny_world(tmp_path), tmp_path / "own"
    texts = answers(world)
    own.mkdir()
    pairs: list[JudgedPair] = []
    for pair in read_pairs(world / TEST_PAIRS):
        first = replace(pair.preference.first, editor=f"{SAMPLED}5")
        texts[image_hash(first.image)] = format_trace([Check(p, True, "clean") for p in first.task.principles], 9.0)
        pairs.append(replace(pair, preference=replace(pair.preference, first=first)))
    write_pairs(own / TEST_PAIRS, pairs)
    scripted(monkeypatch, texts)
    shown = evaluation.run(CONFIG, data=own, model=tmp_path, out=tmp_path / "out", seed=0, resume=False)
    result = VerifierResult.model_validate_json((tmp_path / "out" / "verifier.json").read_text())
    both = [sum(tables["verifier"].values(), Confusion()) for tables in (result.confusion, result.sampled)]
    faults = [sum(not met for met in gold_checks(p.preference.first, p.first_truth)) for p in pairs]
    assert both[1].faults_seen == 0.0
    assert both[1].fp == both[0].fp == CONFIG.traces * sum(faults) > 0
    assert "; in an editor's own edits: 0.0%" in shown


def test_pairs_of_which_nobody_knows_the_truth_are_measured_without_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six pairs as a person's preferences would be stored, without readings and without kinds that were held out.

    All are ordered right, no check counts, the examples have no truth, and the sanity suite says what it needs.
    """
    world, own = tiny_world(tmp_path), tmp_path / "own"
    scripted(monkeypatch, answers(world))
    own.mkdir()
    write_pairs(own / TEST_PAIRS, [JudgedPair(pair.preference) for pair in read_pairs(world / TEST_PAIRS)])
    shown = evaluation.run(CONFIG, data=own, model=tmp_path, out=tmp_path / "out", seed=0, resume=False)
    assert "in the preferred order  100.0%" in shown
    assert "true checks             unknown" in shown
    result = VerifierResult.model_validate_json((tmp_path / "out" / "verifier.json").read_text())
    assert (result.stages["verifier"].pairs, result.stages["verifier"].check_accuracy, result.heldout) == (6, None, {})
    checks = [check for example in result.examples for check in example.stages["verifier"].first.checks]
    assert {check.truth for check in checks} == {None}
    with pytest.raises(UserError, match=r"own is no built-in world"):
        first_tasks(own, 1)


def test_unreadable_traces_are_counted_and_their_pairs_are_ties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One edit of 12 is never readable: 2 of 24 traces fail, its pair is a tie, and 5 of 6 pairs are right."""
    data = tiny_world(tmp_path)
    scripted(monkeypatch, answers(data), broken=1)
    found = evaluation.evaluate(CONFIG, data=data, models={"m": tmp_path}, out=tmp_path / "out", seed=0, resume=False)
    assert found["m"]["failure_rate"] == pytest.approx(2 / 24)
    assert found["m"]["tie_rate"] == pytest.approx(1 / 6)
    assert found["m"]["pairwise_accuracy"] == pytest.approx(5 / 6)
    assert found["m"]["tie_half"] == pytest.approx(5.5 / 6)


def test_the_base_is_asked_about_fewer_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It judges the first two of six pairs; examples beyond them show the other stages alone."""
    data = tiny_world(tmp_path)
    scripted(monkeypatch, answers(data))
    config = CONFIG.model_copy(update={"base_pairs": 2, "examples": 12})
    models = {"base": tmp_path, "cold_start": tmp_path, "gcpo": tmp_path}
    found = evaluation.evaluate(config, data=data, models=models, out=tmp_path / "out", seed=0, resume=False)
    assert {name: metrics["pairs"] for name, metrics in found.items()} == {"base": 2, "cold_start": 6, "gcpo": 6}
    shown = json.loads((tmp_path / "out" / "verifier.json").read_text())["examples"]
    assert {"cold_start", "gcpo"} <= set.intersection(*(set(example["stages"]) for example in shown))


def test_an_interrupted_measurement_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole chunks of the journal are read back, a torn last line is made anew, and the result is the same."""
    data = tiny_world(tmp_path)
    monkeypatch.setattr(asking, "_CHUNK", 2)
    pairs = list(read_pairs(data / TEST_PAIRS))
    assert len(pairs) == WORLD.test_pairs
    texts = answers(data)
    scripted(monkeypatch, texts)
    inquiry = asking.Inquiry(tmp_path, data / TEST_PAIRS, len(pairs), tmp_path / "journal.jsonl")
    asking.ask([inquiry], CONFIG, 0)
    whole = asking.read_answers(inquiry, pairs)
    lines = inquiry.journal.read_text().splitlines()
    for kept, pairs_again in (([*lines[:4], "{"], 2), ([*lines[:5], "{"], 2), (lines, 0)):
        inquiry.journal.write_text("\n".join(kept) + ("\n" if kept is lines else ""))
        engine = scripted(monkeypatch, texts)
        asking.ask([inquiry], CONFIG, 0)
        assert asking.read_answers(inquiry, pairs) == whole
        assert len(engine.calls) == 2 * pairs_again
        assert inquiry.journal.read_text().splitlines() == lines


def test_a_journal_survives_a_kill_at_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends while it takes the torn line off leaves the journal as it was."""
    data = tiny_world(tmp_path)
    monkeypatch.setattr(asking, "_CHUNK", 2)
    scripted(monkeypatch, answers(data))
    inquiry = asking.Inquiry(tmp_path, data / TEST_PAIRS, 4, tmp_path / "journal.jsonl")
    asking.ask([inquiry], CONFIG, 0)
    torn = inquiry.journal.read_text()[:-9]
    inquiry.journal.write_text(torn)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        asking.ask([inquiry], CONFIG, 0)
    assert inquiry.journal.read_text() == torn


def test_processes_answer_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two verifiers in two processes write the journals that one process writes, a random model's failures included."""
    data = tiny_world(tmp_path)
    models = [tiny_verifier(tmp_path / str(seed), seed) for seed in (0, 1)]

    def journals(folder: str) -> list[str]:
        inquiries = [asking.Inquiry(m, data / TEST_PAIRS, 2, tmp_path / folder / m.parent.name) for m in models]
        asking.ask(inquiries, CONFIG, 0)
        return [inquiry.journal.read_text() for inquiry in inquiries]

    alone = journals("alone")
    assert alone[0] != alone[1]
    monkeypatch.setattr(asking, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert journals("together") == alone
