"""Where verifiers order pairs wrongly: by what the two edits truly differ in, by the written score and by the checks.

    python -m benchmarks.differences runs/claims --seeds 0,1,2 --sizes s,m,l

reads the traces that `edit-r1 evaluate claims` has kept of `test`; ties count half. A pair with a copy of the source is
counted there alone. *Follow against the rest*: one edit does more of what was asked, and the other keeps more or is
cleaner; *keep against quality* likewise, where both follow alike.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from edit_r1.data.gold import truth_of
from edit_r1.data.store import JudgedPair, read_pairs
from edit_r1.evaluation.answers import Inquiry, read_answers
from edit_r1.evaluation.claims_table import table
from edit_r1.evaluation.metrics import PRINCIPLE_CATEGORIES, ScoredPair, tie_half
from edit_r1.evaluation.verifier import checked_pairs, scored_pairs
from edit_r1.records import Edit
from edit_r1.stages import TEST_PAIRS

ARMS = ("cold_start", "gcpo")
COPY, FOLLOW, KEEP, KEEP_ALONE, QUALITY_ALONE, OTHERS = KINDS = (
    "a copy among them",
    "follow against the rest",
    "keep against quality",
    "keep alone",
    "quality alone",
    "others",
)


def unmet(edit: Edit, truth: str) -> tuple[dict[str, int], bool]:
    """How many principles of each category an edit truly does not meet, and whether it is a copy."""
    found = truth_of(edit, truth)
    missed = [p.category for p, f in zip(edit.task.principles, found.findings, strict=True) if not f.met]
    return {name: missed.count(name) for name in PRINCIPLE_CATEGORIES}, found.noop


def kind(pair: JudgedPair) -> str:
    """Of `KINDS`, what the edits of a pair differ in."""
    preference = pair.preference
    first, copied = unmet(preference.first, pair.first_truth)
    second, copied_too = unmet(preference.second, pair.second_truth)
    if copied or copied_too:
        return COPY
    fewer = {name: first[name] < second[name] for name in first if first[name] != second[name]}
    if len(set(fewer.values())) == 2:
        return FOLLOW if "follow" in fewer else KEEP
    return {"keep": KEEP_ALONE, "quality": QUALITY_ALONE}.get(" ".join(fewer), OTHERS)


def ordered(folder: Path, data: Path) -> Iterator[tuple[str, ScoredPair, ScoredPair]]:
    """Every pair that a verifier was asked about: its kind, and its scores as written and by the checks."""
    journals = sorted(folder.glob("traces_test*.jsonl"))
    if not journals:
        sys.exit(f"{folder} has no traces of test; make them with `edit-r1 evaluate claims`")
    journal = journals[0]
    pairs = list(islice(read_pairs(data), len(journal.read_text().splitlines())))
    answers = read_answers(Inquiry(folder / "model", data, len(pairs), journal), pairs)
    yield from zip(map(kind, pairs), scored_pairs(pairs, answers), checked_pairs(pairs, answers), strict=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", type=Path, help="the folder of `edit-r1 evaluate claims`")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sizes", default="s,m,l")
    given = parser.parse_args()
    columns = [(size, arm) for size in given.sizes.split(",") for arm in ARMS]
    found: dict[str, dict[tuple[str, str], list[tuple[ScoredPair, ScoredPair]]]] = {
        name: defaultdict(list) for name in KINDS
    }
    for size, arm in columns:
        for seed in given.seeds.split(","):
            data = given.claims / "worlds" / f"seed{seed}" / TEST_PAIRS
            for name, written, checked in ordered(given.claims / size / f"seed{seed}" / arm, data):
                found[name][size, arm].append((written, checked))
    rows = [
        [
            name,
            str(len(cells[columns[0]])),
            *(" / ".join(f"{tie_half(side):.1%}" for side in zip(*cells[column], strict=True)) for column in columns),
        ]
        for name, cells in found.items()
    ]
    heads = [f"{size}, {arm}: score / checks" for size, arm in columns]
    sys.stdout.write(table(["the edits differ in", "pairs", *heads], rows) + "\n")


if __name__ == "__main__":
    main()
