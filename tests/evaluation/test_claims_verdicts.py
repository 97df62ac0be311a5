"""Whether a claim holds: by hand."""

from __future__ import annotations

import pytest
from tests.evaluation.test_claims_table import row

from edit_r1.evaluation.claims_table import Gain
from edit_r1.evaluation.claims_verdicts import Claim, of_editors, of_verifiers, verdicts_table


@pytest.mark.parametrize(
    ("values", "least", "verdict"),
    [
        ((5.0, 6.0, 7.0), 4.0, "yes"),  # 6 -+ 4.303 / sqrt 3 = 6 -+ 2.5
        ((1.0, 6.0, 11.0), 4.0, "in the mean"),  # 6 -+ 12.4
        ((3.0, 4.0, 4.9), 4.0, "**no**"),  # mean 3.97
        ((2.0, 2.1, 2.2), 0.0, "yes"),
        ((-0.1, -0.2), 0.0, "**no**"),
        ((0.0, 0.0), 0.0, "**no**"),
        ((9.0,), 4.0, "in the mean"),  # of one seed nobody knows
        ((), 4.0, "not measured"),
    ],
)
def test_a_verdict_by_hand(values: tuple[float, ...], least: float, verdict: str) -> None:
    assert Claim("", Gain(values), least).verdict == verdict


def test_every_claim_has_its_line() -> None:
    """Sizes are compared on the seeds that both have: of seed 0 m is 5 points behind s, of seed 1 there is no s."""
    rows = [
        row("cold_start", 0, 0.85, size="s"),
        row("cold_start", 0, 0.80),
        row("cold_start", 1, 0.99),
        row("direct", 0, 0.50),
        row("cold_start", 0, 0.60, split="heldout") | {"category_tie_half": 0.4, "fault_tie_half": 0.7},
        row("direct", 0, 0.50, split="heldout") | {"category_tie_half": 0.5, "fault_tie_half": 0.5},
        row("gcpo", 1, 0.80),
        row("dpo", 1, 0.70),
    ]
    assert [claim.least for claim in of_verifiers([])] == [4, 6, 6, 3, 0, 3, 0, 3, 0] + [0] * 8
    found = {claim.text: claim for claim in of_verifiers(rows)}
    assert found["1: principles and reasoning over the direct score"].gain.values == pytest.approx((30,))
    assert found["1: the same, held-out category"].gain.values == pytest.approx((-10,))
    assert found["1: the same, held-out category"].verdict == "**no**"
    assert found["1: the same, held-out fault"].gain.values == pytest.approx((20,))
    assert found["2: GCPO over dpo"].gain.values == pytest.approx((10,))
    assert found["3: cold_start of size m over s"].gain.values == pytest.approx((-5,))
    assert found["3: gcpo of size l over m"].verdict == "not measured"
    assert found["2: this gain at size l over that at size s"].verdict == "not measured"
    edited = [{"arm": arm, "seed": 0, "oracle_success": s} for arm, s in (("base", 0.4), ("gcpo", 0.5))]
    lines = verdicts_table([*of_verifiers(rows), *of_editors(edited)]).splitlines()
    assert "| 5: an editor trained by gcpo over base | more than 0 | +10.0 (+10.0) | in the mean |" in lines


def test_the_gain_of_the_largest_is_compared_on_shared_seeds() -> None:
    """Seed 1: 6 points at l, 4 at s: 2 more. Seed 0 has no l, and seed 2 no s."""
    rows = [
        row(arm, seed, half, size=size)
        for seed, size, halves in (
            (0, "s", (0.5, 0.9)),
            (1, "s", (0.8, 0.84)),
            (1, "l", (0.8, 0.86)),
            (2, "l", (0.1, 0.9)),
        )
        for arm, half in zip(("cold_start", "gcpo"), halves, strict=True)
    ]
    # Seed 3 has no cold start of l yet.
    rows += [row("gcpo", 3, 0.9, size="l"), row("gcpo", 3, 0.9, size="s"), row("cold_start", 3, 0.1, size="s")]
    found = {claim.text: claim.gain.values for claim in of_verifiers(rows)}
    assert found["2: this gain at size l over that at size s"] == pytest.approx((2,))
