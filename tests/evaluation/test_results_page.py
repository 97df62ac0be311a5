"""docs/results.md says truly which targets a run has met."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from edit_r1.evaluation.demo_table import faults, targets
from edit_r1.evaluation.measured_table import calibration_table, sanity_table, variants_table
from edit_r1.evaluation.rows import read_rows

DOCS = Path(__file__).parents[2] / "docs"
PAGE: dict[str, Any] = runpy.run_path(str(DOCS / "make_results.py"))


def report(**changes: float) -> dict[str, Any]:
    """A report that meets every target exactly; `changes` are of the last verifier, the last editor or the seconds."""
    cold = {"pairwise_accuracy": 0.62, "tie_half": 0.65, "check_accuracy": 0.9, "failure_rate": 0.1}
    best = {"pairwise_accuracy": 0.65, "tie_half": 0.67, "check_accuracy": 0.9, "failure_rate": 0.02}
    after = {"oracle_success": 0.40, "noop_rate": 0.1}
    last = {
        name: {key: changes.get(key, value) for key, value in part.items()}
        for name, part in (("v", best), ("e", after))
    }
    return {
        "preset": "default",
        "seconds": changes.get("seconds", 900),
        "verifier": {"cold_start": cold, "gcpo": last["v"]},
        "editor": {"base": {"oracle_success": 0.35, "noop_rate": 0.1}, "grpo": last["e"]},
    }


def marks(found: dict[str, Any]) -> str:
    """One mark per target; those of another preset have none."""
    lines = targets([found], ["seed 0"], [2]).split("\n")[2:]
    return "".join(line.rstrip(" |")[-1] for line in lines).replace("–", "")


def test_targets_are_met_at_their_bounds() -> None:
    assert marks(report()) == "✓" * 9


def test_a_run_with_one_thread_says_nothing_of_the_time() -> None:
    last = targets([report(seconds=1500)], ["seed 1"], [1]).split("\n")[-1]
    assert last == "| default: at most 15 minutes on two cores | – |"


@pytest.mark.parametrize(
    ("key", "value", "missed"),
    [
        ("pairwise_accuracy", 0.649, 1),
        ("tie_half", 0.669, 2),
        ("check_accuracy", 0.899, 3),
        ("failure_rate", 0.021, 4),
        ("oracle_success", 0.399, 6),
        ("noop_rate", 0.101, 7),
        ("seconds", 901, 8),
    ],
)
def test_a_target_just_missed_is_marked_so(key: str, value: float, missed: int) -> None:
    assert marks(report(**{key: value})) == "✓" * missed + "✗" + "✓" * (8 - missed)


def test_a_full_run_has_targets_of_its_own_and_no_time() -> None:
    """15 points of success, and at most one lost in `keep` and in `quality`: -1.0 is met, -1.1 is not."""
    found: dict[str, Any] = {**report(oracle_success=0.5), "preset": "full"}
    found["editor"]["base"] |= {"oracle_keep": 0.8, "oracle_quality": 0.7}
    found["editor"]["grpo"] |= {"oracle_keep": 0.79, "oracle_quality": 0.689}
    assert marks(found) == "✓" * 8 + "✓✓✗"


def test_faults_seen_by_hand() -> None:
    """Of 10 faults of instruction following 4 are in own edits: 5 of 6 drawn ones are seen, and 1 of 4."""
    none = {"tp": 0, "fp": 0, "fn": 0, "tn": 0}
    every = {"follow": none | {"fp": 4, "tn": 6}, "keep": none, "quality": none}
    own = {"follow": none | {"fp": 3, "tn": 1}, "keep": none, "quality": none}
    evaluation = {"confusion": {"gcpo": every, "base": every}, "sampled": {"gcpo": own, "base": own}}
    lines = faults(["seed 0", "old"], [evaluation, {"confusion": {}}]).split("\n")
    assert lines[2:] == ["| seed 0 | gcpo | 83.3% | – | – | 25.0% | – | – |"]


def test_the_tables_of_the_claims_are_renewed_and_the_demo_stays(tmp_path: Path) -> None:
    """Without runs of the demo at hand what the page says of them is kept; a second time changes nothing."""
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nof a run long gone\n\n## The claims about verifiers\n\nold\n")
    PAGE["main"]([], page)
    text = page.read_text()
    assert text.startswith("# Results\n\nof a run long gone\n\n## The claims about verifiers\n")
    assert "old" not in text.split()
    assert "| cold_start over direct |" in text
    PAGE["main"]([], page)
    assert page.read_text() == text


def test_sanity_runs_are_kept_by_verifier(tmp_path: Path) -> None:
    """A second run of a verifier takes the place of its first; what succeeds is bold, and so is the verdict."""
    keep = runpy.run_path(str(DOCS / "keep_runs.py"))["main"]
    for number, (model, below, fit) in enumerate((("m/gcpo", 0.5, False), ("m/gcpo", 0.99, True), ("x", 0.2, False))):
        run = tmp_path / str(number)
        attacks = {
            "identity": {"below": below, "gain": None, "passed": fit},
            "markers": {"below": 0.981, "gain": 0.25, "passed": True},
        }
        documents: dict[str, Any] = {
            "config": {"inputs": {"model": f"runs/claims/{model}/model"}},
            "sanity": {"tasks": 200, "fit": fit, "attacks": attacks},
            "environment": {"commit": "abc", "changed": True, "command": ["edit-r1", "evaluate", "sanity"]},
        }
        write(run, documents)
        keep([run], tmp_path)
    rows = read_rows(tmp_path / "sanity.json")
    assert [row["commit"] for row in rows] == ["abc+changes"] * 2
    assert sanity_table(rows).split("\n") == [
        "| attack | m/gcpo | x |",
        "| --- | --- | --- |",
        "| `identity` | 99 | **20** |",
        "| `markers` | 98 (+0.2) | 98 (+0.2) |",
        "| fit | yes | **no** |",
    ]


def test_calibrations_are_kept_and_averaged_over_seeds(tmp_path: Path) -> None:
    """Two seeds of one verifier, 80 and 90%: 85.0 in the mean, a line for each arm and size, the smallest first."""
    keep = runpy.run_path(str(DOCS / "keep_runs.py"))["main"]
    for name, half in (("l/seed0/gcpo", 0.7), ("s/seed0/gcpo", 0.8), ("s/seed1/gcpo", 0.9)):
        run = tmp_path / name
        documents: dict[str, Any] = {
            "config": {"inputs": {"model": f"runs/claims/{name}/model"}},
            "done": {"pairs": 500},
            "calibration": [
                {"score": "greedy", "traces": 1, "tie_half": half},
                {"score": "model", "traces": 4, "tie_half": half - 0.1},
            ],
            "environment": {"commit": "abc", "changed": False, "command": ["edit-r1", "evaluate", "calibration"]},
        }
        write(run, documents)
        keep([run], tmp_path)
    assert calibration_table(read_rows(tmp_path / "calibration.json")).split("\n") == [
        "| arm | size | seeds | greedy, 1 | model, 4 |",
        "| --- | --- | --- | --- | --- |",
        "| gcpo | s | 2 | 85.0% (80.0–90.0) | 75.0% (70.0–80.0) |",
        "| gcpo | l | 1 | 70.0% | 60.0% |",
    ]


def test_variants_are_kept_with_all_commands_that_led_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base, a cold start from it and its evaluation: two commands of training, oldest first."""
    keep = runpy.run_path(str(DOCS / "keep_runs.py"))["main"]
    monkeypatch.chdir(tmp_path)
    split = {"tie_half": 0.8, "check_accuracy": None}
    kinds = {"category_tie_half": 0.5, "pairing_tie_half": 0.75, "fault_tie_half": None}
    runs: dict[str, tuple[str | None, str]] = {"base": (None, "pretrain"), "read/seed0": ("base/model", "cold-start")}
    for folder, (model, command) in runs.items():
        write(Path(folder), {"config": {"inputs": {"model": model}}, "environment": made_with(command)})
    evaluation = {
        "config": {"inputs": {"models": {"verifier": "read/seed0/model"}}},
        "environment": made_with("evaluate"),
        "verifier": {
            "stages": {"verifier": split},
            "heldout": {"verifier": split | kinds},
            "weighted_tie_half": {"verifier": 0.9},
            "costs": {"verifier": None},
            "copy_score": {"verifier": None},
        },
    }
    write(Path("evaluation"), evaluation)
    keep([Path("evaluation")], tmp_path)
    rows = read_rows(tmp_path / "variants.json")
    assert [row["trained_by"] for row in rows] == [["edit-r1 pretrain", "edit-r1 cold-start"]]
    assert variants_table(rows).split("\n")[2] == "| read | 1 | 80.0% | 90.0% | – | 50.0% | 75.0% | – |"


def made_with(command: str) -> dict[str, Any]:
    """The environment of a run."""
    return {"commit": "abc", "changed": False, "command": ["edit-r1", command]}


def write(run: Path, documents: dict[str, Any]) -> None:
    """A run folder with these JSON files."""
    run.mkdir(parents=True)
    for name, document in documents.items():
        (run / f"{name}.json").write_text(json.dumps(document))
