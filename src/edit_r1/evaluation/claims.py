"""The paper's claims 1 to 4 about verifiers, in the built-in world: arms, sizes and seeds in one harness.

Every arm has the same backbone, data and training compute (`bt_head` less: it stops before it knows its pairs by heart)
as the one that it is compared with; the compute is counted in forward passes of an average row (a backward pass is two
of them), as if nothing were cached. Each stage is a run directory and each result a file, so that a run of many hours
stops and goes on anywhere.

| arm | trained on | compared with |
|---|---|---|
| `base` | pretraining alone: it has never judged | all |
| `direct` | the score alone, asked without principles | `cold_start` (claim 1) |
| `think` | what there is to see, and the score, asked without principles | `cold_start` (claim 1) |
| `verify` | checks without evidence, and the score | `cold_start` (claim 1) |
| `cold_start` | checks with evidence, and the score | |
| `gcpo` | preference pairs, from the cold start | `cold_start` (claims 2, 3) |
| `bt_head` | the same pairs, a Bradley-Terry head on the cold start's backbone | `gcpo` (claim 2) |
| `rule_grpo` | the same pairs, each image by itself, GRPO on a rule, from the cold start | `gcpo` (claim 2) |
| `dpo` | the same pairs, pairs of traces, DPO from the cold start | `gcpo` (claim 2) |
"""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from edit_r1 import assets
from edit_r1.data.make_world import make_world
from edit_r1.data.store import JudgedPair, read_edits, read_pairs
from edit_r1.errors import UserError
from edit_r1.evaluation.answers import Inquiry, ask, read_answers, trace_tokens
from edit_r1.evaluation.claims_plan import BARE, CLAIM, NO_CHECKLIST, Job, collect, fit
from edit_r1.evaluation.costs import copy_score, score_costs
from edit_r1.evaluation.heldout import heldout_kinds
from edit_r1.evaluation.metrics import ScoredPair, tie_half, verifier_metrics
from edit_r1.evaluation.rows import Row, made_by
from edit_r1.evaluation.verifier import checked_pairs, judged_traces, scored_pair, scored_pairs
from edit_r1.files import atomic_write
from edit_r1.stages import (
    EDITS,
    HELDOUT_PAIRS,
    TEST_PAIRS,
    Arm,
    ClaimsRecipe,
    Size,
    TraceForm,
)
from edit_r1.training import bradley_terry, cold_start, gcpo, pretrain_verifier, trace_dpo
from edit_r1.training.compute import FORWARD_AND_BACKWARD, row_flops, row_tokens
from edit_r1.verifier.tiny import load_verifier_model

_SAMPLE = 64  # rows whose compute is counted


@dataclass(frozen=True)
class Trained:
    """A model folder, and what its training took on top of pretraining."""

    model: Path
    flops: float
    tokens: float


