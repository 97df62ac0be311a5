"""Editors compared by a verifier on edits that lie on disk: for one's own pictures, of which nobody knows the truth.

Whoever trained an editor with a verifier should ask another one here: a reward that was raised tells nothing of itself.

    edits.json            `EditorRow` of each editor and `Contest` of each two
    principles.jsonl      what the decomposer answered
    judgements.jsonl      a line per edit, with every trace
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edit_r1.data.manifest import read_lines
from edit_r1.data.store import Records
from edit_r1.data.traces.journal import Journal
from edit_r1.data.traces.manifest import Line, edit_key, open_edit, task_key
from edit_r1.data.traces.naming import Namer
from edit_r1.errors import UserError
from edit_r1.evaluation.answers import answer_from_json, judgement_to_json
from edit_r1.evaluation.edits_table import Contest, EditorRow, Judged, contests, editor_rows
from edit_r1.files import append_line, atomic_write, drop_partial_line
from edit_r1.images import image_hash
from edit_r1.records import Edit, EditTask, Failure, Principle
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run
from edit_r1.stages import EditsConfig
from edit_r1.verifier.local import load_verifier
from edit_r1.verifier.served import served_verifier
from edit_r1.verifier.verifier import Judgement, Verifier


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


@dataclass(frozen=True)
class Comparison:
    """What was found; `left_out` names the lines without principles, and why."""

    editors: list[EditorRow]
    contests: list[Contest]
    left_out: dict[str, str]


def run(
    config: EditsConfig,
    *,
    manifests: Sequence[Path],
    model: Path | None,
    out: Path,
    seed: int,
    resume: bool,
    finish: bool,
) -> Comparison:
    """Judge the edits of all manifests and compare their editors.

    Args:
        config: how the verifier is asked, and where it is when there is no `model`.
        manifests: JSONL files of edits, each line with its editor.
        model: the verifier's folder.
        out: the run directory.
        seed: of traces, intervals and the decomposer's sampling.
        resume: go on with what is in `out`.
        finish: leave out the edits whose principles are missing.

    Raises:
        UserError: a bad line or image; there is no verifier, or its server does not answer; principles are missing.
    """
    lines = [
        (place, line, path.parent)
        for path in manifests
        for place, line in read_lines(path, Line, option="--edits", what="edits")
    ]
    for place, line, _ in lines:
        if not line.editor.strip():
            raise UserError(f"{place} does not say whose edit it is; give every line its editor")
    edits = Records(len(lines), lambda index: open_edit(*lines[index]))
    with closing(Namer("edits", config.decomposer, give_up_after=config.give_up_after, seed=seed)) as namer:
        namer.demand((place, line.given()) for place, line, _ in lines)
        entries = _remember(edits)
        content = hashlib.sha256(repr(entries).encode()).hexdigest()[:16]
        inputs = {"seed": seed, "edits": [str(path) for path in manifests], "content": content, "model": str(model)}
        folder = Run.open(out, config, resume, inputs=inputs)
        if folder.done is not None:
            return _read(folder.done)
        unnamed = {entry.task: partial(_task, edits, entry.index) for entry in entries if not entry.given}
        named, _ = namer.name(unnamed, Journal(out / "principles.jsonl"), finish=finish)
    found = [(entry, entry.given or named[entry.task]) for entry in entries]
    left_out = {lines[entry.index][0]: why for entry, why in found if isinstance(why, str)}
    kept = [replace(entry, given=given) for entry, given in found if not isinstance(given, str)]
    if not kept:
        raise UserError(f"no edit is left; see what the decomposer answered in {out / 'principles.jsonl'}")
    said = judge(_verifier(config, model), kept, edits, config, out / "judgements.jsonl", seed)
    judged = [Judged(e.editor, e.task, e.source, answer_from_json(said[e.key], e.given)) for e in kept]
    result = Comparison(editor_rows(judged), contests(judged), left_out)
    atomic_write(out / "edits.json", json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")
    folder.finish(asdict(result))
    return result


def judge(
    verifier: Verifier, entries: Sequence[Entry], edits: Records[Edit], config: EditsConfig, journal: Path, seed: int
) -> dict[str, dict[str, Any]]:
    """What the verifier says of every edit, by key, as `judgement_to_json` has it; the journal keeps it.

    Raises:
        UserError: a server left edits without an answer; those that it answered are in the journal.
    """
    said = _journaled(journal)
    due = {entry.key: entry for entry in entries}
    ordered = list(due.values())
    silent: list[str] = []
    with track("Judging edits", total=len(due), start=len(said)) as bar:
        for start in range(0, len(ordered), config.batch):
            part = [entry for entry in ordered[start : start + config.batch] if entry.key not in said]
            asked = [_with_principles(edits[entry.index], entry.given) for entry in part]
            judgements = verifier.score(asked, config.traces, seed + start)
            troubles = [trouble for judgement in judgements if (trouble := _trouble(judgement)) is not None]
            for entry, judgement in zip(part, judgements, strict=True):
                if _trouble(judgement) is None:
                    said[entry.key] = judgement_to_json(judgement)
                    append_line(journal, json.dumps({"edit": entry.key, **said[entry.key]}))
                    bar.advance()
            silent += troubles
            if part and len(troubles) == len(part):
                break  # it is down: the others need not wait for it in their turn
    if silent:
        raise UserError(
            f"the verifier's server does not answer ({silent[0]}); {len(said)} of {len(due)} edits are judged and "
            f"safe in {journal}: continue with --resume"
        )
    return said


def _verifier(config: EditsConfig, model: Path | None) -> Verifier:
    settings: dict[str, Any] = {
        "template": config.template,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
    }
    if model is not None:
        return load_verifier(model, **settings, batch_size=config.batch)
    if config.endpoint is None:
        raise UserError("there is no verifier: give its folder as --model, or name a server as [edits.endpoint]")
    return served_verifier(config.endpoint, **settings)


def _journaled(journal: Path) -> dict[str, dict[str, Any]]:
    if not journal.exists():
        return {}
    drop_partial_line(journal)
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    return {row.pop("edit"): row for row in rows}


def _trouble(judgement: Judgement) -> str | None:
    """What a server said that answered none of the traces; an answer that cannot be read is an answer."""
    texts = [v.text for v in judgement.verdicts if isinstance(v, Failure) and v.kind == "unreachable"]
    return texts[0] if len(texts) == len(judgement.verdicts) else None


def _with_principles(edit: Edit, principles: tuple[Principle, ...]) -> Edit:
    return replace(edit, task=replace(edit.task, principles=principles))


def _remember(edits: Records[Edit]) -> list[Entry]:
    """Open every image once, so that a bad one is told before anything is asked."""
    entries: list[Entry] = []
    with track("Reading edits", total=len(edits)) as bar:
        for index, edit in enumerate(edits):
            task = edit.task
            source = image_hash(task.source)
            entries.append(Entry(index, edit_key(edit), task_key(task), source, edit.editor, task.principles))
            bar.advance()
    return entries


def _task(edits: Records[Edit], index: int) -> EditTask:
    return edits[index].task


def _read(done: dict[str, Any]) -> Comparison:
    rows = [EditorRow(**row) for row in done["editors"]]
    return Comparison(rows, [Contest(**row) for row in done["contests"]], done["left_out"])
