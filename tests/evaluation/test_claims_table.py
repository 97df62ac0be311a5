"""Tables of the claims: means and intervals by hand."""

from __future__ import annotations

from typing import Any

import pytest

from edit_r1.evaluation.claims_table import (
    Gain,
    arms_table,
    costs_table,
    curves_table,
    editors_table,
    gain,
    gains_table,
    heldout_table,
    noise_table,
)


def row(
    arm: str, seed: int, half: float, *, noise: float = 0.1, split: str = "test", size: str = "m"
) -> dict[str, Any]:
    """A row of the results with a few numbers in it."""
    return {
        "arm": arm, "seed": seed, "size": size, "split": split, "label_noise": noise, "tie_half": half,
        "pairwise_accuracy": half - 0.01, "check_accuracy": None if arm == "direct" else 0.9,
        "weighted_tie_half": None if arm == "direct" else half + 0.02,
        "costs": None if arm == "direct" else {"follow": 3.0, "keep": half, "quality": 0.5},
        "copy_score": None if seed == 2 else 4.0 + seed,
        "train_flops": 2e12, "trace_tokens": 80.0,
        "category_tie_half": None, "pairing_tie_half": None, "fault_tie_half": None,
    }  # fmt: skip


ROWS = [
    row("direct", 0, 0.70), row("direct", 1, 0.72), row("direct", 2, 0.71),
    row("cold_start", 0, 0.80), row("cold_start", 1, 0.80), row("cold_start", 2, 0.80),
    row("gcpo", 0, 0.85), row("gcpo", 0, 0.90, noise=0.0), row("gcpo", 0, 0.75, split="heldout"),
]  # fmt: skip


def test_gain_by_hand() -> None:
    """Differences 10, 8, 9: mean 9, standard deviation 1; the interval is 9 -+ 4.303 / sqrt 3 = 9 -+ 2.484."""
    found = gain(ROWS, "cold_start", "direct", "tie_half")
    assert found.values == pytest.approx((10, 8, 9))
    assert found.interval == pytest.approx((9 - 4.303 / 3**0.5, 9 + 4.303 / 3**0.5))
    assert str(found) == "+9.0 [+6.5, +11.5]"


def test_a_gain_of_one_seed_has_no_interval_and_of_none_is_a_dash() -> None:
    """Only seeds that both arms have are compared, and an arm without checks has no gain in checks."""
    assert gain(ROWS, "gcpo", "cold_start", "tie_half").values == pytest.approx((5,))
    assert str(gain(ROWS, "gcpo", "cold_start", "tie_half")) == "+5.0 (+5.0)"
    assert gain(ROWS, "cold_start", "direct", "check_accuracy") == Gain(())
    assert str(Gain(())) == "–"


def test_tables_show_what_is_there() -> None:
    """A line per arm that has rows, means with their range, and a dash where nothing was measured."""
    arms = arms_table(ROWS).splitlines()
    assert len(arms) == 2 + 3
    assert arms[2] == "| m | direct | 3 | 70.0% (69.0–71.0) | 71.0% (70.0–72.0) | – | – | 80 | 2.0 |"
    assert "| 85.0% | 87.0% | 90.0% | 80 |" in arms[4]
    assert "| m | gcpo over bt_head | – | – |" in gains_table(ROWS)
    held = heldout_table([row("gcpo", 0, 0.75, split="heldout") | {"category_tie_half": 0.4, "fault_tie_half": None}])
    assert held.splitlines()[2] == "| m | gcpo | 1 | 75.0% | 40.0% | – | – | 90.0% |"
    # 0.85 x 0.9 + 0.15 x 0.1 = 0.78 under 90%; without noise agreement is the accuracy itself.
    noise = noise_table(ROWS).splitlines()
    assert noise[2].endswith("| 90.0% | 100% |")
    assert noise[3].endswith("| 78.0% | 90% |")


def test_costs_are_averaged_and_set_against_quality() -> None:
    """Three seeds of 3, 0.8 and 0.5 points: 6 : 1.6 : 1, copies 4 and 5 (none on seed 2); no checks, no line."""
    assert costs_table(ROWS).splitlines()[2:] == [
        "| m | cold_start | 3 | 3.00 | 0.80 | 0.50 | 6.0 : 1.6 : 1.0 | 4.50 |",
        "| m | gcpo | 1 | 3.00 | 0.85 | 0.50 | 6.0 : 1.7 : 1.0 | 4.00 |",
    ]


