"""From answers to the text that is kept: pure readings of the journal, and the rule of selection (paper section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edit_r1.data.traces.journal import Journal, Request
from edit_r1.records import Check, Failure, Principle, Provenance, Verdict
from edit_r1.verifier.decomposers import read_principles
from edit_r1.verifier.engines.base import Completion
from edit_r1.verifier.selection import agreement, select
from edit_r1.verifier.trace import parse_checks
from edit_r1.verifier.verifier import read_completion, unread

Drop = Literal["duplicate", "no_principles", "no_gold", "no_readable_text"]
"""Why there is no text on an edit. A duplicate shows the same images and asks the same as an earlier edit."""

_UNRECORDED = Provenance("", "", "", "", 0)  # the run's config.json says for all texts at once how they were made


@dataclass(frozen=True)
class Entry:
    """What is remembered of an edit while its images stay on disk.

    Attributes:
        index: its place in the list of edits.
        key: of the edit, in the journal.
        task: key of its task, in the journal.
        given: the principles that came with it; none when a decomposer must name them.
        labels: its category and its editor.
    """

    index: int
    key: str
    task: str
    given: tuple[Principle, ...]
    labels: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Text:
    """What a teacher's text reads as."""

    teacher: str
    read: Verdict | Failure


@dataclass(frozen=True)
class Decision:
    """What became of one edit.

    Attributes:
        principles: that it was judged by.
        texts: the teachers' answers that are there, in the order of the teachers.
        gold: gold's answer to each principle; None when gold was never asked.
        kept: the text that is kept, if any, and `teacher` who wrote it.
        dropped: why there is none.
    """

    principles: tuple[Principle, ...] = ()
    texts: tuple[Text, ...] = ()
    gold: tuple[Check, ...] | Failure | None = None
    kept: Verdict | None = None
    teacher: str = ""
    dropped: Drop | None = None

    def agreement(self, read: Verdict | Failure) -> float | None:
        """Share of a text's checks that agree with gold, in [0, 1]; None where either cannot be read."""
        if isinstance(read, Failure) or not isinstance(self.gold, tuple):
            return None
        return agreement(read.checks, [check.met for check in self.gold])


def principles_of(given: tuple[Principle, ...], task: str, journal: Journal) -> tuple[Principle, ...] | Failure | None:
    """The principles that an edit is judged by: its own, or the decomposer's; None when that was never asked."""
    if given:
        return given
    answer = journal.answer(Request(task, "principles"))
    return None if answer is None else read_principles(answer)


def read_gold(answer: Completion, principles: Sequence[Principle]) -> tuple[Check, ...] | Failure:
    """Gold's answers: the checks of its trace. Its score is never looked at."""
    return unread(answer) or parse_checks(answer.text, principles)


def decide(entry: Entry, journal: Journal, wanted: Sequence[Request]) -> Decision:
    """Keep the text that agrees best with gold (paper section 2).

    `wanted` are the requests to the teachers about this edit, in order: of texts that are equally good the first stays.
    """
    principles = principles_of(entry.given, entry.task, journal)
    if not isinstance(principles, tuple):
        return Decision(dropped="no_principles")
    texts = tuple(
        Text(request.teacher, read_completion(answer, principles, _UNRECORDED))
        for request in wanted
        if (answer := journal.answer(request)) is not None
    )
    answer = journal.answer(Request(entry.key, "gold"))
    gold = None if answer is None else read_gold(answer, principles)
    if not isinstance(gold, tuple):
        return Decision(principles, texts, gold, dropped="no_gold")
    readable = [(text.read, text.teacher) for text in texts if isinstance(text.read, Verdict)]
    if not readable:
        return Decision(principles, texts, gold, dropped="no_readable_text")
    kept, teacher = readable[select([verdict for verdict, _ in readable], [check.met for check in gold])]
    return Decision(principles, texts, gold, kept, teacher)
