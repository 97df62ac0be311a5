"""Lessons of the verifier's base: what they say is true, and the mixture is the one that was asked for."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.tiny_run import tiny_verifier

from edit_r1.records import Provenance, Verdict
from edit_r1.stages import PretrainVerifierConfig
from edit_r1.training import pretrain_verifier
from edit_r1.training.pretrain_verifier import lessons, scrambled, tally
from edit_r1.verifier.tiny import load_verifier_model
from edit_r1.verifier.trace import parse_trace
from edit_r1.world.scene import HELDOUT_PAIRING, STYLES
from edit_r1.world.tasks import generator, sample_task

_PAIR = re.compile(r"(\S+) > (\S+)(?: want (\S+))?( changed| missed)?")


def test_a_tally_is_a_trace_whose_answers_follow_from_the_given_words() -> None:
    """Every comparison is right as words, and the score is ten times the share of yes, on the grid of 0.5.

    Where no words differ, in a tenth of them and a few more by chance, it is 0. What was asked is missing then, but
    where it is missing something else may have changed.
    """
    rng = generator(0, "train")
    answers: Counter[bool] = Counter()
    compared = copies = undone = 0
    for _ in range(400):
        task = sample_task(rng, "train")
        given, written = tally(rng, task)
        verdict = parse_trace(written, [claim.principle for claim in task.claims], Provenance("", "", "", "", 0))
        assert isinstance(verdict, Verdict)
        for check, line in zip(verdict.checks, given.split("\n"), strict=True):
            words = check.reason.split()
            assert [w for w in words if w not in ("changed", "missed")] == line.split()[1:]
            for before, after, wanted, said in _PAIR.findall(check.reason):
                assert bool(wanted) == (check.principle.category == "follow")
                unseen_style = after == "none" and before in STYLES
                assert (said == "") == (after == (wanted or before) or unseen_style)
                compared += 1
            flagged = {"changed", "missed"} & set(words)
            assert check.met == (not flagged and words != ["none"]) or check.principle.category == "quality"
            answers[check.met] += 1
        same = all(before == after for before, after, *_ in _PAIR.findall(given))
        share = 0.0 if same else sum(check.met for check in verdict.checks) / len(verdict.checks)
        assert verdict.score == pytest.approx(10 * share, abs=0.25)
        missed = not any(check.met for check in verdict.checks if check.principle.category == "follow")
        assert missed or not same
        copies, undone = copies + same, undone + (missed and not same)
    assert 0.07 < copies / 400 < 0.17
    assert undone > 105  # of which 94 are by chance alone
    assert 0.3 < answers[True] / answers.total() < 0.7
    assert compared > 1000


def test_scrambling_changes_about_half_and_never_shows_the_heldout_pairing() -> None:
    """A cell changes with probability 0.4; a changed cell is never what it was."""
    rng = generator(1, "train")
    changed: list[bool] = []
    for _ in range(500):
        scene = sample_task(rng, "train").scene
        other = scrambled(rng, scene)
        changed += [a != b for a, b in zip(scene.cells, other.cells, strict=True)]
        assert all((thing.colour, thing.shape) != HELDOUT_PAIRING for _, thing in other.things)
    assert np.mean(changed) == pytest.approx(0.4, abs=0.04)


def test_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptions alone at first, then the shares: 0.1 * 4000 = 400, and 3600 times each, +- 4 sigma."""
    monkeypatch.setattr(pretrain_verifier, "lesson", lambda rng, kind, shown: {"kind": kind, "shown": shown})
    monkeypatch.setattr(pretrain_verifier, "drawn", lambda rng: "drawn")
    monkeypatch.setattr(pretrain_verifier, "sampled", lambda judged: judged)
    monkeypatch.setattr(pretrain_verifier, "read_edits", lambda edits: ["first", "second"])
    shares = PretrainVerifierConfig(
        describe_only=0.1, describe=0.2, compare=0.15, tally=0.2, questions=0.15, editor_share=0.3
    )
    rows = list(lessons(shares.model_copy(update={"steps": 400, "batch_size": 10}), 0, Path()))
    shown = Counter(row["shown"] for row in rows)
    for name, share in {"drawn": 0.7, "first": 0.15, "second": 0.15}.items():
        assert shown[name] == pytest.approx(4000 * share, abs=4 * (4000 * share * (1 - share)) ** 0.5)
    kinds = [row["kind"] for row in rows]
    assert len(kinds) == 4000
    assert set(kinds[:400]) == {"describe"}
    counts = Counter(kinds[400:])
    for kind, share in {"describe": 0.2, "compare": 0.15, "tally": 0.2, "questions": 0.15, "observe": 0.3}.items():
        assert counts[kind] == pytest.approx(3600 * share, abs=4 * (3600 * share * (1 - share)) ** 0.5)


def test_a_base_goes_on_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate of almost nothing the weights stay those of the given base, of its own size."""
    monkeypatch.setattr(pretrain_verifier, "shipped_editor", lambda: None)  # its edits are drawn instead
    monkeypatch.setattr(pretrain_verifier, "exact_match", lambda *_: {})
    start, out = tiny_verifier(tmp_path), tmp_path / "base"
    config = PretrainVerifierConfig(steps=1, batch_size=2, editor_edits=2, learning_rate=1e-12, weight_decay=0.0)
    pretrain_verifier.run(config, out=out, seed=0, resume=False, model=start)
    before, after = (load_verifier_model(folder)[0].state_dict() for folder in (start, out / "model"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)
