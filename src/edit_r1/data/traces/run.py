"""`edit-r1 verifier traces`: principles first, then gold and texts, then the selection of one text for each edit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from edit_r1.data.store import KeptTrace, Records, write_traces
from edit_r1.data.traces.asking import Subject, ask, connect, shortfall
from edit_r1.data.traces.journal import Journal, Request
from edit_r1.data.traces.manifest import edit_key, read_manifest, task_key, world_edits
from edit_r1.data.traces.naming import ask_principles, named_principles
from edit_r1.data.traces.selection import Entry, decide, principles_of
from edit_r1.data.traces.statistics import Statistics
from edit_r1.errors import UserError
from edit_r1.records import Edit, EditTask, Principle
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run, content_hash
from edit_r1.stages import TRACES, TracesConfig
from edit_r1.verifier.prompting import Prompt, build_prompt, load_system, prompt_hash


def run(config: TracesConfig, *, edits: Path, out: Path, seed: int, resume: bool, finish: bool) -> dict[str, Any]:
    """Have texts written on edits and keep the best of each, as the data set `out/traces`.

    Args:
        config: whom to ask.
        edits: a JSONL manifest, or the folder of a world, whose data set `edits` is taken.
        out: the run directory.
        seed: of the sampling and of the decomposer's exemplars.
        resume: go on with what is in `out`: only what has no answer there is asked for. A finished run goes on too
            when there are other edits than before, such as new lines of the manifest, or when answers are missing.
        finish: select even if answers are missing.

    Returns:
        The statistics, which done.json holds as well.

    Raises:
        UserError: a bad edit (nothing is asked then); answers are missing at the end and `finish` is off; there is
            no text to keep; an image can no longer be read; the disk is full.
    """
    records = world_edits(edits) if edits.is_dir() else read_manifest(edits)
    with closing(Inquiry(config, records, seed)) as inquiry:
        inputs = {"seed": seed, "edits": str(edits), "prompts": inquiry.prompts}
        folder = Run.open(out, config, resume, inputs=inputs)
        done = folder.settled(inquiry.content, finish=finish)
        if done is not None:
            return done["statistics"]
        journal = Journal(folder.path / "journal.jsonl")
        missing = inquiry.ask_principles(journal) + inquiry.ask_texts(journal)
        if missing and not finish:
            raise UserError(shortfall(missing, journal, folder.path))
        folder.rewind(0)
        statistics = Statistics(teacher.name for teacher in config.teachers)
        statistics.never_asked.update(request.whom for request in missing if journal.answer(request) is None)
        kept = inquiry.kept(journal, statistics)
        first = next(kept, None)
        if first is None:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(statistics.dropped.items()) if count)
            raise UserError(f"no edit has a text to keep ({reasons}); see what the models wrote in {journal.path}")
        write_traces(folder.path / TRACES, chain([first], kept))
        document = statistics.document()
        folder.finish({"content": inquiry.content, "missing": len(missing), "statistics": document})
        return document


class Inquiry:
    """Whom a run asks about what. Every edit is looked at once here, so that a bad image is told before any request.

    Raises:
        UserError: an image cannot be read; an endpoint has no address or no key; there is no such system prompt.
    """

    def __init__(self, config: TracesConfig, records: Records[Edit], seed: int) -> None:
        self._config, self._records, self._seed = config, records, seed
        systems = {teacher.name: load_system(teacher.system) for teacher in config.teachers}
        gold_system = load_system(config.gold.system)
        self._decomposer = connect("principles", config.decomposer or config.gold)
        self._gold = connect("gold", config.gold, system=gold_system)
        self._teachers = [
            connect("teacher", teacher, name=teacher.name, texts=teacher.texts, system=systems[teacher.name])
            for teacher in config.teachers
        ]
        self.prompts = {
            config.template: prompt_hash(config.template),
            "decompose": prompt_hash("decompose"),
            "gold": _hash(gold_system),
            **{f"teacher {name}": _hash(text) for name, text in systems.items()},
        }
        self._entries = _remember(records)
        self.content = content_hash(len(records), [(entry.key, entry.labels) for entry in self._entries])

    def close(self) -> None:
        """Close the connections."""
        for endpoint in (self._decomposer, self._gold, *self._teachers):
            endpoint.engine.close()

    def ask_principles(self, journal: Journal) -> list[Request]:
        """Have the principles named, once for each task, of the edits that bring none; what is missing comes back."""
        patience = self._config.give_up_after
        return ask_principles(self._decomposer, self._undecided(), journal, give_up_after=patience, seed=self._seed)

    def ask_texts(self, journal: Journal) -> list[Request]:
        """Ask gold and the teachers about every edit whose principles are known; what is missing comes back."""
        subjects = [
            Subject(entry.key, partial(self._inspection, entry, principles))
            for entry in self._entries
            if isinstance(principles := principles_of(entry.given, entry.task, journal), tuple)
        ]
        patience = self._config.give_up_after
        return ask("Traces", [self._gold, *self._teachers], subjects, journal, give_up_after=patience, seed=self._seed)

    def kept(self, journal: Journal, statistics: Statistics) -> Iterator[KeptTrace]:
        """The edits with the text that is kept, in their order; `statistics` counts all of them on the way."""
        statistics.dropped["duplicate"] += len(self._records) - len(self._entries)
        _, statistics.decomposer = named_principles(self._undecided(), journal)
        for entry in self._entries:
            decision = decide(
                entry, journal, [request for teacher in self._teachers for request in teacher.requests(entry.key)]
            )
            statistics.add(decision)
            if decision.kept is not None:
                edit = self._records[entry.index]
                judged = replace(edit, task=replace(edit.task, principles=decision.principles))
                agreement = decision.agreement(decision.kept)
                assert agreement is not None
                yield KeptTrace(judged, decision.kept.trace, decision.teacher, agreement)

    def _undecided(self) -> dict[str, Callable[[], EditTask]]:
        """The tasks whose edits bring no principles."""
        return {entry.task: partial(self._task, entry) for entry in self._entries if not entry.given}

    def _task(self, entry: Entry) -> EditTask:
        return self._records[entry.index].task

    def _inspection(self, entry: Entry, principles: tuple[Principle, ...]) -> Prompt:
        edit = self._records[entry.index]
        return build_prompt(edit.task, edit.image, principles, self._config.template)


def _remember(records: Records[Edit]) -> list[Entry]:
    """Open every edit once, and keep its keys and principles: the first of those that are equal."""
    entries: dict[str, Entry] = {}
    with track("Reading edits", total=len(records)) as bar:
        for index, edit in enumerate(records):
            key = edit_key(edit)
            labels = (edit.task.category, edit.editor)
            entries.setdefault(key, Entry(index, key, task_key(edit.task), edit.task.principles, labels))
            bar.advance()
    return list(entries.values())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
