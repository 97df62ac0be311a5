"""The harness of the claims: every arm really runs at a tiny size, at equal compute, and nothing is done twice."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree

import pytest
from tests.training.tiny_editor import tiny_editor
from tests.training.tiny_run import SIZE, WORLD, tiny_verifier
from typer.testing import CliRunner

from edit_r1 import assets
from edit_r1.cli.main import app
from edit_r1.config import load_recipe
from edit_r1.errors import UserError
from edit_r1.evaluation import claims
from edit_r1.evaluation.claims import Harness
from edit_r1.evaluation.claims_plan import Job, collect, plan
from edit_r1.records import Provenance, Verdict
from edit_r1.stages import ARMS, BradleyTerryConfig, ClaimsConfig, ClaimsRecipe, TraceDpoConfig
from edit_r1.training import trace_dpo
from edit_r1.verifier.tiny import TinySize, build_processor, build_tiny_qwen
from edit_r1.verifier.verifier import Completion
from edit_r1.world.words import vocabulary


def recipe() -> ClaimsRecipe:
    """The packaged recipe at a size that proves nothing."""
    whole = load_recipe(ClaimsRecipe, "claims")
    return whole.model_copy(
        update={
            "claims": ClaimsConfig(seeds=(0,), s=SIZE, l=SIZE, label_noise=(0.0,)),
            "world": WORLD,
            "pretrain_verifier": (short := whole.pretrain_verifier.model_copy(update={"steps": 1})),
            "pretrain_questions": short,
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


def test_sizes_have_as_many_weights_as_the_page_says() -> None:
    """docs/claims.md: 1.0, 2.4 and 7.8 million."""
    sizes = load_recipe(ClaimsRecipe, "claims").claims
    tokenizer = build_processor(vocabulary(), TinySize().patch).tokenizer
    counts = [
        sum(weight.numel() for weight in build_tiny_qwen(size, tokenizer).parameters())
        for size in (sizes.s, TinySize(), sizes.l)
    ]
    assert [round(count / 1e6, 1) for count in counts] == [1.0, 2.4, 7.8]


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
    scored_by_checks = {arm for (arm, _), row in test.items() if row["weighted_tie_half"] is not None}
    assert scored_by_checks == set(ARMS) - {"direct", "think", "bt_head"}
    assert test["bt_head", 0.1]["trace_tokens"] == 0
    assert test["gcpo", 0.1]["pairs"] == test["gcpo", 0.0]["pairs"] == WORLD.test_pairs
    left = collect(small, out, results)
    assert {job.size for job in left} == {"s", "l"}
    monkeypatch.setattr(Harness, "_train", lambda *_: pytest.fail("what is done is not done again"))
    claims.run(small, out=out, results=results, seeds={0}, arms=ARMS, sizes={"m"})
    assert json.loads(results.read_text()) == rows


def test_other_sizes_are_pretrained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base of a size is two runs of its own, the second from the first's model."""
    monkeypatch.setattr(claims.pretrain_verifier, "shipped_editor", lambda: None)  # its edits are drawn instead
    monkeypatch.setattr(claims.pretrain_verifier, "exact_match", lambda *_: {})
    small, out = recipe(), tmp_path / "claims"
    short = small.pretrain_verifier.model_copy(update={"editor_edits": 2, "batch_size": 2})
    twice = {"pretrain_verifier": short, "pretrain_questions": short.model_copy(update={"questions": 0.4})}
    harness = Harness(small.model_copy(update=twice), out)
    rows = harness.run(Job("base", "s", 0, 0.1))
    assert [row["split"] for row in rows] == ["test", "heldout"]
    assert rows[0]["failure_rate"] == 1.0
    assert (out / "s" / "base" / "model" / "config.json").is_file()
    seen, known = ({"seed": 0}, {"seed": 1, "model": str(out / "s" / "seeing" / "model")})
    inputs = [json.loads((out / "s" / name / "config.json").read_text())["inputs"] for name in ("seeing", "base")]
    assert inputs == [seen, known]
    rmtree(out / "s" / "seeing")  # it is not missed
    assert harness._base("s") == out / "s" / "base" / "model"
    assert not (out / "s" / "seeing").exists()


