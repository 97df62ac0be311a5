"""Readers of public data sets, audits and the split: pure functions, by hand and as properties."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.data.pairs.audit import Entry, Ledger, audit, split, summary
from edit_r1.data.pairs.public import editreward_data, editscore_bench, genai_bench, tiger_bench
from edit_r1.data.pairs.rows import Row
from edit_r1.data.traces.statistics import Answers
from edit_r1.records import Choice

A, B, C = ({"bytes": letter, "path": None} for letter in (b"a", b"b", b"c"))


@pytest.mark.parametrize(("tie", "choice"), [(False, "first"), (True, "same")])
def test_editreward_data(tie: bool, choice: Choice) -> None:
    entry = {"prompt": "make it a hot dog", "path_src": "x/source.png", "path1": "x/1.png", "path2": "x/2.png"}
    entry |= {"model1": "ovis", "model2": "kontext", "model1_overall_score": 6, "choice_dist": None, "tie_case": tie}
    assert editreward_data(entry, "row", Path("images")) == Row(
        "row",
        Path("images/x/source.png"),
        Path("images/x/1.png"),
        Path("images/x/2.png"),
        "make it a hot dog",
        choice,
        annotator="editreward-data",
        editors=("ovis", "kontext"),
    )


@pytest.mark.parametrize("dimension", ["prompt_following", "consistency", "overall"])
def test_editscore_bench(dimension: str) -> None:
    """The three dimensions of a pair may have different winners: only `overall` is a judgement as a whole."""
    entry = {"key": ["k1", "k2"], "instruction": "paint it", "input_image": A, "output_images": [B, C]}
    found = editscore_bench({**entry, "task_type": "color", "dimension": dimension}, "row")
    row = Row("row", b"a", b"b", b"c", "paint it", "first", category="color", annotator="editscore-bench")
    assert found == (row if dimension == "overall" else None)


@pytest.mark.parametrize(("ranking", "choice"), [("A>B", "first"), ("B>A", "second"), ("A=B", "same")])
def test_tiger_bench(ranking: str, choice: Choice) -> None:
    entry: dict[str, Any] = {"id": "1", "instruction": "paint it", "dataset": "2pair", "ranking": ranking}
    entry |= {"source_image": A, "candidate_1": B, "candidate_2": {"bytes": None, "path": "c.png"}}
    entry |= {"model_1": "bagel", "model_2": None, "num_candidates": 2, "comparison_type": "AvsB"}
    assert tiger_bench(entry, "row") == Row(
        "row", b"a", b"b", Path("c.png"), "paint it", choice, annotator="tiger-bench", editors=("bagel", "")
    )
    assert tiger_bench({**entry, "dataset": "3pair"}, "row") is None


@pytest.mark.parametrize(
    ("vote", "choice"),
    [("leftvote", "first"), ("rightvote", "second"), ("tievote", "same"), ("bothbad_vote", "same")],
)
def test_genai_bench(vote: str, choice: Choice) -> None:
    entry: dict[str, Any] = {"instruct_prompt": "paint it", "source_prompt": "a cup", "target_prompt": "a blue cup"}
    entry |= {"source_image": A, "left_output_image": B, "right_output_image": None, "vote_type": vote}
    entry |= {"left_model": "MagicBrush", "right_model": "Pix2PixZero"}
    assert genai_bench(entry, "row") == Row(
        "row", b"a", b"b", b"", "paint it", choice, annotator="genai-bench", editors=("MagicBrush", "Pix2PixZero")
    )


def entry(source: str, first: str, second: str, choice: Choice, instruction: str = "i") -> Entry:
    return Entry(0, "row", "task", source, first, second, instruction, choice)


def test_audit_by_hand() -> None:
    """Every reason once, and what is nearly one: another instruction or source makes another pair."""
    cases = [
        (entry("s", "a", "b", "first"), None),
        (entry("s", "b", "a", "second"), "duplicate"),
        (entry("s", "a", "b", "same"), "tie"),
        (entry("s", "a", "b", "second", "j"), "contradiction"),
        (entry("s", "b", "a", "second", "j"), "contradiction"),
        (entry("s", "a", "b", "same", "j"), "tie"),
        (entry("t", "a", "b", "second"), None),
        (entry("t", "c", "c", "first"), "identical_images"),
        (entry("t", "c", "c", "second"), "identical_images"),
    ]
    assert audit([case for case, _ in cases]) == [reason for _, reason in cases]


def test_summary_by_hand() -> None:
    """Three pairs used of five; two of the winners stand first, one is the source."""
    ledger = Ledger()
    ledger.drop("tie")
    ledger.drop("no_principles", "row 4", "no principles (empty: )")
    train = [entry("s", "a", "b", "first"), entry("s", "a", "s", "second")]
    assert summary(ledger, train, [entry("t", "a", "b", "first")], Answers()) == {
        "pairs": {"in": 5, "train": 2, "test": 1},
        "sources": {"train": 1, "test": 1},
        "dropped": {"no_principles": 1, "tie": 1},
        "left_out": {"row 4": "no principles (empty: )"},
        "winner_first": 2 / 3,
        "unchanged_winners": 1,
        "decomposer": {"asked": 0, "readable": 0, "failures": {}},
    }


LETTERS = st.sampled_from("abc")
ENTRIES = st.builds(entry, LETTERS, LETTERS, LETTERS, st.sampled_from(["first", "second", "same"]))
OTHER: dict[Choice, Choice] = {"first": "second", "second": "first", "same": "same"}


@given(st.lists(st.tuples(ENTRIES, st.booleans()), max_size=12))
def test_the_audit_does_not_care_which_edit_stands_first(drawn: list[tuple[Entry, bool]]) -> None:
    """Swapping the sides of any entries changes nothing; and of one pair never more than one entry stays."""
    entries = [case for case, _ in drawn]
    swapped = [
        replace(case, first=case.second, second=case.first, choice=OTHER[case.choice]) if swap else case
        for case, swap in drawn
    ]
    found = audit(entries)
    assert audit(swapped) == found
    kept = [case.pair for case, reason in zip(entries, found, strict=True) if reason is None]
    assert len(kept) == len(set(kept))


SOURCES = st.lists(st.text("0123456789abcdef", min_size=1, max_size=4), max_size=30)


@given(SOURCES, SOURCES, st.floats(0, 1, exclude_max=True), st.integers(0, 2**31))
def test_no_source_is_on_both_sides(sources: list[str], more: list[str], share: float, seed: int) -> None:
    """Nothing is lost, order is kept, the sides share no source, and further pairs move none of the earlier ones."""
    entries = [replace(entry(source, "a", "b", "first"), index=index) for index, source in enumerate(sources)]
    train, test = split(entries, share, seed)
    assert sorted([*train, *test], key=lambda e: e.index) == entries
    assert [e.index for e in train] == sorted(e.index for e in train)
    assert not {e.source for e in train} & {e.source for e in test}
    grown = split([*entries, *(entry(source, "c", "d", "first") for source in more)], share, seed)
    assert (grown[0][: len(train)], grown[1][: len(test)]) == (train, test)
    assert split(entries, 0.0, seed) == (entries, [])


def test_the_share_that_is_held_out() -> None:
    """Of 4,000 sources a share of 0.2 is 800, give or take four standard deviations of sqrt(4000 * 0.2 * 0.8) = 25."""
    entries = [entry(str(number), "a", "b", "first") for number in range(4000)]
    sizes = [len(split(entries, 0.2, seed)[1]) for seed in (0, 1)]
    assert all(abs(size - 800) < 4 * 25.3 for size in sizes)
    assert split(entries, 0.2, 0)[1] != split(entries, 0.2, 1)[1]
