"""What the report chooses to show, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edit_r1.evaluation.report_view import changed_pairs, grouped_edits, order, picture, series, teaching_pair
from edit_r1.evaluation.report_words import metric_words
from edit_r1.evaluation.results import CheckResult, EditExample, EditResult, EditScore, PairExample, PairScores


def test_pictures_come_from_the_run_folder_only(tmp_path: Path) -> None:
    inside = tmp_path / "run"
    inside.mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    assert picture(inside, "../secret.png").problem == "../secret.png is outside the run folder"
    assert picture(inside, str(tmp_path / "secret.png")).uri == ""
    assert "no image at images/a.png" in picture(inside, "images/a.png").problem


def test_large_pictures_are_made_smaller_and_small_ones_stay_as_they_are(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    Image.fromarray(noise[:64, :64]).save(tmp_path / "small.png")
    large, small = picture(tmp_path, "large.png"), picture(tmp_path, "small.png")
    assert large.uri.startswith("data:image/jpeg;base64,")
    assert len(large.uri) < 400_000
    assert (large.pixel_art, small.pixel_art) == (False, True)
    assert small.uri.startswith("data:image/png;base64,")


def side(score: float | None, *met: bool, truth: bool | None = True) -> EditScore:
    checks = tuple(CheckResult(question="?", category="follow", met=each, truth=truth) for each in met)
    return EditScore(score=score, checks=checks)


def pair(choice: str, **scores: tuple[float | None, float | None]) -> PairExample:
    stages = {name: PairScores(first=side(a, True), second=side(b, True)) for name, (a, b) in scores.items()}
    given = {"choice": choice, "stages": stages}
    return PairExample.model_validate(
        {"instruction": "", "category": "", "source": "", "first": "", "second": ""} | given
    )


def test_orders_and_changes_by_hand() -> None:
    mended = pair("first", cold_start=(1, 2), gcpo=(2, 1))
    also = pair("second", cold_start=(5, 5), gcpo=(2, 9))
    broken = pair("first", cold_start=(2, 1), gcpo=(None, 1))
    kept = pair("second", cold_start=(1, 2), gcpo=(1, 2))
    alike = pair("same", cold_start=(1, 2), gcpo=(2, 1))
    partial = pair("first", gcpo=(2, 1))
    everything = [mended, also, broken, kept, alike, partial]
    assert [order(each, "cold_start") for each in (mended, also, broken, kept)] == [
        "wrong",
        "undecided",
        "right",
        "right",
    ]
    assert order(broken, "gcpo") == "undecided"
    assert changed_pairs(everything, "cold_start", "gcpo", mended=True).items == (mended, also)
    assert changed_pairs(everything, "cold_start", "gcpo", mended=False).items == (broken,)
    assert changed_pairs([mended] * 9, "cold_start", "gcpo", mended=True).total == 9
    assert len(changed_pairs([mended] * 9, "cold_start", "gcpo", mended=True).items) == 6


def test_the_pair_that_teaches_most() -> None:
    """Wrong order < right order < with both answers < with a disagreement; of equals the first; never unreadable."""

    def example(name: str, first: EditScore, second: EditScore) -> PairExample:
        made = pair("first", gcpo=(1, 0))
        return made.model_copy(update={"instruction": name, "stages": {"gcpo": PairScores(first=first, second=second)}})

    unreadable = example("unreadable", side(9, True, False, truth=False), EditScore(score=1.0))
    wrong = example("wrong", side(1, True, False, truth=False), side(9, True))
    plain = example("plain", side(9, True), side(1, True))
    mixed = example("mixed", side(9, True), side(1, False, truth=False))
    honest = example("honest", side(9, True), side(1, False, truth=True))
    again = example("again", side(9, True), side(1, False, truth=True))
    everything = [unreadable, wrong, plain, mixed, honest, again]
    for count in range(2, 6):
        chosen = teaching_pair(everything[:count], "gcpo")
        assert chosen is not None
        assert chosen.instruction == everything[count - 1].instruction
    assert teaching_pair(everything, "gcpo") is honest
    assert teaching_pair([unreadable], "gcpo") is None
    assert teaching_pair(everything, "cold_start") is None


def test_edits_are_grouped_by_what_became_of_them() -> None:
    def example(before: bool, after: bool) -> EditExample:
        edits = {name: EditResult(image="", success=ok) for name, ok in (("base", before), ("grpo", after))}
        return EditExample(instruction=f"{before} {after}", category="", source="", edits=edits)

    examples = [example(before, after) for before in (False, True) for after in (False, True)]
    lone = EditExample(instruction="", category="", source="", edits={"base": EditResult(image="", success=True)})
    groups = grouped_edits([*examples, lone])
    assert {name: [each.instruction for each in shown.items] for name, shown in groups.items()} == {
        "mended": ["False True"],
        "broken": ["True False"],
        "both": ["True True"],
        "neither": ["False False"],
    }


def test_series_keep_finite_numbers_in_order() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 2, "reward": 0.5, "note": "text", "flag": True},
        {"step": 1, "reward": 0.25, "kl": None},
        {"step": 2, "probe_reward": 0.75},  # two lines of one step are one point each
        {"reward": 9.0},  # without a step
    ]
    assert series(lines) == {"reward": [(1, 0.25), (2, 0.5)], "probe_reward": [(2, 0.75)]}


def test_words_for_curves() -> None:
    assert metric_words("gcpo", "reward").axis == "% of opponents"
    assert metric_words("editor", "reward").axis == "score, 0 to 10"
    assert metric_words("editor", "probe_oracle_success").title == "Oracle success, probe"
    assert metric_words("gcpo", "clip_ratio/region_mean").title == "Clipped updates"
    assert metric_words("gcpo", "completions/mean_length").title == "Length of traces"
    unknown = metric_words("gcpo", "queue/left_over")
    assert (unknown.title, unknown.known) == ("queue, left over", False)
