"""What is counted while texts are selected; the run's done.json holds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edit_r1.data.traces.selection import Decision, Drop
from edit_r1.records import Failure, FailureKind


@dataclass
class Answers:
    """How many answers one model gave, and how many of them could be read."""

    asked: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter[FailureKind])

    def add(self, read: object) -> None:
        """Count one answer: what it was read as, or its `Failure`."""
        self.asked += 1
        if isinstance(read, Failure):
            self.failures[read.kind] += 1

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        readable = self.asked - self.failures.total()
        return {"asked": self.asked, "readable": readable, "failures": dict(sorted(self.failures.items()))}


@dataclass
class Texts(Answers):
    """The same of a teacher, and how good its texts are."""

    kept: int = 0
    agreements: list[float] = field(default_factory=list[float])

    def document(self) -> dict[str, Any]:
        """As JSON values; `agreement` is a mean over the readable texts that gold could judge, null without any."""
        mean = sum(self.agreements) / len(self.agreements) if self.agreements else None
        return super().document() | {"kept": self.kept, "agreement": mean}


class Statistics:
    """Counts of a whole run. `teachers` are their names."""

    def __init__(self, teachers: Iterable[str]) -> None:
        self.teachers = {name: Texts() for name in teachers}
        self.gold, self.decomposer = Answers(), Answers()
        self.kept = 0
        self.dropped: Counter[Drop] = Counter()
        self.never_asked: Counter[str] = Counter()
        """Requests that were given up before they were made, by whom they ask."""

    def add(self, decision: Decision) -> None:
        """Count what became of one edit."""
        for text in decision.texts:
            count = self.teachers[text.teacher]
            count.add(text.read)
            agreement = decision.agreement(text.read)
            if agreement is not None:
                count.agreements.append(agreement)
        if decision.gold is not None:
            self.gold.add(decision.gold)
        if decision.kept is not None:
            self.kept += 1
            self.teachers[decision.teacher].kept += 1
        if decision.dropped is not None:
            self.dropped[decision.dropped] += 1

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        edits = self.kept + self.dropped.total()
        dropped = {reason: count for reason, count in sorted(self.dropped.items()) if count}
        return {
            "edits": {"in": edits, "kept": self.kept, "dropped": dropped},
            "teachers": {name: count.document() for name, count in self.teachers.items()},
            "gold": self.gold.document(),
            "decomposer": self.decomposer.document(),
            "never_asked": dict(sorted(self.never_asked.items())),
        }
