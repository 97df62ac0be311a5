"""Asking verifiers about pairs, with a journal of every trace: a line per pair, from which an interrupted run goes on.

On a CPU several verifiers are asked at once, each in a process of its own: two threads of one process are hardly faster
than one with models of the tiny size.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from edit_r1.data.store import JudgedPair, read_pairs
from edit_r1.files import atomic_write, disk_errors
from edit_r1.records import Failure, Principle, Provenance, Verdict
from edit_r1.runs.progress import Tracker, silence_libraries, track
from edit_r1.stages import EvaluateConfig
from edit_r1.verifier.aggregation import share_met
from edit_r1.verifier.local import load_verifier
from edit_r1.verifier.tiny import load_verifier_model
from edit_r1.verifier.trace import parse_trace
from edit_r1.verifier.verifier import Judgement

_CHUNK = 128  # pairs per commit of the journal; enough of them to sort into batches of similar length
_WORTH_A_PROCESS = 200  # pairs: less work is done before another process has begun
_READ_BACK = Provenance("journal", "", "", "", 0)


@dataclass(frozen=True)
class Inquiry:
    """One verifier, the pairs that it is asked about (the first `count` of a data set), and the journal.

    `checklist` is off for a verifier that is asked without principles; `aggregate` makes a number of a trace.
    """

    model: Path
    pairs: Path
    count: int
    journal: Path
    checklist: bool = True
    aggregate: str = "model"

    def lines(self) -> list[str]:
        """What the journal has of whole chunks; all of them when it is complete."""
        text = self.journal.read_text() if self.journal.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last may be torn
        return lines if len(lines) == self.count else lines[: len(lines) // _CHUNK * _CHUNK]


@dataclass(frozen=True)
class Answer:
    """What a verifier said of one edit: the mean score of its readable traces, the traces, and the score of each."""

    score: float | None
    verdicts: tuple[Verdict | Failure, ...]
    scores: tuple[float | None, ...]

    @property
    def met(self) -> tuple[float | None, ...]:
        """Ten times the weighted share of met checks, by trace; None for a Failure, and where none weighs anything."""
        return tuple(
            10 * share_met(v) if isinstance(v, Verdict) and any(c.principle.weight for c in v.checks) else None
            for v in self.verdicts
        )


@dataclass(frozen=True)
class Answers:
    """Both edits of a pair."""

    first: Answer
    second: Answer


def ask(inquiries: Sequence[Inquiry], config: EvaluateConfig, seed: int) -> None:
    """Complete the journals. The traces depend on the seed and a pair's position (and on float rounding) alone."""
    left = {inquiry: inquiry.count - len(inquiry.lines()) for inquiry in inquiries}
    due = sorted((inquiry for inquiry in inquiries if left[inquiry]), key=lambda inquiry: -left[inquiry])
    if not due:
        return
    total = sum(inquiry.count for inquiry in inquiries)
    with track("Judging pairs", total=total, start=total - sum(left.values())) as bar:
        worth = sum(pairs >= _WORTH_A_PROCESS for pairs in left.values())
        workers = 1 if torch.cuda.is_available() else min(worth, os.cpu_count() or 1)
        if workers > 1:
            _judge_together(due, config, seed, workers, bar)
            return
        for inquiry in due:
            _judge(inquiry, config, seed, bar.advance)


def _judge_together(due: Sequence[Inquiry], config: EvaluateConfig, seed: int, workers: int, bar: Tracker) -> None:
    """Judge in several processes; the journals say how far they are."""
    done = sum(len(inquiry.lines()) for inquiry in due)
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_of, (workers,)) as pool:
        waiting = {pool.submit(_judge, inquiry, config, seed) for inquiry in due}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=1.0)
                now = sum(len(inquiry.lines()) for inquiry in due)
                bar.advance(now - done)
                done = now
                for future in finished:
                    future.result()
        except BaseException:  # nothing new is begun
            pool.shutdown(cancel_futures=True)
            raise


def _one_of(workers: int) -> None:
    """Set up a process that shares the cores with others like it."""
    silence_libraries()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it, where an exception would end but one inquiry
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def _judge(
    inquiry: Inquiry, config: EvaluateConfig, seed: int, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Judge both edits of every pair that the journal lacks."""
    lines = inquiry.lines()
    verifier = load_verifier(
        inquiry.model,
        template=config.template,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        batch_size=config.batch_size,
        checklist=inquiry.checklist,
        aggregate=inquiry.aggregate,
    )
    pairs = [pair.preference for pair in islice(read_pairs(inquiry.pairs), inquiry.count)]
    with disk_errors(inquiry.journal):
        inquiry.journal.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(inquiry.journal, "".join(f"{line}\n" for line in lines))
        for start in range(len(lines), len(pairs), _CHUNK):
            chunk = pairs[start : start + _CHUNK]
            edits = [edit for preference in chunk for edit in (preference.first, preference.second)]
            judged = [judgement_to_json(j) for j in verifier.score(edits, config.traces, seed + start)]
            both = zip(judged[::2], judged[1::2], strict=True)
            with inquiry.journal.open("a") as file:
                file.write("".join(json.dumps({"first": a, "second": b}) + "\n" for a, b in both))
            advance(len(chunk))


def read_answers(inquiry: Inquiry, pairs: Sequence[JudgedPair]) -> list[Answers]:
    """The answers in a complete journal."""
    rows = [
        (json.loads(line), pair.preference.task.principles if inquiry.checklist else ())
        for line, pair in zip(inquiry.lines(), pairs, strict=True)
    ]
    return [
        Answers(answer_from_json(row["first"], asked), answer_from_json(row["second"], asked)) for row, asked in rows
    ]


def trace_tokens(model: Path, verdicts: Sequence[Verdict | Failure]) -> float:
    """Mean length of traces in tokens of the model in this folder."""
    tokenizer = load_verifier_model(model)[1].tokenizer
    texts = [verdict.text if isinstance(verdict, Failure) else verdict.trace for verdict in verdicts]
    return sum(len(ids) for ids in tokenizer(texts)["input_ids"]) / len(texts)


def judgement_to_json(judgement: Judgement) -> dict[str, Any]:
    """What a journal keeps of a judgement: its score and the text of every trace."""
    traces = [
        {"failure": v.kind, "text": v.text} if isinstance(v, Failure) else {"text": v.trace} for v in judgement.verdicts
    ]
    return {"score": judgement.score, "scores": judgement.scores, "traces": traces}


def answer_from_json(entry: Mapping[str, Any], asked: Sequence[Principle]) -> Answer:
    """The answer in a journal's entry; `asked` are the principles that its traces were asked about."""
    verdicts = tuple(
        Failure(trace["failure"], trace["text"])
        if "failure" in trace
        else parse_trace(trace["text"], asked, _READ_BACK)
        for trace in entry["traces"]
    )
    return Answer(entry["score"], verdicts, tuple(entry["scores"]))
