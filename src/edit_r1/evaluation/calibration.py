"""What more traces buy: accuracy, ties and spread against the number of traces and the tokens that they cost.

Three ways to make a number of a trace are compared on the same traces: the score that it writes (`model`, the paper's),
the expectation over the probabilities of the score tokens (`expected`), and the weighted share of the checks that it
calls met (`weighted`), which does not look at the score. One greedy trace stands beside them, with the score that it
writes (`greedy`), with that times its probability (`confident`), and with its checks (`greedy_weighted`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from edit_r1 import assets
from edit_r1.data.store import JudgedPair, read_pairs
from edit_r1.evaluation.answers import Answer, Answers, Inquiry, ask, read_answers, trace_tokens
from edit_r1.evaluation.metrics import ci95, pairwise_accuracy, tie_half, tie_rate
from edit_r1.evaluation.verifier import scored_pair
from edit_r1.files import atomic_write
from edit_r1.records import Failure
from edit_r1.runs.run import Run, made_from, weights_of
from edit_r1.stages import TEST_PAIRS, CalibrationConfig, EvaluateConfig
from edit_r1.verifier.aggregation import reduce_scores

Scores = Callable[[Answer], Sequence[float | None]]


@dataclass(frozen=True)
class Row:
    """One way to score, at one number of traces.

    Attributes:
        score: `model`, `expected` or `weighted`; `greedy`, `confident` or `greedy_weighted`.
        traces: per edit, whose mean is the score.
        pairwise_accuracy, tie_half, tie_rate: as in `metrics.VerifierMetrics`.
        ci95: 95% interval of `tie_half`, bootstrap over sources.
        spread: mean over edits of the sample standard deviation of their traces' scores; None for one trace.
        tokens: written per edit, mean.
        gain_per_1000_tokens: `tie_half` above a coin's 50%, in points, per thousand tokens written; None if nothing is.
    """

    score: str
    traces: int
    pairwise_accuracy: float
    tie_half: float
    ci95: tuple[float, float]
    tie_rate: float
    spread: float | None
    tokens: float
    gain_per_1000_tokens: float | None


def written_scores(answer: Answer) -> list[float | None]:
    """The score that each trace writes; None for a Failure."""
    return [None if isinstance(verdict, Failure) else verdict.score for verdict in answer.verdicts]


def row(
    name: str, pairs: Sequence[JudgedPair], answers: Sequence[Answers], scores: Scores, traces: int, tokens: float
) -> Row:
    """The numbers of the first `traces` traces of every edit; `tokens` is the mean length of one."""
    both = [[reduce_scores(scores(side)[:traces]) for side in (a.first, a.second)] for a in answers]
    scored = [scored_pair(pair, first.mean, second.mean) for pair, (first, second) in zip(pairs, both, strict=True)]
    spreads = [side.spread for sides in both for side in sides if side.spread is not None]
    right = tie_half(scored)
    outcomes = [tie_half([pair]) for pair in scored]
    return Row(
        score=name,
        traces=traces,
        pairwise_accuracy=pairwise_accuracy(scored),
        tie_half=right,
        ci95=ci95(np.asarray(outcomes), [pair.group for pair in scored]),
        tie_rate=tie_rate(scored),
        spread=sum(spreads) / len(spreads) if spreads else None,
        tokens=tokens * traces,
        gain_per_1000_tokens=1000 * 100 * (right - 0.5) / (tokens * traces) if tokens else None,
    )


def run(config: CalibrationConfig, *, data: Path, model: Path | None, out: Path, seed: int, resume: bool) -> list[Row]:
    """Measure one verifier (the shipped base by default) on held-out pairs, and write `out/calibration.json`."""
    chosen = model or assets.VERIFIER
    inputs = {"seed": seed, **made_from(data), "model": str(model), **weights_of(chosen)}
    folder = Run.open(out, config, resume, inputs=inputs)
    pairs = list(islice(read_pairs(data / TEST_PAIRS), config.pairs))

    def answers(name: str, traces: int, temperature: float, aggregate: str) -> list[Answers]:
        inquiry = Inquiry(chosen, data / TEST_PAIRS, len(pairs), out / "traces" / f"{name}.jsonl", aggregate=aggregate)
        asked = EvaluateConfig(
            template=config.template,
            traces=traces,
            temperature=temperature,
            max_tokens=config.max_tokens,
            batch_size=config.batch_size,
        )
        ask([inquiry], asked, seed)
        return read_answers(inquiry, pairs)

    sampled = answers("sampled", max(config.traces), config.temperature, "expected")
    greedy = answers("confident", 1, 0.0, "confident")
    length = _length(chosen, greedy)
    rows = [
        row("greedy", pairs, greedy, written_scores, 1, length),
        row("confident", pairs, greedy, lambda answer: answer.scores, 1, length),
        row("greedy_weighted", pairs, greedy, lambda answer: answer.met, 1, length),
    ]
    length = _length(chosen, sampled)
    for traces in config.traces:
        rows.append(row("model", pairs, sampled, written_scores, traces, length))
        rows.append(row("expected", pairs, sampled, lambda answer: answer.scores, traces, length))
        rows.append(row("weighted", pairs, sampled, lambda answer: answer.met, traces, length))
    atomic_write(out / "calibration.json", json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    folder.finish({"pairs": len(pairs)})
    return rows


def _length(model: Path, answers: Sequence[Answers]) -> float:
    return trace_tokens(model, [verdict for a in answers for side in (a.first, a.second) for verdict in side.verdicts])
