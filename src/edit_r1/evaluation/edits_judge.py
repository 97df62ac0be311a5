"""A verifier's word on edits that lie on disk, with a journal: a line per edit that has an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edit_r1.data.store import Records
from edit_r1.errors import UserError
from edit_r1.evaluation.answers import judgement_to_json
from edit_r1.files import append_line, drop_partial_line
from edit_r1.records import Edit, Failure, Principle
from edit_r1.runs.progress import track
from edit_r1.verifier.verifier import Judgement, Verifier

_NO_ANSWER = ("engine", "unreachable")


@dataclass(frozen=True)
class Entry:
    """What is remembered of an edit while its images stay on disk.

    Attributes:
        index: its place among the lines of all manifests.
        key: of the edit in the journal; equal images of two editors are judged once.
        task: of its task.
        source: hash of the pixels before it.
        editor: who made it.
        given: its principles; none while a decomposer must name them.
    """

    index: int
    key: str
    task: str
    source: str
    editor: str
    given: tuple[Principle, ...]


Said = dict[str, dict[str, Any]]
"""By the key of an edit: its judgement, as `judgement_to_json` has it."""


def judge(
    verifier: Verifier,
    entries: Sequence[Entry],
    edits: Records[Edit],
    journal: Path,
    *,
    batch: int,
    traces: int,
    seed: int,
    whole: bool,
) -> tuple[Said, str]:
    """Ask about every edit that the journal lacks.

    An answer that cannot be read is an answer. A trace that the engine did not write is none: its edit is not
    journaled, and is asked about again when the run is resumed.

    Args:
        verifier: who is asked.
        entries: with their principles.
        edits: where their images are.
        journal: a JSONL file.
        batch: edits that are asked about together. A server that cannot be reached for any of them is left alone; one
            that refuses them is asked about the others.
        traces: of each edit.
        seed: of the sampling, with the place of the batch.
        whole: ask about a batch anew of which the journal has a part: where traces depend on the batch.

    Returns:
        What was said, and what the engine last said in place of an answer; empty where it answered everything.

    Raises:
        UserError: a line of the journal is damaged.
    """
    said = _journaled(journal)
    due = list({entry.key: entry for entry in entries}.values())
    trouble = ""
    with track("Judging edits", total=len(due), start=len(said)) as bar:
        for start in range(0, len(due), batch):
            part = due[start : start + batch]
            lacking = [entry for entry in part if entry.key not in said]
            if not lacking:
                continue
            asked = part if whole else lacking
            shown = [_with_principles(edits[entry.index], entry.given) for entry in asked]
            found = verifier.score(shown, traces, seed + start)
            troubles = [text for judgement in found if (text := _no_answer(judgement))]
            for entry, judgement in zip(asked, found, strict=True):
                if not _no_answer(judgement):
                    bar.advance(int(entry.key not in said))
                    said[entry.key] = judgement_to_json(judgement)
                    append_line(journal, json.dumps({"edit": entry.key, **said[entry.key]}))
            trouble = troubles[-1] if troubles else trouble
            if all(_unreached(judgement) for judgement in found):
                break
    return said, trouble


def _journaled(journal: Path) -> Said:
    """The lines of a journal; of equal keys the last. A torn last line, of a killed process, is dropped."""
    said: Said = {}
    if journal.exists():
        drop_partial_line(journal)
        for number, line in enumerate(journal.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row: dict[str, Any] = json.loads(line)
                said[row.pop("edit")] = row
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{journal} line {number} is damaged ({error}); take the line out, and it is asked again"
                ) from error
    return said


def _no_answer(judgement: Judgement) -> str:
    """What the engine said in place of a trace; empty where it wrote them all."""
    texts = [v.text for v in judgement.verdicts if isinstance(v, Failure) and v.kind in _NO_ANSWER]
    return texts[-1] if texts else ""


def _unreached(judgement: Judgement) -> bool:
    return all(isinstance(v, Failure) and v.kind == "unreachable" for v in judgement.verdicts)


def _with_principles(edit: Edit, principles: tuple[Principle, ...]) -> Edit:
    return replace(edit, task=replace(edit.task, principles=principles))
