"""Held-out measurement of verifiers: pairs ordered as the annotators did, and checks that agree with the oracle.

Of real edits nobody knows the truth: their pairs are measured, and their checks are not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from edit_r1 import assets
from edit_r1.data.gold import gold_checks, truth_of
from edit_r1.data.store import JudgedPair, read_pairs
from edit_r1.evaluation.answers import Answer, Answers, Inquiry, ask, read_answers
from edit_r1.evaluation.costs import copy_score, score_costs
from edit_r1.evaluation.heldout import heldout_kinds
from edit_r1.evaluation.metrics import (
    Confusion,
    JudgedTrace,
    ScoredPair,
    confusion,
    failure_counts,
    pairs_by_category,
    tie_half,
    verifier_metrics,
)
from edit_r1.evaluation.results import VerifierResult
from edit_r1.files import atomic_write, disk_errors
from edit_r1.images import image_hash
from edit_r1.records import Edit, Failure, Verdict
from edit_r1.runs.run import Run, made_from, weights_of
from edit_r1.stages import HELDOUT_PAIRS, SAMPLED, TEST_PAIRS, EvaluateConfig
from edit_r1.verifier.aggregation import reduce_scores

_TABLES = (
    "stages", "heldout", "by_category", "confusion", "sampled", "weighted_tie_half", "costs", "copy_score", "failures",
)  # fmt: skip


def judged_traces(pairs: Sequence[JudgedPair], answers: Sequence[Answers]) -> Iterator[JudgedTrace]:
    """Every trace beside the truth of what it checks: of nothing, when it was asked without principles."""
    for pair, answer in zip(pairs, answers, strict=True):
        sides = (
            (pair.preference.first, pair.first_truth, answer.first),
            (pair.preference.second, pair.second_truth, answer.second),
        )
        for edit, truth, said in sides:
            known = truth_of(edit, truth) if truth else None
            gold = tuple(finding.met for finding in known.findings) if known else None
            for verdict in said.verdicts:
                checked = isinstance(verdict, Verdict) and verdict.checks
                sampled, copy = edit.editor.startswith(SAMPLED), bool(known and known.noop)
                yield JudgedTrace(verdict, gold if checked else (), sampled, copy)


def scored_pair(pair: JudgedPair, first: float | None, second: float | None) -> ScoredPair:
    """A preference with the scores of its edits; pairs of one source belong together."""
    task = pair.preference.task
    return ScoredPair(first, second, pair.preference.choice, image_hash(task.source), task.category)


def scored_pairs(pairs: Sequence[JudgedPair], answers: Sequence[Answers]) -> list[ScoredPair]:
    """Preferences with the mean scores of the traces."""
    return [scored_pair(pair, a.first.score, a.second.score) for pair, a in zip(pairs, answers, strict=True)]


def checked_pairs(pairs: Sequence[JudgedPair], answers: Sequence[Answers]) -> list[ScoredPair]:
    """Preferences with the mean weighted share of met checks in place of the scores that the traces write."""
    both = [[reduce_scores(side.met).mean for side in (a.first, a.second)] for a in answers]
    return [scored_pair(pair, *means) for pair, means in zip(pairs, both, strict=True)]


def _shown(edit: Edit, truth: str, said: Answer) -> dict[str, Any]:
    """One edit of an example: the trace whose score is nearest to the mean, its checks beside the truth."""
    readable = [v for v in said.verdicts if isinstance(v, Verdict)]
    if not readable:
        failure = next(v for v in said.verdicts if isinstance(v, Failure))
        return {"score": None, "trace": failure.text, "checks": [], "failure": failure.kind}
    verdict = min(readable, key=lambda v: abs(v.score - (said.score or 0.0)))
    gold = gold_checks(edit, truth) if truth else [None] * len(verdict.checks)
    checks = [
        {
            "question": c.principle.question,
            "category": c.principle.category,
            "met": c.met,
            "reason": c.reason,
            "truth": t,
        }
        for c, t in zip(verdict.checks, gold, strict=True)
    ]
    return {"score": said.score, "trace": verdict.trace, "checks": checks, "failure": None}


def _margin(pair: JudgedPair, answer: Answers) -> float:
    """Score of the preferred edit less that of the other; a missing score counts as a tie."""
    if answer.first.score is None or answer.second.score is None:
        return 0.0
    margin = answer.first.score - answer.second.score
    return margin if pair.preference.choice == "first" else -margin


def _choose(pairs: Sequence[JudgedPair], stages: Mapping[str, Sequence[Answers]], count: int) -> list[int]:
    """Pairs worth a look: most changed for the better, most changed for the worse, and some plainly right."""
    first, last = list(stages.values())[max(0, len(stages) - 2)], list(stages.values())[-1]
    margins = [(_margin(p, a), _margin(p, b)) for p, a, b in zip(pairs, first, last, strict=True)]
    fixed = [i for i, (before, after) in enumerate(margins) if before <= 0 < after]
    broken = [i for i, (before, after) in enumerate(margins) if after <= 0 < before]
    right = [i for i, (before, after) in enumerate(margins) if before > 0 and after > 0]
    fixed.sort(key=lambda i: margins[i][0] - margins[i][1])
    broken.sort(key=lambda i: margins[i][1] - margins[i][0])
    half = max(1, count // 2)
    return [*fixed[:half], *broken[: max(1, count // 4)], *right[: max(1, count // 4)]][:count]


def examples(
    pairs: Sequence[JudgedPair], stages: Mapping[str, Sequence[Answers]], count: int, images: Path
) -> list[dict[str, Any]]:
    """Examples for the report; their pictures are written into `images`."""
    shown: list[dict[str, Any]] = []
    with disk_errors(images):
        images.mkdir(parents=True, exist_ok=True)
        for index in _choose(pairs, stages, count):
            pair = pairs[index]
            preference = pair.preference
            files: dict[str, str] = {}
            for key, image in (
                ("source", preference.task.source),
                ("first", preference.first.image),
                ("second", preference.second.image),
            ):
                image.save(images / f"pair{index}_{key}.png")
                files[key] = f"{images.name}/pair{index}_{key}.png"
            said = {
                stage: {
                    "first": _shown(preference.first, pair.first_truth, answers[index].first),
                    "second": _shown(preference.second, pair.second_truth, answers[index].second),
                }
                for stage, answers in stages.items()
                if index < len(answers)  # the base is asked about fewer pairs
            }
            task = {"instruction": preference.task.instruction, "category": preference.task.category}
            shown.append(task | files | {"choice": preference.choice, "stages": said})
    return shown


def evaluate(
    config: EvaluateConfig, *, data: Path, models: Mapping[str, Path], out: Path, seed: int, resume: bool
) -> dict[str, Any]:
    """Measure verifiers on the same held-out pairs with the same number of traces, and write `out/verifier.json`."""
    places = {name: str(path) for name, path in models.items()}
    inputs = {"seed": seed, **made_from(data), "models": places, **weights_of(*models.values())}
    run = Run.open(out, config, resume, inputs=inputs)
    if run.done is not None:
        return run.done
    held = (data / HELDOUT_PAIRS).exists()  # no kinds are held out where edits are real
    pairs = list(islice(read_pairs(data / TEST_PAIRS), config.pairs))
    heldout = list(islice(read_pairs(data / HELDOUT_PAIRS), config.heldout_pairs)) if held else []

    def inquiry(name: str, folder: str, count: int, suffix: str = "") -> Inquiry:
        count = min(count, config.base_pairs) if name == "base" else count
        return Inquiry(models[name], data / folder, count, out / "traces" / f"{name}{suffix}.jsonl")

    asked = {name: inquiry(name, TEST_PAIRS, len(pairs)) for name in models}
    kinds = {name: inquiry(name, HELDOUT_PAIRS, len(heldout), "_heldout") for name in models if heldout}
    ask([*asked.values(), *kinds.values()], config, seed)
    result: dict[str, Any] = {key: {} for key in _TABLES}
    stages: dict[str, list[Answers]] = {}
    for name, main in asked.items():
        stages[name] = read_answers(main, pairs[: main.count])
        scored = scored_pairs(pairs[: main.count], stages[name])
        traces = list(judged_traces(pairs[: main.count], stages[name]))
        result["stages"][name] = verifier_metrics(scored, traces, traces_per_edit=config.traces).to_json()
        result["by_category"][name] = pairs_by_category(scored)
        result["confusion"][name] = _confusion(traces)
        result["sampled"][name] = _confusion([trace for trace in traces if trace.sampled])
        result["weighted_tie_half"][name] = tie_half(checked_pairs(pairs[: main.count], stages[name]))
        result["costs"][name] = score_costs(traces)
        result["copy_score"][name] = copy_score(traces)
        result["failures"][name] = failure_counts(trace.verdict for trace in traces)
    for name, those in kinds.items():
        judged = heldout[: those.count]
        answers = read_answers(those, judged)
        scored = scored_pairs(judged, answers)
        metrics = verifier_metrics(scored, list(judged_traces(judged, answers)), traces_per_edit=config.traces)
        result["heldout"][name] = metrics.to_json() | heldout_kinds(judged, scored)
    result["examples"] = examples(pairs, stages, config.examples, out / "images")
    atomic_write(out / "verifier.json", json.dumps(result, indent=1) + "\n")
    run.finish(result["stages"])
    return result["stages"]


def _confusion(traces: Sequence[JudgedTrace]) -> dict[str, dict[str, int]]:
    return {category: table.to_json() for category, table in confusion(traces).items()}


def run(config: EvaluateConfig, *, data: Path, model: Path | None, out: Path, seed: int, resume: bool) -> str:
    """Measure one verifier, the shipped base by default; the numbers as text for people."""
    models = {"verifier": model or assets.VERIFIER}
    found = evaluate(config, data=data, models=models, out=out, seed=seed, resume=resume)["verifier"]
    result = VerifierResult.model_validate_json((out / "verifier.json").read_text(encoding="utf-8"))
    low, high = found["ci95"]
    seen = (sum(tables["verifier"].values(), Confusion()).faults_seen for tables in (result.confusion, result.sampled))
    checks, faults, own = ("unknown" if x is None else f"{x:.1%}" for x in (found["check_accuracy"], *seen))
    alone, copy = (table.get("verifier") for table in (result.weighted_tie_half, result.copy_score))
    costs = result.costs.get("verifier")
    price = ", ".join(f"{name} {cost:.1f}" for name, cost in costs.items()) + " points" if costs else "unknown"
    return "\n".join(
        (
            f"{found['pairs']} held-out pairs, {found['traces']} traces an edit",
            f"in the preferred order  {found['pairwise_accuracy']:.1%} (95%: {low:.1%} to {high:.1%})",
            f"undecided               {found['tie_rate']:.1%}; counted as half right: {found['tie_half']:.1%}",
            f"by its checks alone     {'unknown' if alone is None else f'{alone:.1%}'}, ties half right",
            f"true checks             {checks}",
            f"faults seen             {faults}; in an editor's own edits: {own}",
            f"an unmet check costs    {price}",
            f"a copy earns            {'unknown' if copy is None else f'{copy:.1f} points'}",
            f"unreadable traces       {found['failure_rate']:.1%}",
            f"examples, categories    {out / 'verifier.json'}",
        )
    )
