"""The harness of the claims about editors: every kind of arm really runs at a tiny size, and nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.tiny_editor import tiny_editor
from tests.training.tiny_run import tiny_verifier, tiny_world
from typer.testing import CliRunner

from edit_r1 import assets
from edit_r1.cli.main import app
from edit_r1.config import load_recipe
from edit_r1.errors import UserError
from edit_r1.evaluation import claims, editor_claims
from edit_r1.evaluation.editor_claims import Harness, Job, collect, plan
from edit_r1.records import Edit
from edit_r1.stages import ClaimsRecipe, EditorClaimsRecipe
from edit_r1.training import editor_grpo
from edit_r1.training.editor_rewards import Reward

VERIFIERS = load_recipe(ClaimsRecipe, "claims")


def recipe() -> EditorClaimsRecipe:
    """The packaged recipe at a size that proves nothing."""
    whole = load_recipe(EditorClaimsRecipe, "editor_claims")
    small = {"steps": 2, "prompts_per_step": 2, "group_size": 2, "probe_every": 1, "probe_tasks": 2, "micro_batch": 4}
    chosen = {name: whole.editor_claims.arms[name] for name in ("gcpo", "direct", "clip")}
    return whole.model_copy(
        update={
            "editor_claims": whole.editor_claims.model_copy(update={"seeds": (0,), "arms": chosen}),
            "editor_grpo": whole.editor_grpo.model_copy(update=small),
            "evaluate": whole.evaluate.model_copy(update={"tasks": 4, "max_tokens": 8, "examples": 2}),
        }
    )


def test_every_arm_of_the_packaged_recipe_goes_together() -> None:
    """Its settings are those of the section `editor_grpo`, but for what the arm says."""
    whole = load_recipe(EditorClaimsRecipe, "editor_claims")
    assert len(plan(whole)) == 3 * (1 + len(whole.editor_claims.arms))
    assert whole.config_of("gcpo") == whole.editor_grpo
    clip, sliding = whole.config_of("clip"), whole.config_of("sliding")
    assert (clip.objective, clip.kernel, clip.window) == ("clip", "cps", "fixed")
    assert sliding == clip.model_copy(update={"window": "sliding", "sde_steps": (0, 1, 2, 3), "window_every": 5})


def test_an_arm_that_cannot_be_is_one_line() -> None:
    bad = {
        'gcpo.settings={kernel="cps"}': 'set kernel = "ode"',
        'guard.like="sliding"': "guard is like sliding, which is no arm",
        'clip.settings.rewards=[{folder="x"}]': "clip is rewarded by its verifier: leave rewards out",
    }
    for change, mend in bad.items():
        result = CliRunner().invoke(
            app, ["evaluate", "editor-claims", "--missing", "--set", f"editor_claims.arms.{change}"]
        )
        assert result.exit_code == 2
        assert mend in result.output


def test_rows_of_base_and_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base with nothing spent, arms with 2 x 2 x 2 images, who rewarded them, and gains over the base."""
    monkeypatch.setattr(assets, "EDITOR", tiny_editor(tmp_path / "editor"))
    world, verifier = tiny_world(tmp_path), tiny_verifier(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(claims.Harness, "verifier", lambda self, arm, seed: asked.append(arm) or verifier)
    monkeypatch.setattr(claims.Harness, "world", lambda *_: world)

    def redness(edits: Sequence[Edit]) -> list[Reward]:
        return [Reward(float(np.asarray(edit.image)[..., 0].mean() / 25.5)) for edit in edits]

    sources: list[Any] = []
    monkeypatch.setattr(editor_grpo, "reward_function", lambda found, _: sources.extend(found) or redness)
    results, out = tmp_path / "results" / "editors.json", tmp_path / "editor_claims"
    arguments: dict[str, Any] = {"out": out, "claims_out": tmp_path, "results": results, "seeds": {0}}
    editor_claims.run(recipe(), VERIFIERS, **arguments, arms={"base", "gcpo", "direct"})
    rows = json.loads(results.read_text())
    assert [row["arm"] for row in rows] == ["base", "gcpo", "direct"]
    assert [row["images"] for row in rows] == [0, 8, 8]
    assert asked == ["gcpo", "gcpo", "direct"]
    assert [source.checklist for source in sources] == [True, False]
    assert rows[0]["success_gain"] == 0.0
    assert rows[1]["reward"] is None  # a random verifier writes nothing that can be read
    assert rows[1]["confirmed"] is None
    assert {"ci95", "oracle_keep", "oracle_quality", "seconds", "first_alarm", "commit", "command"} <= set(rows[1])
    assert [images for images, _, _ in rows[1]["curve"]] == [0, 4, 8]
    assert collect(recipe(), VERIFIERS, out, results) == [Job("clip", 0)]
    monkeypatch.setattr(Harness, "run", lambda *_: pytest.fail("what is done is not done again"))
    editor_claims.run(recipe(), VERIFIERS, **arguments, arms={"base", "gcpo", "direct"})
    assert json.loads(results.read_text()) == rows


def test_rows_of_other_seeds_and_arms_stay_in_the_table(tmp_path: Path) -> None:
    """A table of other seeds and arms loses nothing when this recipe writes to it, but rows of other settings."""
    base = {"arm": "base", "seed": 0, "settings": recipe().digest("base", VERIFIERS)}
    other = {"arm": "gcpo", "seed": 7, "settings": recipe().digest("gcpo", VERIFIERS)}
    results, rows = tmp_path / "editors.json", [other, base, other | {"seed": 8, "settings": "another"}]
    rows.insert(0, {"arm": "of_another_recipe", "seed": 0, "settings": "its own"})
    results.write_text(json.dumps(rows))
    assert Job("base", 0) not in collect(recipe(), VERIFIERS, tmp_path, results)
    assert json.loads(results.read_text()) == [rows[2], rows[0], rows[1]]


def test_a_row_of_other_settings_is_none(tmp_path: Path) -> None:
    """An arm of the same name that meant something else: its row is not taken, and its folder is not gone on with."""
    results, old = tmp_path / "editors.json", {"arm": "gcpo", "seed": 0, "settings": "another"}
    results.write_text(json.dumps([old]))
    folder = tmp_path / "gcpo" / "seed0"
    folder.mkdir(parents=True)
    (folder / "row.json").write_text(json.dumps(old))
    assert Job("gcpo", 0) in collect(recipe(), VERIFIERS, tmp_path, results)
    assert json.loads(results.read_text()) == []
    with pytest.raises(UserError, match="made with other settings of the arm gcpo; move it away"):
        Harness(recipe(), VERIFIERS, tmp_path, tmp_path).run(Job("gcpo", 0))


def test_a_row_depends_on_its_verifier(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another training of GCPO's verifier is another reward, and another shipped editor another start."""
    whole = load_recipe(EditorClaimsRecipe, "editor_claims")
    other = load_recipe(ClaimsRecipe, "claims", ["gcpo.steps=2"])

    def kept(verifiers: ClaimsRecipe) -> dict[str, bool]:
        return {arm: whole.digest(arm, verifiers) == old[arm] for arm in ("base", "gcpo", "clip", "direct")}

    old = {arm: whole.digest(arm, VERIFIERS) for arm in ("base", *whole.editor_claims.arms)}
    assert len(set(old.values())) == len(old)
    assert kept(other) == {"base": False, "gcpo": False, "clip": False, "direct": True}
    monkeypatch.setattr(assets, "EDITOR", tiny_editor(tmp_path / "editor"))
    assert not any(kept(VERIFIERS).values())


def test_the_confirmed_share_by_hand() -> None:
    """Success from 0.3 to 0.4 and reward from 5 to 7 of 10: half of the gain of 0.2 is confirmed; a fall has none."""
    base = {"oracle_success": 0.3, "reward": 5.0}
    found = editor_claims._gains({"oracle_success": 0.4, "reward": 7.0}, base)
    assert found == pytest.approx({"success_gain": 0.1, "reward_gain": 0.2, "confirmed": 0.5})
    for reward in (4.0, 5.09):  # it fell, or has not risen by a tenth of a point
        assert editor_claims._gains({"oracle_success": 0.4, "reward": reward}, base)["confirmed"] is None
