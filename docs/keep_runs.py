"""Keep finished runs in results/: `python docs/keep_runs.py runs/sanity/m0 runs/calibration/gcpo_m0`.

Those of `edit-r1 evaluate sanity` become rows of results/sanity.json, those of `edit-r1 evaluate calibration` of
results/calibration.json, those of `edit-r1 evaluate verifier` of results/variants.json, each named by the verifier that
was asked; a row of the same name is replaced.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edit_r1.evaluation.rows import read_rows, write_rows

ROOT = Path(__file__).parents[1]


def sanity(run: Path) -> dict[str, Any]:
    """What counts of an attack on a verifier."""
    found = _read(run / "sanity.json")
    attacks = {
        name: {"below": a["below"], "gain": a["gain"], "passed": a["passed"]} for name, a in found["attacks"].items()
    }
    return {"tasks": found["tasks"], "fit": found["fit"], "attacks": attacks}


def calibration(run: Path) -> dict[str, Any]:
    """What each score is worth, by the number of traces."""
    return {"pairs": _read(run / "done.json")["pairs"], "scores": _read(run / "calibration.json")}


def variant(run: Path) -> dict[str, Any]:
    """What was measured of a verifier, and how it was trained, from the first command to the last."""
    found = _read(run / "verifier.json")
    numbers = {key: found[key]["verifier"] for key in ("heldout", "weighted_tie_half", "costs", "copy_score")}
    made_by = trained(Path(_read(run / "config.json")["inputs"]["models"]["verifier"]))
    return {"test": found["stages"]["verifier"], **numbers, "trained_by": made_by}


def trained(model: Path) -> list[str]:
    """The commands that led to a model folder, as far as their runs are there and were made by commands."""
    run = model.parent if model.name == "model" else model
    if not (run / "environment.json").exists():
        return []
    start = _read(run / "config.json")["inputs"].get("model")
    before = trained(Path(start)) if start else []
    command = " ".join(_read(run / "environment.json")["command"])
    return [*before, command] if command.startswith("edit-r1") else before


TABLES = {"sanity": ("sanity", sanity), "calibration": ("calibration", calibration), "verifier": ("variants", variant)}
"""The file that a run of each kind has, the table for it, and how it is read."""


def row(run: Path, kind: str) -> dict[str, Any]:
    """One run."""
    config, made = _read(run / "config.json"), _read(run / "environment.json")
    model: str = config["inputs"]["models"]["verifier"] if kind == "verifier" else config["inputs"]["model"]
    shipped = model == "None" or model.endswith("assets/verifier")
    scored = config.get("aggregate", "model")  # by the suite: the score as written, or another number
    return {
        "verifier": ("the shipped base" if shipped else model.removesuffix("/model"))
        + ("" if scored == "model" else f", {scored}"),
        **TABLES[kind][1](run),
        "commit": made["commit"] + ("+changes" if made["changed"] else ""),
        "command": " ".join(made["command"]),
    }


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def main(runs: Sequence[Path], results: Path) -> None:
    """Add the runs to their tables."""
    for kind, (name, _) in TABLES.items():
        new = {made["verifier"]: made for made in (row(run, kind) for run in runs if (run / f"{kind}.json").exists())}
        old = {made["verifier"]: made for made in read_rows(results / f"{name}.json")}
        if new:
            write_rows(results / f"{name}.json", [*(old | new).values()])


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]], ROOT / "results")
