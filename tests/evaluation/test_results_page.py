"""docs/results.md says truly which targets a run has met."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

PAGE: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "make_results.py"))


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
        "seconds": changes.get("seconds", 900),
        "verifier": {"cold_start": cold, "gcpo": last["v"]},
        "editor": {"base": {"oracle_success": 0.35, "noop_rate": 0.1}, "grpo": last["e"]},
    }


def marks(found: dict[str, Any]) -> str:
    """One mark per target."""
    return "".join(line.rstrip(" |")[-1] for line in PAGE["targets"]([found], ["seed 0"], [2]).split("\n")[2:])


def test_targets_are_met_at_their_bounds() -> None:
    assert marks(report()) == "✓" * 9


def test_a_run_with_one_thread_says_nothing_of_the_time() -> None:
    last = PAGE["targets"]([report(seconds=1500)], ["seed 1"], [1]).split("\n")[-1]
    assert last == "| the demo: at most 15 minutes on two cores | – |"


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
