"""`edit-r1 verifier pairs`: rows are read and audited, principles asked for, and the pairs written in two parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

from edit_r1.data.pairs.audit import Entry, Ledger, audit, split, summary
from edit_r1.data.pairs.public import read_pairs
from edit_r1.data.pairs.rows import Row
from edit_r1.data.store import JudgedPair, Records, write_pairs
from edit_r1.data.traces.journal import Journal
from edit_r1.data.traces.manifest import task_key
from edit_r1.data.traces.naming import Named, Namer
from edit_r1.errors import UserError
from edit_r1.files import atomic_write
from edit_r1.images import image_hash
from edit_r1.records import EditTask
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run, content_hash
from edit_r1.stages import TEST_PAIRS, TRAIN_PAIRS, PairFormat, PairsConfig
from edit_r1.verifier.prompting import prompt_hash


@dataclass(frozen=True)
class Source:
    """Where preferences come from: a path, its format, and the folder of the images where a format needs one."""

    path: Path
    form: PairFormat
    images: Path | None = None


def run(config: PairsConfig, *, source: Source, out: Path, seed: int, resume: bool, finish: bool) -> dict[str, Any]:
    """Make preferences ready for GCPO: the data sets `pairs_train` and `pairs_test` in `out`.

    Args:
        config: who names principles, and how much is held out.
        source: the preferences.
        out: the run directory.
        seed: of the split, and of the decomposer's exemplars and sampling.
        resume: go on with what is in `out`: only principles that are missing are asked for. A finished run goes on too
            when there are other rows than before, or when principles are missing.
        finish: leave out the pairs whose principles are missing.

    Returns:
        The summary, which `out/summary.json` holds as well.

    Raises:
        UserError: a bad row; principles are missing and nobody is there to name them, or they still are at the end
            and `finish` is off; no pair is left; the disk is full.
    """
    rows = read_pairs(source.form, source.path, source.images)
    with closing(Namer("pairs", config.decomposer, give_up_after=config.give_up_after, seed=seed)) as namer:
        namer.demand((row.name, row.principles) for row in rows if row is not None)
        ledger = Ledger()
        entries = _sift(_remember(rows, ledger, own=source.form == "jsonl"), ledger)
        if not entries:
            raise UserError(f"no pair is left ({_reasons(ledger)}); bring more pairs")
        inputs = {
            "seed": seed, "pairs": str(source.path), "format": source.form, "images": str(source.images or ""),
            "prompt": prompt_hash("decompose"),
        }  # fmt: skip
        folder, content = Run.open(out, config, resume, inputs=inputs), content_hash(entries)
        done = folder.settled(content, finish=finish)
        if done is not None:
            return done["summary"]
        journal = Journal(folder.path / "journal.jsonl")
        unnamed = {entry.task: partial(_task, rows, entry.index) for entry in entries if not entry.given}
        named, answers, missing = namer.name(unnamed, journal, finish=finish)
    entries = _with_principles(entries, named, ledger)
    train, test = split(entries, config.test_share, seed)
    if not entries:
        raise UserError(f"no pair is left ({_reasons(ledger)}); see what the decomposer answered in {journal.path}")
    folder.rewind(0)
    for name, part in ((TRAIN_PAIRS, train), (TEST_PAIRS, test)):
        if part:
            _write(folder.path / name, rows, part)
        else:
            rmtree(folder.path / name, ignore_errors=True)  # of a run that was finished with other rows
    document = summary(ledger, train, test, answers)
    atomic_write(folder.path / "summary.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    folder.finish({"content": content, "missing": missing, "summary": document})
    return document


def _reasons(ledger: Ledger) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in ledger.counts())


def _remember(rows: Records[Row | None], ledger: Ledger, *, own: bool) -> list[Entry]:
    """Open every image once, and keep hashes. A bad image is an error in a manifest of one's own, else counted."""
    entries: list[Entry] = []
    with track("Reading pairs", total=len(rows)) as bar:
        for index, row in enumerate(rows):
            bar.advance()
            if row is None:
                ledger.drop("other_kind")
            elif not row.instruction.strip():
                ledger.drop("no_instruction", row.name, "the instruction is empty")
            else:
                try:
                    entries.append(_entry(index, row))
                except UserError as error:
                    if own:
                        raise
                    ledger.drop("unreadable_image", row.name, str(error))
    return entries


def _entry(index: int, row: Row) -> Entry:
    preference = row.open()
    task = preference.task
    source, first, second = map(image_hash, (task.source, preference.first.image, preference.second.image))
    key, labels = task_key(task), (row.category, row.annotator, *row.editors)
    return Entry(index, row.name, key, source, first, second, row.instruction, row.choice, row.principles, labels)


def _sift(entries: Sequence[Entry], ledger: Ledger) -> list[Entry]:
    """The entries that teach something; the ledger says what became of the others."""
    kept: list[Entry] = []
    for entry, reason in zip(entries, audit(entries), strict=True):
        if reason is None:
            kept.append(entry)
        else:
            why = "the same pair was also judged the other way round" if reason == "contradiction" else ""
            ledger.drop(reason, entry.name, why)
    return kept


def _with_principles(entries: Sequence[Entry], named: Named, ledger: Ledger) -> list[Entry]:
    """The entries with the principles that they are judged by; those that have none are left out by name."""
    kept: list[Entry] = []
    for entry in entries:
        found = entry.given or named[entry.task]
        if isinstance(found, str):
            ledger.drop("no_principles", entry.name, found)
        else:
            kept.append(replace(entry, given=found))
    return kept


def _write(path: Path, rows: Records[Row | None], entries: Sequence[Entry]) -> None:
    def judged() -> Iterator[JudgedPair]:
        with track(f"Writing {path.name}", total=len(entries)) as bar:
            for entry in entries:
                yield JudgedPair(replace(_row(rows, entry.index), principles=entry.given).open())
                bar.advance()

    write_pairs(path, judged())


def _task(rows: Records[Row | None], index: int) -> EditTask:
    return _row(rows, index).open().task


def _row(rows: Records[Row | None], index: int) -> Row:
    row = rows[index]
    assert row is not None
    return row
