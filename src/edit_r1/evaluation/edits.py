"""Editors compared by a verifier on edits that lie on disk: for one's own pictures, of which nobody knows the truth.

Whoever trained an editor with a verifier should ask another one here: a reward that was raised tells nothing of itself.

    edits.json            `Comparison`
    principles.jsonl      what the decomposer answered
    judgements.jsonl      a line per edit, with every trace
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
from edit_r1.evaluation.answers import answer_from_json
from edit_r1.evaluation.edits_judge import Entry, Said, judge
from edit_r1.evaluation.edits_table import Contest, EditorRow, Judged, contests, editor_rows
from edit_r1.files import atomic_write
from edit_r1.images import image_hash
from edit_r1.records import Edit, EditTask
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run, content_hash, weights_of
from edit_r1.stages import EditsConfig
from edit_r1.verifier.local import load_verifier
from edit_r1.verifier.prompting import prompt_hash
from edit_r1.verifier.served import served_verifier
from edit_r1.verifier.verifier import Verifier


@dataclass(frozen=True)
class Comparison:
    """What was found; `left_out` names the lines that have no principles or no answer, and why."""

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
        seed: of the traces and the decomposer's sampling.
        resume: go on with what is in `out`; a finished run too, when answers are missing.
        finish: leave out the edits that have no principles or no answer.

    Raises:
        UserError: a bad line or image; one editor in two manifests; one task with different principles; there is no
            verifier; answers are missing and `finish` is off.
    """
    lines = _lines(manifests)
    places = [place for place, _, _ in lines]
    edits = Records(len(lines), lambda index: open_edit(*lines[index]))
    verifier = _loader(config, model)
    with closing(Namer("edits", config.decomposer, give_up_after=config.give_up_after, seed=seed)) as namer:
        namer.demand((place, line.given()) for place, line, _ in lines)
        entries = _remember(edits)
        _demand_one_checklist(entries, places)
        content = content_hash(entries)
        inputs = {
            "seed": seed, "edits": [str(path) for path in manifests], "model": str(model), "content": content,
            "prompts": [prompt_hash(config.template), prompt_hash("decompose")], **weights_of(model),
        }  # fmt: skip
        folder = Run.open(out, config, resume, inputs=inputs)
        done = folder.settled(content, finish=finish)
        if done is not None:
            return _read(done["comparison"])
        unnamed = {entry.task: partial(_task, edits, entry.index) for entry in entries if not entry.given}
        named, _, unnamed_left = namer.name(unnamed, Journal(out / "principles.jsonl"), finish=finish)
    found = [(entry, entry.given or named[entry.task]) for entry in entries]
    left_out = {places[entry.index]: why for entry, why in found if isinstance(why, str)}
    asked = [replace(entry, given=given) for entry, given in found if not isinstance(given, str)]
    journal = out / "judgements.jsonl"
    said, trouble = judge(
        verifier(), asked, edits, journal, batch=config.batch, traces=config.traces, seed=seed, whole=model is not None
    )
    if trouble and not finish:
        raise UserError(_shortfall(trouble, len(said), journal))
    unjudged = [places[entry.index] for entry in asked if entry.key not in said]
    left_out |= dict.fromkeys(unjudged, f"no answer ({trouble})")
    result = _compare(asked, said, left_out)
    folder.rewind(0)
    atomic_write(out / "edits.json", json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")
    folder.finish({"content": content, "missing": unnamed_left + len(unjudged), "comparison": asdict(result)})
    return result


def _shortfall(trouble: str, judged: int, journal: Path) -> str:
    return (
        f"the verifier does not answer ({trouble}); {judged} edits are judged and safe in {journal}: "
        "continue with --resume, or add --finish as well to leave out the others"
    )


def _compare(entries: Sequence[Entry], said: Said, left_out: dict[str, str]) -> Comparison:
    judged = [
        Judged(entry.editor, entry.task, entry.source, answer_from_json(said[entry.key], entry.given))
        for entry in entries
        if entry.key in said
    ]
    if not judged:
        raise UserError(f"no edit is left to compare: {next(iter(left_out.values()))}")
    return Comparison(editor_rows(judged), contests(judged), left_out)


def _lines(manifests: Sequence[Path]) -> list[tuple[str, Line, Path]]:
    """The lines of all manifests, what an error calls each, and the folder of its paths."""
    lines: list[tuple[str, Line, Path]] = []
    owners: dict[str, Path] = {}
    for path in manifests:
        for place, line in read_lines(path, Line, option="--edits", what="edits"):
            if not line.editor.strip():
                raise UserError(f"{place} does not say whose edit it is; give every line its editor")
            if owners.setdefault(line.editor, path) is not path:
                raise UserError(
                    f"{place} is of the editor {line.editor}, as is {owners[line.editor]}; name them apart "
                    "(`edit-r1 editor sample --name`), or put its edits into one file"
                )
            lines.append((place, line, path.parent))
    return lines


def _demand_one_checklist(entries: Sequence[Entry], places: Sequence[str]) -> None:
    """Edits of one task must be asked the same questions, or their scores cannot be compared."""
    first: dict[str, Entry] = {}
    for entry in entries:
        known = first.setdefault(entry.task, entry)
        if known.given != entry.given:
            raise UserError(
                f"{places[entry.index]} has other principles than {places[known.index]}, an edit of the same task; "
                "give both the same"
            )


def _loader(config: EditsConfig, model: Path | None) -> Callable[[], Verifier]:
    """What gives the verifier: a server's settings are checked at once, a folder is loaded when it is needed."""
    settings: dict[str, Any] = {
        "template": config.template,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
    }
    if model is not None:
        return partial(load_verifier, model, **settings, batch_size=config.batch)
    if config.endpoint is None:
        raise UserError("there is no verifier: give its folder as --model, or name a server as [edits.endpoint]")
    served = served_verifier(config.endpoint, **settings)
    return lambda: served


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
