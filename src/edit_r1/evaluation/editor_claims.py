"""The paper's claims 5 and 6 about editors, in the built-in world: arms and seeds in one harness.

An arm is a verifier that rewards, and what differs from one set of settings; every arm makes as many images as the
others unless its settings say otherwise. Verifiers are those of the claims about verifiers (`claims`), of the same
seed, and are trained where they are missing.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_r1 import assets
from edit_r1.errors import UserError
from edit_r1.evaluation import claims
from edit_r1.evaluation.claims_plan import NO_CHECKLIST
from edit_r1.evaluation.claims_table import RISEN
from edit_r1.evaluation.editor import evaluate
from edit_r1.evaluation.rows import Row, made_by, read_rows, write_rows
from edit_r1.files import atomic_write
from edit_r1.runs.run import Run
from edit_r1.stages import ClaimsRecipe, EditorClaimsRecipe, RewardConfig
from edit_r1.training import editor_grpo
from edit_r1.training.editor_guards import alarms, run_probes

BASE = "base"
_SPENT = ("seconds_sample", "seconds_verify", "seconds_update")


@dataclass(frozen=True)
class Job:
    """One row of the table."""

    arm: str
    seed: int


def plan(recipe: EditorClaimsRecipe) -> list[Job]:
    """Every row, seed by seed, the base first."""
    settings = recipe.editor_claims
    return [Job(arm, seed) for seed in settings.seeds for arm in (BASE, *settings.arms)]


class Harness:
    """Makes what a job needs, in run directories under `out`; what is done is not done again."""

    def __init__(self, recipe: EditorClaimsRecipe, verifiers: ClaimsRecipe, out: Path, claims_out: Path) -> None:
        self.recipe, self.verifiers, self.out = recipe, verifiers, out
        self._claims = claims.Harness(verifiers, claims_out)

    def run(self, job: Job) -> Row:
        """The row of a job, made now or before."""
        folder = _folder(self.out, job)
        file, settings = folder / "row.json", self.recipe.digest(job.arm, self.verifiers)
        if not file.exists():
            row = self._measure(job, folder) | {"settings": settings} | made_by()
            atomic_write(file, json.dumps(row, indent=1) + "\n")
        row = json.loads(file.read_text())
        if row.get("settings") != settings:
            raise UserError(
                f"{folder} was made with other settings of the arm {job.arm}; move it away, or take another --out"
            )
        return row

    def _measure(self, job: Job, folder: Path) -> Row:
        name = self.recipe.verifier(job.arm)
        verifier, data = self._claims.verifier(name, job.seed), self._claims.world(job.seed)
        reward = RewardConfig(folder=str(verifier), checklist=name not in NO_CHECKLIST)
        models, spent = {BASE: assets.EDITOR}, {"images": 0, "seconds": 0.0}
        if job.arm != BASE:
            models[job.arm], spent = self._train(job, folder / "run", data, reward)
        found = evaluate(
            self.recipe.evaluate,
            data=data,
            models=models,
            verifier=verifier,
            out=folder / "evaluation",
            seed=job.seed,
            resume=True,
            checklist=reward.checklist,
        )
        own, base = found[job.arm], found[BASE]
        return {"arm": job.arm, "verifier": name, "seed": job.seed, **own, **_gains(own, base), **spent}

    def _train(self, job: Job, out: Path, data: Path, reward: RewardConfig) -> tuple[Path, dict[str, Any]]:
        """The trained editor, and what it took.

        `first_alarm` is the first step at whose probe a guard alarms; `curve` has images, seconds and success of each.
        """
        config = self.recipe.config_of(job.arm)
        config = config.model_copy(update={"rewards": (reward,)})
        editor_grpo.run(config, data=data, model=None, verifier=None, out=out, seed=job.seed, resume=True)
        each, seconds = config.prompts_per_step * config.group_size, 0.0
        curve: list[list[float]] = []
        lines, alarmed = Run(out).metrics(), list[int]()
        for line in lines:
            seconds += sum(line.get(name) or 0.0 for name in _SPENT)
            if "probe_oracle_success" in line:
                alarmed += [line["step"]] if alarms(*run_probes(lines, line), config.guards) else []
                curve.append([line["step"] * each, round(seconds), line["probe_oracle_success"]])
        spent = {"images": config.steps * each, "seconds": round(seconds), "first_alarm": min(alarmed, default=None)}
        return out / "model", spent | {"curve": curve}


def _folder(out: Path, job: Job) -> Path:
    return out / job.arm / f"seed{job.seed}"


def _job(row: Row) -> Job:
    return Job(row["arm"], row["seed"])


def _gains(own: Row, base: Row) -> Row:
    """What the editor gained over its base, and which share of the reward's gain the oracle confirms.

    The share is the gain of `oracle_success` over that of `reward / 10`; None where the latter is below `RISEN`.
    """
    success = own["oracle_success"] - base["oracle_success"]
    rewards = own["reward"], base["reward"]
    reward = None if None in rewards else (rewards[0] - rewards[1]) / 10
    return {
        "success_gain": success,
        "reward_gain": reward,
        "confirmed": success / reward if reward is not None and reward >= RISEN else None,
    }


def run(
    recipe: EditorClaimsRecipe,
    verifiers: ClaimsRecipe,
    *,
    out: Path,
    claims_out: Path,
    results: Path,
    seeds: Collection[int],
    arms: Collection[str],
) -> None:
    """Make the chosen rows that `results` lacks; the table is written after each."""
    harness = Harness(recipe, verifiers, out, claims_out)
    for job in collect(recipe, verifiers, out, results):
        if job.seed in seeds and job.arm in arms:
            harness.run(job)
            collect(recipe, verifiers, out, results)


def collect(recipe: EditorClaimsRecipe, verifiers: ClaimsRecipe, out: Path, results: Path) -> list[Job]:
    """Write every row there is to `results`; returns the jobs of the plan without one (see `gather`)."""
    rows, left = gather(recipe, verifiers, out, results)
    write_rows(results, rows)
    return left


def gather(
    recipe: EditorClaimsRecipe, verifiers: ClaimsRecipe, out: Path, results: Path
) -> tuple[list[Row], list[Job]]:
    """Every row there is, those that `results` has included, and the jobs of the plan without one.

    A row that was made with other settings of its arm is no row of the plan, and is left out.
    """
    jobs = plan(recipe)
    files = [_folder(out, job) / "row.json" for job in jobs]
    known = read_rows(results)
    rows = [*known, *(json.loads(file.read_text()) for file in files if file.exists())]
    digest = {job.arm: recipe.digest(job.arm, verifiers) for job in jobs}
    found = {_job(row): row for row in rows if digest.get(row["arm"], row.get("settings")) == row.get("settings")}
    more = [row for job, row in found.items() if job not in jobs]  # of other seeds and arms
    return [*(found[job] for job in jobs if job in found), *more], [job for job in jobs if job not in found]
