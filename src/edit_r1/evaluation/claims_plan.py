"""Which results the claims about verifiers have, where each is kept, and which of them are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edit_r1.evaluation.rows import Row, read_rows, write_rows
from edit_r1.stages import Arm, ClaimsConfig, ClaimsRecipe, Size, TraceForm

BARE: dict[Arm, TraceForm] = {"direct": "direct", "think": "think", "verify": "verify"}
_MIDDLE: tuple[Arm, ...] = ("base", "cold_start", "gcpo", *BARE, "rule_grpo", "dpo", "bt_head")
NO_CHECKLIST = ("direct", "think")
CLAIM: dict[Arm, int] = {
    "base": 4, "direct": 1, "think": 1, "verify": 1, "cold_start": 1, "gcpo": 2, "bt_head": 2, "rule_grpo": 2, "dpo": 2,
}  # fmt: skip
"""The claim of the paper that an arm is there for."""


@dataclass(frozen=True)
class Job:
    """One result of the table. `label_noise` is the share of wrong training labels."""

    arm: Arm
    size: Size
    seed: int
    label_noise: float

    def folder(self, out: Path, noise: float) -> Path:
        """Its place; the world's own `noise` is not in the name."""
        name = self.arm if self.label_noise == noise else f"{self.arm}_noise{round(100 * self.label_noise)}"
        return out / self.size / f"seed{self.seed}" / name


def plan(config: ClaimsConfig, noise: float) -> list[Job]:
    """Every result, in the order in which they are best made: seed by seed, what others start from first."""
    jobs: list[Job] = []
    for seed in config.seeds:
        jobs += [Job(arm, "m", seed, noise) for arm in _MIDDLE]
        jobs += [Job("gcpo", "m", seed, other) for other in config.label_noise]
    jobs += [Job(arm, "m", seed, noise) for seed in config.more_seeds for arm in ("cold_start", "gcpo")]
    for size in ("s", "l"):
        jobs += [Job(arm, size, seed, noise) for seed in config.seeds for arm in ("base", "cold_start", "gcpo")]
    return jobs


def collect(recipe: ClaimsRecipe, out: Path, results: Path) -> list[Job]:
    """Write the rows of every finished job to `results`; returns the jobs that are not (see `gather`)."""
    rows, left = gather(recipe, out, results)
    write_rows(results, rows)
    return left


def gather(recipe: ClaimsRecipe, out: Path, results: Path) -> tuple[list[Row], list[Job]]:
    """The rows of every finished job, and the jobs that are not finished.

    Rows that `results` has already stay, whichever machine they were made on and whatever their seed; `out` adds those
    that the plan lacks. Rows that were made with other settings than the recipe's are left out.

    Raises:
        UserError: `results` is damaged.
    """
    noise = recipe.world.label_noise
    known: dict[Job, list[Row]] = {}
    for row in read_rows(results):
        known.setdefault(Job(row["arm"], row["size"], row["seed"], row["label_noise"]), []).append(row)
    jobs = plan(recipe.claims, noise)
    more = {job: rows for job, rows in known.items() if job not in jobs and fit(rows, job, recipe)}
    found: dict[Job, list[Row]] = {}
    for job in jobs:
        file = job.folder(out, noise) / "rows.json"
        made: list[Row] = json.loads(file.read_text()) if file.exists() else []
        for rows in (known.get(job, []), made):
            if rows and fit(rows, job, recipe):
                found.setdefault(job, rows)
    rows = [row for each in (found | more).values() for row in each]
    return rows, [job for job in jobs if job not in found]


def fit(rows: Sequence[Row], job: Job, recipe: ClaimsRecipe) -> bool:
    """Whether rows were made with the recipe's settings."""
    return all(row.get("settings") == recipe.digest(job.arm, job.size) for row in rows)