def test_a_wrong_choice_is_one_line(tmp_path: Path) -> None:
    """What is not in the recipe is named, with what is."""
    result = CliRunner().invoke(app, ["evaluate", "claims", "--missing", "--arms", "ppo", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "--arms ppo: choose from base, direct" in result.output


def test_missing_is_told_without_a_run(tmp_path: Path) -> None:
    """Every result is missing; the table keeps its row of other settings, for nothing is made in its place."""
    table, old = tmp_path / "table.json", [row_of(Job("gcpo", "m", 0, 0.1), settings="another")]
    table.write_text(json.dumps(old))
    arguments = ["evaluate", "claims", "--missing", "--out", str(tmp_path / "claims"), "--results", str(table)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert result.output.count("missing: ") == 55
    few = CliRunner().invoke(app, [*arguments, "--sizes", "s,l", "--seeds", "1", "--arms", "gcpo"]).output.splitlines()
    assert few[:-1] == [f"missing: gcpo of size {size}, seed 1, label noise 0.1" for size in ("s", "l")]
    assert few[-1] == f"{table}: 55 results are missing"
    assert json.loads(table.read_text()) == old


def row_of(job: Job, **more: object) -> dict[str, object]:
    """A row that was made with the settings of `recipe()`."""
    own = {"arm": job.arm, "size": job.size, "seed": job.seed, "label_noise": job.label_noise, "split": "test"}
    return own | {"tie_half": 0.5, "settings": recipe().digest(job.arm, job.size)} | more


def write_to(folder: Path, row: dict[str, object]) -> None:
    """Leave a row in a run directory."""
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps([row]))


def test_rows_made_elsewhere_are_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table alone, without the run directories, says what is done; a folder adds what it lacks, and no more."""
    results, out = tmp_path / "claims.json", tmp_path / "claims"
    job, row, gcpo = Job("base", "m", 0, 0.1), row_of(Job("base", "m", 0, 0.1)), Job("gcpo", "m", 0, 0.1)
    results.write_text(json.dumps([row]))
    monkeypatch.setattr(Harness, "run", lambda *_: pytest.fail("it is in the table"))
    claims.run(recipe(), out=out, results=results, seeds={0}, arms={"base"}, sizes={"m"})
    assert job not in collect(recipe(), out, results)
    assert json.loads(results.read_text()) == [row]
    write_to(job.folder(out, 0.1), row | {"tie_half": 0.6})  # an old folder
    write_to(gcpo.folder(out, 0.1), row_of(gcpo))
    assert gcpo not in collect(recipe(), out, results)
    assert json.loads(results.read_text()) == [row, row_of(gcpo)]
    other = row | {"seed": 7}  # of a recipe with other seeds
    stale = row | {"seed": 8, "settings": "another"}
    results.write_text(json.dumps([other, stale]))
    collect(recipe(), out, results)
    assert json.loads(results.read_text()) == [row | {"tie_half": 0.6}, row_of(gcpo), other]
    results.write_text("[")
    with pytest.raises(UserError, match="is damaged"):
        collect(recipe(), out, results)


def test_a_row_of_other_settings_is_none(tmp_path: Path) -> None:
    """It leaves the table, and its job is still to be done; a folder that holds such rows is refused in one line."""
    results, out, job = tmp_path / "claims.json", tmp_path / "claims", Job("gcpo", "m", 0, 0.1)
    toy = row_of(job, settings="another")
    results.write_text(json.dumps([toy]))
    write_to(job.folder(out, 0.1), toy)
    assert job in collect(recipe(), out, results)
    assert json.loads(results.read_text()) == []
    with pytest.raises(UserError, match="made with other settings of the arm gcpo; move it away"):
        Harness(recipe(), out).run(job)


def test_the_settings_of_a_row_are_those_that_it_depends_on() -> None:
    """Every section that an arm uses changes its digest, and no other does."""
    whole = load_recipe(ClaimsRecipe, "claims")

    def changed(*overrides: str) -> set[tuple[str, str]]:
        other = load_recipe(ClaimsRecipe, "claims", overrides)
        return {
            (arm, size)
            for arm in ARMS
            for size in ("s", "m", "l")
            if whole.digest(arm, size) != other.digest(arm, size)
        }

    def every(*arms: str, sizes: str = "sml") -> set[tuple[str, str]]:
        return {(arm, size) for arm in arms for size in sizes}

    on_pairs = ("gcpo", "bt_head", "rule_grpo", "dpo")
    assert changed("claims.seeds=[0]", "claims.label_noise=[]", "evaluate.examples=2", "evaluate.tasks=2") == set()
    assert changed("world.test_pairs=9") == changed("evaluate.traces=2") == every(*ARMS)
    assert changed("cold_start.steps=9") == every(*ARMS) - every("base")
    assert changed("gcpo.steps=2") == every(*on_pairs)  # its compute is what the others may take
    assert changed("bradley_terry.steps=2") == every("bt_head")
    assert changed("trace_dpo.beta=0.2") == every("dpo")
    assert changed("claims.s.hidden=160") == every(*ARMS, sizes="s")
    assert changed("pretrain_verifier.steps=9") == changed("pretrain_questions.steps=9") == every(*ARMS, sizes="sl")


def test_the_settings_of_a_row_name_the_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another shipped verifier is another base of the size m; another editor has other edits in the data of all."""
    whole = load_recipe(ClaimsRecipe, "claims")

    def digests() -> dict[str, str]:
        return {size: whole.digest("gcpo", size) for size in ("s", "m", "l")}

    shipped = digests()
    monkeypatch.setattr(assets, "VERIFIER", tiny_verifier(tmp_path))
    assert {size for size, found in digests().items() if found != shipped[size]} == {"m"}
    monkeypatch.setattr(assets, "EDITOR", tiny_editor(tmp_path / "editor"))
    assert {size for size, found in digests().items() if found != shipped[size]} == {"s", "m", "l"}


def test_refills_are_refused_where_compute_is_shared_out() -> None:
    """Refills draw more traces, as many as it takes: no arm beside GCPO could have as much compute."""
    with pytest.raises(UserError, match=r"gcpo\.refills must be 0"):
        load_recipe(ClaimsRecipe, "claims", ["gcpo.refills=1"])


def test_compute_that_pays_for_no_step_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DPO's traces alone, 2 * 8 * 2, are a forward pass each; GCPO's one step of 2 * 1 * 2 traces is 4 * 4 = 16.

    For 16 passes without its traces Bradley-Terry has 16 / (3 * 2 * pairs) steps, none of 100 pairs.
    """
    monkeypatch.setattr(assets, "VERIFIER", tiny_verifier(tmp_path))
    monkeypatch.setattr(claims.trace_dpo, "run", lambda *_, **__: pytest.fail("no step is left"))
    monkeypatch.setattr(claims.bradley_terry, "run", lambda *_, **__: pytest.fail("no step is left"))
    small = recipe()
    poor = {"gcpo": small.gcpo.model_copy(update={"steps": 1, "pairs_per_step": 1, "traces": 2})}
    poor["bradley_terry"] = BradleyTerryConfig(steps=2, pairs_per_step=100)  # pyright: ignore[reportArgumentType]
    harness = Harness(small.model_copy(update=poor), tmp_path / "claims")
    start = claims.Trained(assets.VERIFIER, 0.0, 0.0)
    for arm in ("dpo", "bt_head"):
        with pytest.raises(UserError, match=f"does not pay for one step of the arm {arm}; raise gcpo.steps"):
            harness._preferences(Job(arm, "m", 0, 0.1), tmp_path / arm, start)


def test_several_processes_make_a_world_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four at the same time (here threads, with a lock each) one is at it, and the others wait."""
    at_it: list[Path] = []

    def make(_: object, *, out: Path, **__: object) -> None:
        at_it.append(out)
        time.sleep(0.05)
        assert at_it.pop() == out
        assert not at_it

    monkeypatch.setattr(claims, "make_world", make)
    with ThreadPoolExecutor(4) as pool:
        worlds = set(pool.map(Harness(recipe(), tmp_path / "claims").world, [0] * 4))
    assert worlds == {tmp_path / "claims" / "worlds" / "seed0"}
