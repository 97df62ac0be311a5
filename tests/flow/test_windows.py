"""Windows of stochastic steps: which steps an update trains."""

import pytest

from edit_r1.flow.windows import window_steps

ELIGIBLE = (0, 1, 2, 3, 4)


def test_a_fixed_window_is_all_eligible_steps() -> None:
    assert window_steps("fixed", (1, 2, 5), 3, 7, every=1, seed=0) == (1, 2, 5)


def test_a_sliding_window_moves_along_and_begins_again() -> None:
    """Two of five steps have four places; with a move after every second update, update 8 is back at the first."""
    found = [window_steps("sliding", ELIGIBLE, 2, update, every=2, seed=0) for update in range(9)]
    assert found == [(0, 1), (0, 1), (1, 2), (1, 2), (2, 3), (2, 3), (3, 4), (3, 4), (0, 1)]


def test_a_random_window_is_drawn_anew_and_depends_on_seed_and_update_alone() -> None:
    """Four places, 400 draws: each is drawn 100 times on average, with a deviation of sqrt(400 * 3/16) = 8.7."""
    found = [window_steps("random", ELIGIBLE, 2, update, every=1, seed=3) for update in range(400)]
    assert found == [window_steps("random", ELIGIBLE, 2, update, every=9, seed=3) for update in range(400)]
    assert found != [window_steps("random", ELIGIBLE, 2, update, every=1, seed=4) for update in range(400)]
    counts = {window: found.count(window) for window in set(found)}
    assert set(counts) == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert all(60 < count < 140 for count in counts.values())


def test_a_window_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="window of 6 steps does not fit into 5"):
        window_steps("random", ELIGIBLE, 6, 0, every=1, seed=0)
