"""`edit-r1 editor tasks`: pictures and instructions of one's own, made ready for editor GRPO.

editor_tasks/    the data set
journal.jsonl    what the decomposer answered
summary.json     what was used, and what was left out and why
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edit_r1.data.manifest import TaskLine, open_task, read_lines
from edit_r1.data.store import Records, write_tasks
from edit_r1.data.traces.journal import Journal
from edit_r1.data.traces.manifest import task_key
from edit_r1.data.traces.naming import Namer
from edit_r1.errors import UserError
from edit_r1.files import atomic_write
from edit_r1.images import image_hash
from edit_r1.records import EditTask, Principle
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run, content_hash
from edit_r1.stages import EDITOR_TASKS, TasksConfig
from edit_r1.verifier.prompting import prompt_hash, single_seed


@dataclass(frozen=True)
class Entry:
    """What is remembered of a task while its image stays on disk.

    Attributes:
        index: its place in the manifest.
        key: of its image and instruction in the journal.
        source: hash of its image's pixels.
        given: the principles that came with it; none when a decomposer must name them.
    """

    index: int
    key: str
    source: str
    given: tuple[Principle, ...]


def run(config: TasksConfig, *, manifest: Path, out: Path, seed: int, resume: bool, finish: bool) -> dict[str, Any]:
    """Write the tasks of a JSONL manifest as the data set `out/editor_tasks`.

    Their order is drawn, for the last of them are what training is measured on; tasks of one image stay together.

    Args:
        config: who names principles.
        manifest: a `TaskLine` a line.
        out: the run directory.
        seed: of the order, and of the decomposer's exemplars and sampling.
        resume: go on with what is in `out`: only principles that are missing are asked for. A finished run goes on too
            when there are other lines than before, or when principles are missing.
        finish: leave out the tasks whose principles are missing.

    Returns:
        The summary, which `out/summary.json` holds as well.

    Raises:
        UserError: a bad line or image; principles are missing and nobody is there to name them, or they still are at
            the end and `finish` is off; no task is left; the disk is full.
    """
    lines = read_lines(manifest, TaskLine, option="--tasks", what="tasks")
    tasks = Records(len(lines), lambda index: open_task(*lines[index], manifest.parent))
    with closing(Namer("tasks", config.decomposer, give_up_after=config.give_up_after, seed=seed)) as namer:
        namer.demand((place, line.given()) for place, line in lines)
        entries = _remember(tasks, [place for place, _ in lines])
        content = content_hash(entries, lines)
        inputs = {"seed": seed, "tasks": str(manifest), "prompt": prompt_hash("decompose")}
        folder = Run.open(out, config, resume, inputs=inputs)
        done = folder.settled(content, finish=finish)
        if done is not None:
            return done["summary"]
        journal = Journal(folder.path / "journal.jsonl")
        unnamed = {entry.key: partial(tasks.at, entry.index) for entry in entries if not entry.given}
        named, answers, missing = namer.name(unnamed, journal, finish=finish)
    found = [(entry, entry.given or named[entry.key]) for entry in entries]
    left_out = {lines[entry.index][0]: why for entry, why in found if isinstance(why, str)}
    kept = [replace(entry, given=given) for entry, given in found if not isinstance(given, str)]
    if not kept:
        raise UserError(f"no task is left; see what the decomposer answered in {journal.path}")
    kept.sort(key=lambda entry: single_seed(entry.source, str(seed)))
    folder.rewind(0)
    write_tasks(folder.path / EDITOR_TASKS, _written(tasks, kept))
    document = {
        "tasks": {"in": len(lines), "kept": len(kept)},
        "sources": len({entry.source for entry in kept}),
        "dropped": {"duplicate": len(lines) - len(entries), "no_principles": len(left_out)},
        "left_out": left_out,
        "decomposer": answers.document(),
    }
    atomic_write(folder.path / "summary.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    folder.finish({"content": content, "missing": missing, "summary": document})
    return document


def _remember(tasks: Records[EditTask], places: Sequence[str]) -> list[Entry]:
    """Open every image once, so that a bad one is told before any request; of equal tasks the first stays."""
    entries: dict[str, Entry] = {}
    with track("Reading tasks", total=len(tasks)) as bar:
        for index, task in enumerate(tasks):
            entry = Entry(index, task_key(task), image_hash(task.source), task.principles)
            known = entries.setdefault(entry.key, entry)
            if known.given != entry.given:
                raise UserError(
                    f"{places[index]} repeats the task of {places[known.index]} with other principles; keep one of them"
                )
            bar.advance()
    return list(entries.values())


def _written(tasks: Records[EditTask], entries: Sequence[Entry]) -> Iterator[EditTask]:
    with track("Writing tasks", total=len(entries)) as bar:
        for entry in entries:
            yield replace(tasks[entry.index], principles=entry.given)
            bar.advance()
