"""Rewards and advantages of traces, on paper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edit_r1.training.contrast import centred, contrast, group_metrics, pointwise

NAN = float("nan")


def groups(winner: list[float], loser: list[float]) -> torch.Tensor:
    return torch.tensor([[winner, loser]], dtype=torch.float32)


def test_contrast_by_hand() -> None:
    """Winner 7, 5, 5 against loser 6, 5, 2 (N = 3).

    r^w: 7 > 6, 5, 2 gives 3/3; 5 > 2 alone (5 = 5 is no win) gives 1/3; the same again.
    r^l: above 6 is 7 alone, 1/3; above 5 is 7 alone, 1/3; above 2 are all, 3/3.
    """
    rewards = contrast(groups([7, 5, 5], [6, 5, 2]))
    torch.testing.assert_close(rewards, groups([1, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1]))
    # Means are 5/9 in both groups, so A^w = 4/9, -2/9, -2/9 and A^l = -2/9, -2/9, 4/9.
    expected = torch.tensor([[[4, -2, -2], [-2, -2, 4]]]) / 9
    torch.testing.assert_close(centred(rewards), expected)


@pytest.mark.parametrize("scores", [([9, 8], [3, 2]), ([3, 2], [9, 8]), ([5, 5], [5, 5])])
def test_separated_reversed_or_tied_groups_give_no_gradient(scores: tuple[list[float], list[float]]) -> None:
    """All rewards are 1, 0 and 0: nothing to contrast within a group (paper section 3)."""
    assert centred(contrast(groups(*scores))).abs().max() == 0


def test_a_failure_earns_nothing_and_is_not_beaten() -> None:
    """Winner 8, Failure against loser 9, 4, with N = 2.

    The winner's 8 beats 4 of the loser's two readable traces: 1/2; the Failure earns 0. Loser traces face one readable
    winner trace, so N is 1: 9 is not below 8, reward 0; 4 is below it, reward 1.
    """
    rewards = contrast(groups([8, NAN], [9, 4]))
    torch.testing.assert_close(rewards, groups([0.5, 0], [0, 1]))


def test_without_a_readable_opponent_nothing_is_earned() -> None:
    """A share of no opponents is 0, never a division by zero."""
    torch.testing.assert_close(contrast(groups([8, 9], [NAN, NAN])), groups([0, 0], [0, 0]))


scores = st.lists(st.integers(0, 20).map(lambda k: k / 2), min_size=4, max_size=4)


@given(scores, scores)
def test_both_groups_earn_the_same_mean(winner: list[float], loser: list[float]) -> None:
    """Mean r^w and mean r^l both count the pairs (j, k) with tau^w_j > tau^l_k, over N^2."""
    rewards = contrast(groups(winner, loser))
    wins = sum(w > k for w in winner for k in loser) / 16
    assert rewards[0, 0].mean().item() == pytest.approx(wins)
    assert rewards[0, 1].mean().item() == pytest.approx(wins)


@given(scores, scores)
def test_only_the_order_of_scores_matters(winner: list[float], loser: list[float]) -> None:
    """The contrast is invariant to any strictly increasing map of the scores, and within [0, 1]."""
    rewards = contrast(groups(winner, loser))
    mapped = contrast(groups([s**3 + 1 for s in winner], [s**3 + 1 for s in loser]))
    assert torch.equal(rewards, mapped)
    assert rewards.min() >= 0
    assert rewards.max() <= 1


def test_group_metrics_by_hand() -> None:
    """Two pairs: 8, 6 against 5, 5 is right (7 > 5) with all rewards 1; 4, 4 against a Failure and 4 is a tie."""
    batch = torch.cat([groups([8, 6], [5, 5]), groups([4, 4], [NAN, 4])])
    metrics = group_metrics(batch, contrast(batch))
    assert metrics == {"pair_accuracy": 0.5, "pair_ties": 0.5, "failure_rate": 0.125, "signal_share": 0.0}
    # Winner 9, 1 earn 1 and 0 against 5, 5, which earn a half each: one group with signal is enough.
    one_sided = groups([9, 1], [5, 5])
    assert group_metrics(one_sided, contrast(one_sided))["signal_share"] == 1.0
    # A picture without a readable trace is beaten by none: no order, so a tie.
    silent = groups([4, 5], [NAN, NAN])
    assert group_metrics(silent, contrast(silent))["pair_ties"] == 1.0


def test_margin_and_tie_credit_by_hand() -> None:
    """Winner 7, 5 against loser 6, 5 (N = 2); gaps 7-6 = 1, 7-5 = 2, 5-6 = -1, 5-5 = 0.

    Margin 1: only 2 is more than it. r^w = 1/2, 0 and r^l = 0, 1/2. With half a point for what is within the margin
    (1, -1 and 0): r^w = (0.5 + 1)/2, (0.5 + 0.5)/2 and r^l = (0.5 + 0.5)/2, (1 + 0.5)/2.
    """
    scores = groups([7, 5], [6, 5])
    torch.testing.assert_close(contrast(scores, margin=1.0), groups([0.5, 0], [0, 0.5]))
    torch.testing.assert_close(contrast(scores, margin=1.0, tie_credit=0.5), groups([0.75, 0.5], [0.5, 0.75]))
    # Without a margin only equal scores are within it: 5 against 5.
    torch.testing.assert_close(contrast(scores, tie_credit=0.5), groups([1, 0.25], [0.5, 0.75]))


@pytest.mark.parametrize("margin", [0.1, 0.4, 1.0])
def test_a_gap_as_large_as_the_margin_does_not_win(margin: float) -> None:
    """Scores with one decimal, of which float32 misses most: 0.3 - 0.2 is more than 0.1 in it, and 0.4 - 0.3 less."""
    lower = torch.arange(0, 91) / 10
    scores = torch.stack([lower + margin, lower], 1)[:, :, None]
    assert contrast(scores, margin=margin).sum() == 0
    assert contrast(scores, margin=margin - 0.05).min() == 1
    permuted = torch.tensor([0.1, 0.2, 7.3, 5.6])
    pair = torch.stack([permuted, permuted[[3, 0, 2, 1]]])[None]
    assert group_metrics(pair, pair)["pair_ties"] == 1.0


def test_equal_rewards_are_no_signal() -> None:
    """The float32 mean of eight equal rewards may miss them by a rounding."""
    scores = (torch.arange(101) / 10)[:, None, None].expand(-1, 2, 8)
    assert group_metrics(scores, pointwise(scores))["signal_share"] == 0.0


def test_a_failure_gets_no_credit_for_a_tie() -> None:
    """A Failure is neither above, nor below, nor within a margin."""
    rewards = contrast(groups([NAN, 5], [5, NAN]), margin=10, tie_credit=1.0)
    torch.testing.assert_close(rewards, groups([0, 1], [1, 0]))


@given(scores, scores)
def test_half_a_win_for_a_tie_makes_the_comparison_fair(winner: list[float], loser: list[float]) -> None:
    """With tie_credit 1/2 the mean reward is the chance that a winner trace outranks a loser trace, ties split.

    Exchanging the groups then turns the mean reward m into 1 - m.
    """
    forth, back = (contrast(groups(*g), tie_credit=0.5)[0, 0].mean() for g in ((winner, loser), (loser, winner)))
    assert (forth + back).item() == pytest.approx(1)


def test_pointwise_by_hand() -> None:
    """Winner traces earn score / 10, loser traces 1 - score / 10, a Failure 0."""
    torch.testing.assert_close(pointwise(groups([10, 7.5], [2, NAN])), groups([1, 0.75], [0.8, 0]))
