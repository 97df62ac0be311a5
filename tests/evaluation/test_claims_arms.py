"""What the arms of the claims are trained on and measured with: the stages' `run` recorded, nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.evaluation.test_claims import recipe
from tests.training.tiny_run import tiny_verifier

from edit_r1 import assets
from edit_r1.data.store import JudgedPair, read_pairs
from edit_r1.evaluation import claims
from edit_r1.evaluation.answers import Answer, Answers
from edit_r1.evaluation.claims import Harness, Trained
from edit_r1.evaluation.claims_plan import Job
from edit_r1.records import Check, Edit, Provenance, Verdict
from edit_r1.stages import HELDOUT_PAIRS, TEST_PAIRS, TRAIN_PAIRS

NOISE = 0.1


class Arm(NamedTuple):
    """How an arm's stage was called, and what the harness says that it took."""

    config: Any
    rest: dict[str, Any]
    trained: Trained


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return Harness(recipe(), tmp_path_factory.mktemp("arms") / "claims")


@pytest.fixture(scope="module")
def base(harness: Harness) -> Path:
    return tiny_verifier(harness.out.parent)


@pytest.fixture(scope="module")
def arms(harness: Harness, base: Path) -> dict[str, Arm]:
    supervised = {
        "direct": Job("direct", "m", 0, NOISE),
        "full": Job("cold_start", "m", 0, NOISE),
        "small": Job("cold_start", "s", 0, NOISE),
    }
    preferring = {
        "gcpo": Job("gcpo", "m", 0, NOISE),
        "noise0": Job("gcpo", "m", 0, 0.0),
        "rule": Job("rule_grpo", "m", 0, NOISE),
        "dpo": Job("dpo", "m", 0, NOISE),
    }
    seen: dict[str, tuple[Any, dict[str, Any]]] = {}

    def record(config: Any, *, out: Path, **rest: Any) -> None:
        seen[out.name] = (config, rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "VERIFIER", base)
        for stage in (claims.gcpo, claims.cold_start, claims.trace_dpo):
            patch.setattr(stage, "run", record)
        start = Trained(base, 0.0, 0.0)
        took = {name: harness._supervised(job, harness.out / name, base) for name, job in supervised.items()}
        took |= {name: harness._preferences(job, harness.out / name, start) for name, job in preferring.items()}
    return {name: Arm(*seen[name], trained) for name, trained in took.items()}


def test_the_rule_is_all_that_differs_from_gcpo(arms: dict[str, Arm]) -> None:
    """The rule sees one trace at a time, and its advantages are divided by their deviation."""
    rule = {"reward": "pointwise", "scale_rewards": "group"}
    assert arms["gcpo"].config.reward == "contrast"
    assert arms["rule"].config == arms["gcpo"].config.model_copy(update=rule)
    assert arms["rule"].rest == arms["gcpo"].rest


def test_forms_and_starts(arms: dict[str, Arm], base: Path) -> None:
    """The direct score learns its own form. The size m starts from the shipped base, another from its own."""
    found = {name: (arms[name].config.form, arms[name].rest["model"]) for name in ("direct", "full", "small")}
    assert found == {"direct": ("direct", None), "full": ("full", None), "small": ("full", base)}


def test_dpo_has_the_compute_of_gcpo(arms: dict[str, Arm]) -> None:
    """GCPO: 2 steps of 2 x 4 x 4 = 32 traces, each written (1 pass) and learnt from (3): 256 passes.

    DPO: 2 traces of each of 2 x 8 pictures are 32 passes. A step has 2 pairs of traces, which the reference reads (1)
    and the policy learns from (3): 2 x 2 x 4 = 16. So 224 / 16 = 14 steps, and 32 + 14 x 16 = 256 passes.
    """
    gcpo, dpo = arms["gcpo"].trained, arms["dpo"].trained
    assert arms["dpo"].config.steps == 14
    assert dpo.flops == pytest.approx(gcpo.flops)
    assert dpo.tokens == pytest.approx(gcpo.tokens * (32 + 14 * 4) / 64)


def test_other_noise_is_of_the_training_pairs(arms: dict[str, Arm], harness: Harness) -> None:
    """The job of noise 0 trains on labels without noise; with noise 1 the same pairs are all the other way round."""
    assert arms["gcpo"].rest["data"] == harness.world(0)
    assert arms["noise0"].rest["data"] == harness._world(0, 0.0) != harness.world(0)
    clean, wrong = ([p.preference.choice for p in read_pairs(harness._world(0, n) / TRAIN_PAIRS)] for n in (0.0, 1.0))
    assert wrong == [{"first": "second", "second": "first"}[choice] for choice in clean]


def test_splits_and_sides_of_a_head(tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that rise from edit to edit prefer the second of every pair: right where it was preferred."""
    monkeypatch.setattr(claims.bradley_terry, "score", lambda _, edits: [float(k) for k in range(len(edits))])
    found = harness._evaluate(Job("bt_head", "m", 0, NOISE), tmp_path, Trained(tmp_path, 0.0, 0.0))
    for measured, split, name in zip(found, ("test", "heldout"), (TEST_PAIRS, HELDOUT_PAIRS), strict=True):
        choices = [pair.preference.choice for pair in read_pairs(harness.world(0) / name)]
        assert (measured["split"], measured["pairs"]) == (split, len(choices))
        assert measured["pairwise_accuracy"] == choices.count("second") / len(choices)
    assert found[0]["pairwise_accuracy"] != 0.5


def test_what_the_checks_order_is_not_what_the_score_orders(
    tmp_path: Path, harness: Harness, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traces whose score is right and whose checks say the opposite: ties half is 1 by the one, and 0 by the other."""

    def opposed(_: object, pairs: list[JudgedPair]) -> list[Answers]:
        def said(edit: Edit, preferred: bool) -> Answer:
            checks = tuple(Check(principle, not preferred, "") for principle in edit.task.principles)
            verdict = Verdict(checks, 9.0 if preferred else 1.0, "same", Provenance("", "", "", "", 0))
            return Answer(verdict.score, (verdict,) * 2, (verdict.score,) * 2)

        return [
            Answers(said(p.first, p.choice == "first"), said(p.second, p.choice == "second"))
            for p in (judged.preference for judged in pairs)
        ]

    monkeypatch.setattr(claims, "ask", lambda *_: None)
    monkeypatch.setattr(claims, "read_answers", opposed)
    found = harness._evaluate(Job("gcpo", "m", 0, NOISE), tmp_path, Trained(base, 0.0, 0.0))
    assert [(row["tie_half"], row["weighted_tie_half"]) for row in found] == [(1.0, 0.0)] * 2