def test_noises_are_compared_on_the_seeds_that_all_have() -> None:
    """Seed 1 has only the usual noise: the mean of that is of seed 0 alone."""
    noise = noise_table([*ROWS, row("gcpo", 1, 0.45)]).splitlines()
    assert [line.split(" | ")[1:4:2] for line in noise[2:]] == [["1", "90.0%"], ["1", "85.0%"]]
    assert len(noise_table([]).splitlines()) == 2


def test_editors_by_hand() -> None:
    """Success 40% and 50%, gains of 5 and 15: mean 10, half width 12.706 * 7.07 / sqrt(2) = 63.5.

    Of a reward that rose by 0.1 and by nothing, 0.05 in the mean, 200% are confirmed.
    """
    common = {"arm": "gcpo", "oracle_keep": 0.9, "oracle_quality": 1.0, "images": 3520, "seconds": 100}
    rows = [
        common | {"seed": 0, "oracle_success": 0.4, "success_gain": 0.05, "reward": 7.0, "reward_gain": 0.1},
        common
        | {"seed": 1, "oracle_success": 0.5, "success_gain": 0.15, "reward": 8.0, "reward_gain": 0.0}
        | {"first_alarm": 11, "seconds": 200},
    ]
    line = editors_table(rows).split("\n")[-1]
    assert line.startswith("| gcpo | 2 | 45.0% (40.0–50.0) | 90.0% (90.0–90.0) | 100.0% (100.0–100.0) | 7.50 |")
    assert line.endswith("| +10.0 [-53.5, +73.5] | 200% | 3520 | 150 | –, 11 |")


def test_curves_by_hand() -> None:
    """Two seeds at 80 images: 50% and 60% after 10 and 20 s; at 160 images only one of them was measured.

    With an arm of seed 0 alone the table is of that seed, and of the points that both have: 0 and 160 images. `clip` is
    there after 20 s; `nft` is then between its probes at 0 and 25 s, at 30% + 20 / 25 x 40% = 62%.
    """
    rows = [
        {"arm": "nft", "seed": 0, "curve": [[0, 0, 0.3], [80, 10, 0.5], [160, 25, 0.7]]},
        {"arm": "nft", "seed": 1, "curve": [[0, 0, 0.3], [80, 20, 0.6]]},
        {"arm": "base", "seed": 0},
        {"arm": "clip", "seed": 0, "curve": [[0, 0, 0.3], [40, 5, 0.2], [160, 20, 0.4]]},
    ]
    alone = curves_table(rows, ["nft"]).split("\n")
    assert (alone[0], alone[-1]) == ("Seeds: 0, 1.", "| nft | 30% (0 s) | 55% (15 s) | 55% |")
    both = curves_table(rows, ["nft", "clip", "missing"]).split("\n")
    assert both[0] == "Seeds: 0."
    assert both[2] == "| arm | 0 images | 160 images | after 20 s |"
    assert both[4:] == ["| nft | 30% (0 s) | 70% (25 s) | 62% |", "| clip | 30% (0 s) | 40% (20 s) | 40% |"]
    assert "no seed" in curves_table(rows[1:], ["nft", "clip"])


def test_gains_are_of_one_split_size_and_noise() -> None:
    """Held-out pairs: 0.7 against 0.6; test pairs, another noise and another size are no part of it."""
    lines = gains_table(ROWS).splitlines()
    assert lines[2].startswith("| m | cold_start over direct | +9.0 [+6.5, +11.5] | – | – |")
    rows = [row("gcpo", 0, 0.7, split="heldout"), row("cold_start", 0, 0.6, split="heldout")]
    rows += [row("gcpo", 0, 0.9, split="heldout", noise=0.0), row("gcpo", 0, 0.99)]
    rows += [row(arm, 0, half, split="heldout", size="s") for arm, half in (("gcpo", 0.5), ("cold_start", 0.9))]
    found = [line for line in gains_table(rows).splitlines() if "gcpo over cold_start" in line]
    assert found[0].startswith("| s | gcpo over cold_start | – | – | -40.0 (-40.0) |")
    assert found[1].startswith("| m | gcpo over cold_start | – | – | +10.0 (+10.0) |")
    assert heldout_table(rows).splitlines()[-1].startswith("| m | gcpo | 1 | 70.0% |")
