"""Put finished sanity runs into results/sanity.json: `python docs/make_sanity.py runs/sanity/m0 runs/sanity/m1`.

A row for each run, named by the verifier that was asked; a row of the same name is replaced.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edit_r1.evaluation.rows import read_rows, write_rows

ROOT = Path(__file__).parents[1]


def row(run: Path) -> dict[str, Any]:
    """What counts of one run."""
    config, found, made = (
        json.loads((run / name).read_text(encoding="utf-8"))
        for name in ("config.json", "sanity.json", "environment.json")
    )
    model: str = config["inputs"]["model"]
    attacks = {
        name: {"below": a["below"], "gain": a["gain"], "passed": a["passed"]} for name, a in found["attacks"].items()
    }
    return {
        "verifier": "the shipped base" if model.endswith("assets/verifier") else model.removesuffix("/model"),
        "tasks": found["tasks"],
        "fit": found["fit"],
        "attacks": attacks,
        "commit": made["commit"] + ("+changes" if made["changed"] else ""),
        "command": " ".join(made["command"]),
    }


def main(runs: Sequence[Path], file: Path) -> None:
    """Add the runs to the table."""
    new = {made["verifier"]: made for made in map(row, runs)}
    old = {made["verifier"]: made for made in read_rows(file)}
    write_rows(file, [*(old | new).values()])


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]], ROOT / "results" / "sanity.json")
