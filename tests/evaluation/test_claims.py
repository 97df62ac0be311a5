"""The harness of the claims: every arm really runs at a tiny size, at equal compute, and nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.training.tiny_run import SIZE, WORLD, tiny_verifier
from typer.testing import CliRunner

from edit_r1 import assets
from edit_r1.cli.main import app
from edit_r1.config import load_recipe
from edit_r1.errors import UserError
from edit_r1.evaluation import claims
from edit_r1.evaluation.claims import Harness, Job, collect, plan
from edit_r1.records import Provenance, Verdict
from edit_r1.stages import ARMS, BradleyTerryConfig, ClaimsConfig, ClaimsRecipe, TraceDpoConfig
from edit_r1.training import trace_dpo
from edit_r1.verifier.verifier import Completion


def recipe() -> ClaimsRecipe:
    """The packaged recipe at a size that proves nothing."""
    whole = load_recipe(ClaimsRecipe, "claims")
    return whole.model_copy(
        update={
            "claims": ClaimsConfig(seeds=(0,), s=SIZE, l=SIZE, label_noise=(0.0,)),
            "world": WORLD,
            "pretrain_verifier": whole.pretrain_verifier.model_copy(update={"steps": 1}),
            "cold_start": whole.cold_start.model_copy(update={"steps": 8, "batch_size": 4}),
            "gcpo": whole.gcpo.model_copy(update={"steps": 2, "pairs_per_step": 4, "traces": 4, "max_tokens": 8}),
            "bradley_terry": BradleyTerryConfig(steps=2, pairs_per_step=2),
            "trace_dpo": TraceDpoConfig(batch_size=2, traces=2, max_tokens=8),
            "evaluate": whole.evaluate.model_copy(update={"traces": 2, "max_tokens": 8, "base_pairs": 2}),
        }
    )


def test_the_plan_has_every_arm_size_and_seed() -> None:
    """A seed has nine arms and two more noise levels at the middle size, and three stages at two other sizes.

    Two more seeds have cold start and GCPO of the middle size.
    """
    jobs = plan(load_recipe(ClaimsRecipe, "claims").claims, 0.1)
    assert len(jobs) == len(set(jobs)) == 3 * (9 + 2 + 6) + 2 * 2
    assert {job.arm for job in jobs if job.size == "m"} == set(ARMS)
    assert {(job.arm, job.size) for job in jobs if job.seed > 2} == {("cold_start", "m"), ("gcpo", "m")}
    assert {job.arm for job in jobs if job.size == "l"} == {"base", "cold_start", "gcpo"}


def test_every_arm_of_the_middle_size_runs_at_equal_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute is that of the arm it is compared with, but for the rounding to whole steps; a second call does nothing.

    One step more or less is 1/8 of the cold start's compute here, and less of the others'.
    """
    monkeypatch.setattr(assets, "VERIFIER", tiny_verifier(tmp_path))
    unknown = Provenance("script", "", "", "", 0)

    def by_length(completion: Completion, questions: list[str]) -> Verdict:
        return Verdict((), float(len(completion.text) % 11), completion.text, unknown)

    monkeypatch.setattr(trace_dpo, "trace_verdict", by_length)  # a random model writes nothing that can be read
    small, out, results = recipe(), tmp_path / "claims", tmp_path / "results" / "claims.json"
    claims.run(small, out=out, results=results, seeds={0}, arms=ARMS, sizes={"m"})
    rows = json.loads(results.read_text())
    assert len(rows) == 2 * (len(ARMS) + 1)  # GCPO twice, for the other label noise; two splits each
    test = {(row["arm"], row["label_noise"]): row for row in rows if row["split"] == "test"}
    compute = {arm: row["train_flops"] for (arm, noise), row in test.items() if noise == 0.1}
    assert compute["base"] == 0
    for arm in ("direct", "think", "verify"):
        assert compute[arm] == pytest.approx(compute["cold_start"], rel=1 / 8)
    for arm in ("rule_grpo", "dpo"):
        assert compute[arm] == pytest.approx(compute["gcpo"], rel=1 / 8)
    assert compute["cold_start"] < compute["bt_head"] < compute["gcpo"]  # it stops after the recipe's steps
    assert compute["gcpo"] > compute["cold_start"]
    assert test["bt_head", 0.1]["check_accuracy"] is None
    assert test["bt_head", 0.1]["trace_tokens"] == 0
    assert test["gcpo", 0.1]["pairs"] == test["gcpo", 0.0]["pairs"] == WORLD.test_pairs
    left = collect(small, out, results)
    assert {job.size for job in left} == {"s", "l"}
    monkeypatch.setattr(Harness, "_train", lambda *_: pytest.fail("what is done is not done again"))
    claims.run(small, out=out, results=results, seeds={0}, arms=ARMS, sizes={"m"})
    assert json.loads(results.read_text()) == rows


def test_other_sizes_are_pretrained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base of a size is a run of its own, from which its arms start."""
    monkeypatch.setattr(claims.pretrain_verifier, "shipped_editor", lambda: None)  # its edits are drawn instead
    monkeypatch.setattr(claims.pretrain_verifier, "exact_match", lambda *_: {})
    small, out = recipe(), tmp_path / "claims"
    short = small.pretrain_verifier.model_copy(update={"editor_edits": 2, "batch_size": 2})
    harness = Harness(small.model_copy(update={"pretrain_verifier": short}), out)
    rows = harness.run(Job("base", "s", 0, 0.1))
    assert [row["split"] for row in rows] == ["test", "heldout"]
    assert rows[0]["failure_rate"] == 1.0
    assert (out / "s" / "base" / "model" / "config.json").is_file()


def test_a_wrong_choice_is_one_line(tmp_path: Path) -> None:
    """What is not in the recipe is named, with what is."""
    result = CliRunner().invoke(app, ["evaluate", "claims", "--missing", "--arms", "ppo", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "--arms ppo: choose from base, direct" in result.output


def test_missing_is_told_without_a_run(tmp_path: Path) -> None:
    """Every result is missing from an empty folder; the table is there, and empty."""
    table = tmp_path / "table.json"
    arguments = ["evaluate", "claims", "--missing", "--out", str(tmp_path / "claims"), "--results", str(table)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert result.output.count("missing: ") == 55
    assert json.loads(table.read_text()) == []


def test_rows_made_elsewhere_are_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table alone, without the run directories, says what is done; newer rows of this machine replace its own."""
    results, out = tmp_path / "claims.json", tmp_path / "claims"
    job = Job("base", "m", 0, 0.1)
    row = {"arm": "base", "size": "m", "seed": 0, "label_noise": 0.1, "split": "test", "tie_half": 0.5}
    results.write_text(json.dumps([row]))
    monkeypatch.setattr(Harness, "run", lambda *_: pytest.fail("it is in the table"))
    claims.run(recipe(), out=out, results=results, seeds={0}, arms={"base"}, sizes={"m"})
    assert job not in collect(recipe(), out, results)
    assert json.loads(results.read_text()) == [row]
    folder = job.folder(out, 0.1)
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps([row | {"tie_half": 0.6}]))
    collect(recipe(), out, results)
    assert json.loads(results.read_text()) == [row | {"tie_half": 0.6}]
    other = row | {"seed": 7}  # of a recipe with other seeds
    results.write_text(json.dumps([other]))
    collect(recipe(), out, results)
    assert json.loads(results.read_text()) == [row | {"tie_half": 0.6}, other]
    results.write_text("[")
    with pytest.raises(UserError, match="is damaged"):
        collect(recipe(), out, results)