class Harness:
    """Makes what a job needs, in run directories under `out`; what is done is not done again."""

    def __init__(self, recipe: ClaimsRecipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        self._noise = recipe.world.label_noise

    def run(self, job: Job) -> list[Row]:
        """The rows of a job, one per split, made now or before.

        Raises:
            UserError: they were made before with other settings.
        """
        folder = job.folder(self.out, self._noise)
        file = folder / "rows.json"
        if not file.exists():
            trained = self._train(job, folder)
            found = self._evaluate(job, folder, trained)
            atomic_write(file, json.dumps([self._row(job, trained, measured) for measured in found], indent=1) + "\n")
        rows = json.loads(file.read_text())
        if not fit(rows, job, self.recipe):
            raise UserError(
                f"{folder} was made with other settings of the arm {job.arm}; move it away, or take another --out"
            )
        return rows

    def _row(self, job: Job, trained: Trained, measured: Row) -> Row:
        return {
            "claim": CLAIM[job.arm],
            "arm": job.arm,
            "size": job.size,
            "seed": job.seed,
            "label_noise": job.label_noise,
            **measured,
            "tokens": round(trained.tokens),
            "train_flops": trained.flops,
            "settings": self.recipe.digest(job.arm, job.size),
            **made_by(),
        }

    def verifier(self, arm: Arm, seed: int) -> Path:
        """The trained verifier of an arm, of the size m."""
        job = Job(arm, "m", seed, self._noise)
        return self._train(job, job.folder(self.out, self._noise)).model

    def world(self, seed: int) -> Path:
        """The data of a seed."""
        return self._world(seed, self._noise)

    def _world(self, seed: int, noise: float) -> Path:
        """The data of a seed; with other noise than the world's own only training pairs are made."""
        config, out = self.recipe.world, self.out / "worlds" / f"seed{seed}"
        if noise != self._noise:
            few = {"cold_start_edits": 1, "test_pairs": 1, "heldout_pairs": 1}
            config, out = (
                config.model_copy(update={"label_noise": noise, **few}),
                out.with_name(f"{out.name}_noise{noise}"),
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.with_name(f"{out.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one makes the data, and the others wait for it
            make_world(config, out=out, seed=seed, resume=True)
        return out

    def _base(self, size: Size) -> Path:
        """The pretrained model of a size; those that are not shipped are trained first, which takes hours."""
        model: Path | None = None
        runs, done = self.recipe.pretraining(size), self.out / size / "base" / "done.json"
        for seed, (name, config) in enumerate(runs.items()):
            out = self.out / size / name
            if name == "base" or not done.exists():  # a finished base does without the run before it
                pretrain_verifier.run(config, out=out, seed=seed, resume=True, model=model)
            model = out / "model"
        return model or assets.VERIFIER

    def _train(self, job: Job, folder: Path) -> Trained:
        base = self._base(job.size)
        if job.arm == "base":
            return Trained(base, 0.0, 0.0)
        if job.arm in ("cold_start", *BARE):
            return self._supervised(job, folder, base)
        start = self._train(
            cold := Job("cold_start", job.size, job.seed, self._noise), cold.folder(self.out, self._noise)
        )
        added = self._preferences(job, folder, start)
        return Trained(added.model, start.flops + added.flops, start.tokens + added.tokens)

    def _lessons(self, job: Job, form: TraceForm) -> list[dict[str, Any]]:
        edits = islice(read_edits(self._world(job.seed, self._noise) / EDITS), _SAMPLE)
        config = self.recipe.cold_start.model_copy(update={"form": form})
        return list(cold_start.selected_traces(edits, config, job.seed, Counter()))

    def _supervised(self, job: Job, folder: Path, base: Path) -> Trained:
        """A cold start of some form: as much compute as the full one has, so more steps on shorter texts."""
        model, processor = load_verifier_model(base)
        lessons = self._lessons(job, form := BARE.get(job.arm, "full"))
        cost = row_flops(model, processor, lessons)
        full = row_flops(model, processor, self._lessons(job, "full"))
        config = self.recipe.cold_start
        config = config.model_copy(update={"form": form, "steps": round(config.steps * full / cost)})
        data = self._world(job.seed, self._noise)
        start = None if job.size == "m" else base  # the shipped base, wherever this package lies
        cold_start.run(config, data=data, model=start, out=folder, seed=job.seed, resume=True)
        rows = config.steps * config.batch_size
        return Trained(folder / "model", FORWARD_AND_BACKWARD * cost * rows, row_tokens(processor, lessons) * rows)

    def _preferences(self, job: Job, folder: Path, start: Trained) -> Trained:
        """Training on pairs, from the cold start. GCPO's compute is what the others may take."""
        model, processor = load_verifier_model(start.model)
        lessons = self._lessons(job, "full")
        asked = [{key: value for key, value in row.items() if key != "completion"} for row in lessons]
        cost, prompt_cost = row_flops(model, processor, lessons), row_flops(model, processor, asked)
        config = self.recipe.gcpo
        drawn, updates = config.steps // config.updates_per_batch * config.rows_per_step, config.updates_per_batch
        # Each trace is written and trained on; where a batch has several updates, it is also read once before them.
        budget = cost * drawn * (1 + (updates > 1) + FORWARD_AND_BACKWARD * updates)
        rest: dict[str, Any] = {
            "data": self._world(job.seed, job.label_noise), "model": start.model, "out": folder,
            "seed": job.seed, "resume": True,
        }  # fmt: skip
        if job.arm == "bt_head":
            bradley = self.recipe.bradley_terry
            of_step = FORWARD_AND_BACKWARD * prompt_cost * 2 * bradley.pairs_per_step
            # More than the recipe's steps would only learn the pairs by heart (LOG.md).
            steps = min(bradley.steps, _paid(job.arm, budget / of_step))
            bradley_terry.run(bradley.model_copy(update={"steps": steps}), **rest)
            tokens, budget = row_tokens(processor, asked) * 2 * bradley.pairs_per_step * steps, of_step * steps
        elif job.arm == "dpo":
            dpo = self.recipe.trace_dpo
            written = 2 * self.recipe.world.train_pairs * dpo.traces
            of_step = (1 + FORWARD_AND_BACKWARD) * 2 * dpo.batch_size  # passes, the reference's among them
            steps = _paid(job.arm, (budget / cost - written) / of_step)
            trace_dpo.run(dpo.model_copy(update={"steps": steps}), **rest)
            tokens = row_tokens(processor, lessons) * (written + 2 * dpo.batch_size * steps)
            budget = cost * (written + of_step * steps)
        else:
            rule = {"reward": "pointwise", "scale_rewards": "group"} if job.arm == "rule_grpo" else {}
            gcpo.run(config.model_copy(update=rule), **rest)
            tokens = row_tokens(processor, lessons) * drawn
        return Trained(folder / "model", budget, tokens)

    def _evaluate(self, job: Job, folder: Path, trained: Trained) -> list[Row]:
        """The metrics and the mean number of tokens of a trace, for each split; of `heldout` what is held out too."""
        config, data = self.recipe.evaluate, self._world(job.seed, self._noise)
        found: list[Row] = []
        for split, name, most in (
            (self.recipe.world.split, TEST_PAIRS, config.pairs),
            ("heldout", HELDOUT_PAIRS, config.heldout_pairs),
        ):
            count = min(most, config.base_pairs) if job.arm == "base" else most
            pairs = list(islice(read_pairs(data / name), count))
            written, by_checks, costs, copies = 0.0, None, None, None
            if job.arm == "bt_head":
                scored = _judged(trained.model, pairs)
                metrics = verifier_metrics(scored, [], traces_per_edit=0)
            else:
                journal = folder / f"traces_{split}_{self.recipe.digest(job.arm, job.size)}.jsonl"
                inquiry = Inquiry(trained.model, data / name, len(pairs), journal, job.arm not in NO_CHECKLIST)
                ask([inquiry], config, job.seed)
                answers = read_answers(inquiry, pairs)
                scored, traces = scored_pairs(pairs, answers), list(judged_traces(pairs, answers))
                metrics = verifier_metrics(scored, traces, traces_per_edit=config.traces)
                written = trace_tokens(trained.model, [trace.verdict for trace in traces])
                if inquiry.checklist:
                    by_checks = tie_half(checked_pairs(pairs, answers))
                    costs, copies = score_costs(traces), copy_score(traces)
            kinds = heldout_kinds(pairs, scored) if split == "heldout" else {}
            counts = {"weighted_tie_half": by_checks, "costs": costs, "copy_score": copies}
            found.append({"split": split, **metrics.to_json(), **counts, **kinds, "trace_tokens": written})
        return found


def _paid(arm: Arm, steps: float) -> int:
    """Whole steps. `UserError` if there is none: to a trainer that would be no limit."""
    if round(steps) < 1:
        raise UserError(f"the compute of gcpo.steps does not pay for one step of the arm {arm}; raise gcpo.steps")
    return round(steps)


def _judged(model: Path, pairs: Sequence[JudgedPair]) -> list[ScoredPair]:
    """Pairs with the scores of a Bradley-Terry head."""
    scores = bradley_terry.score(model, [e for p in pairs for e in (p.preference.first, p.preference.second)])
    return [
        scored_pair(pair, *both) for pair, both in zip(pairs, zip(scores[::2], scores[1::2], strict=True), strict=True)
    ]


def run(
    recipe: ClaimsRecipe,
    *,
    out: Path,
    results: Path,
    seeds: Collection[int],
    arms: Collection[str],
    sizes: Collection[str],
) -> None:
    """Make the chosen jobs that `results` lacks, and write every row there is to it after each of them.

    Several processes may share `out` as long as they choose different seeds or sizes; of them, the sizes that are not
    shipped need a base, which only one process may train.
    """
    harness = Harness(recipe, out)
    for job in collect(recipe, out, results):
        if job.seed in seeds and job.arm in arms and job.size in sizes:
            harness.run(job)
            collect(recipe, out, results)
