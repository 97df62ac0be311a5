"""Which preferences teach something, and on which side of the split they belong: pure functions of hashes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edit_r1.data.traces.statistics import Answers
from edit_r1.records import Choice, Principle
from edit_r1.verifier.prompting import single_seed

Drop = Literal[
    "other_kind",
    "no_instruction",
    "unreadable_image",
    "tie",
    "identical_images",
    "contradiction",
    "duplicate",
    "no_principles",
]
"""Why a row is not used. `other_kind` is one that is no judgement of two edits as a whole."""


@dataclass(frozen=True)
class Entry:
    """What is remembered of a row while its images stay on disk.

    Attributes:
        index: its place among the rows.
        name: of the row.
        task: key of source and instruction in the journal.
        source: hash of the pixels before the edits.
        first: of those of the first edit.
        second: of those of the second edit.
        instruction: what both editors were told.
        choice: the annotator's.
        given: the principles that came with it; none when a decomposer must name them.
        labels: its category, its annotator and both editors.
    """

    index: int
    name: str
    task: str
    source: str
    first: str
    second: str
    instruction: str
    choice: Choice
    given: tuple[Principle, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def pair(self) -> tuple[str, str, frozenset[str]]:
        """What the annotator was shown, whichever edit stood first."""
        return self.source, self.instruction, frozenset((self.first, self.second))

    @property
    def winner(self) -> str:
        """Hash of the preferred edit."""
        return self.first if self.choice == "first" else self.second


def audit(entries: Sequence[Entry]) -> list[Drop | None]:
    """For each entry why it is dropped; None for those that stay.

    A tie teaches nothing, for GCPO learns from an order. Two edits that look alike cannot have one. Where people
    contradict each other about a pair, all of its labels go; where they agree, the first one stays.
    """
    winners: defaultdict[tuple[str, str, frozenset[str]], set[str]] = defaultdict(set)
    for entry in entries:
        if entry.choice != "same":
            winners[entry.pair].add(entry.winner)
    seen: set[tuple[str, str, frozenset[str]]] = set()

    def reason(entry: Entry) -> Drop | None:
        if entry.choice == "same":
            return "tie"
        if entry.first == entry.second:
            return "identical_images"
        if len(winners[entry.pair]) > 1:
            return "contradiction"
        if entry.pair in seen:
            return "duplicate"
        seen.add(entry.pair)
        return None

    return [reason(entry) for entry in entries]


def split(entries: Iterable[Entry], share: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """The pairs to train on, and those that are held out for testing.

    The side depends on the hash of the source image and the seed alone: all pairs of a source are on one side, and
    stay there when more pairs come. About `share` of the sources are held out, and none at 0.
    """
    sides: tuple[list[Entry], list[Entry]] = ([], [])
    for entry in entries:
        sides[single_seed(entry.source, str(seed)) < share * 2**63].append(entry)
    return sides


@dataclass
class Ledger:
    """What became of the rows that are not used: how many for which reason, and by name where someone should look."""

    dropped: Counter[Drop] = field(default_factory=Counter[Drop])
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    def drop(self, reason: Drop, name: str = "", why: str = "") -> None:
        """Count one row; it is named where there is more to say."""
        self.dropped[reason] += 1
        if why:
            self.left_out[name] = why

    def counts(self) -> list[tuple[Drop, int]]:
        """Reasons with their numbers of rows, by name."""
        return sorted(self.dropped.items())


def summary(ledger: Ledger, train: Sequence[Entry], test: Sequence[Entry], decomposer: Answers) -> dict[str, Any]:
    """The counts of a run as JSON values.

    `winner_first` is the share of the used pairs whose winner is stored first; `unchanged_winners` counts those whose
    winner is the source image, untouched.
    """
    used = [*train, *test]
    return {
        "pairs": {"in": len(used) + ledger.dropped.total(), "train": len(train), "test": len(test)},
        "sources": {"train": _sources(train), "test": _sources(test)},
        "dropped": dict(ledger.counts()),
        "left_out": ledger.left_out,
        "winner_first": sum(entry.choice == "first" for entry in used) / len(used),
        "unchanged_winners": sum(entry.winner == entry.source for entry in used),
        "decomposer": decomposer.document(),
    }


def _sources(entries: Iterable[Entry]) -> int:
    return len({entry.source for entry in entries})
