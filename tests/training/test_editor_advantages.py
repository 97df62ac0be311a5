"""Advantages by hand, in every scale, with unreadable members and several components."""

from __future__ import annotations

import math

import pytest
import torch

from edit_r1.training.editor_advantages import advantages

NAN = float("nan")


def test_advantages_by_hand() -> None:
    """Rewards 2, 4, 6: mean 4, squares 4 + 0 + 4 over 3, so std sqrt(8/3) and advantages -+sqrt(3/2)."""
    found = advantages(torch.tensor([[[2.0, 4.0, 6.0]]]), eps=1e-12)
    root = math.sqrt(1.5)
    torch.testing.assert_close(found.values, torch.tensor([[-root, 0.0, root]]))


def test_unreadable_members_are_neither_in_mean_nor_in_std() -> None:
    """With a fourth member that cannot be read the others' advantages stay; as a 0 it would move the mean to 3."""
    found = advantages(torch.tensor([[[2.0, NAN, 4.0, 6.0], [2.0, 4.0, 6.0, NAN]]]))
    bare = advantages(torch.tensor([[[2.0, 4.0, 6.0]]])).values[0]
    assert found.values[0].tolist() == [bare[0], 0.0, bare[1], bare[2]]
    assert found.values[1].tolist() == [*bare.tolist(), 0.0]
    assert found.signal.tolist() == [True, True]


@pytest.mark.parametrize("rewards", [[NAN, NAN, NAN], [7.3, NAN, NAN], [7.3, 7.3, 7.3], [0.1, NAN, 0.1]])
def test_groups_without_signal_have_zero_advantages(rewards: list[float]) -> None:
    found = advantages(torch.tensor([[rewards]]))
    assert found.values.tolist() == [[0.0, 0.0, 0.0]]
    assert found.signal.tolist() == [False]


def test_advantages_are_clipped_and_eps_is_added_to_the_std() -> None:
    """29 zeros and a 10: mean 1/3, std 10 sqrt(29)/30, so the last is (29/3) / std = sqrt(29) = 5.39 > 5."""
    rewards = torch.tensor([[[0.0] * 29 + [10.0]]])
    assert advantages(rewards, clip=10.0, eps=1e-9).values[0, -1].item() == pytest.approx(math.sqrt(29))
    assert advantages(rewards, clip=5.0).values[0, -1].item() == 5.0
    # 0 and 10: mean 5, std 5; with eps 1 the advantage is 5 / 6.
    assert advantages(torch.tensor([[[0.0, 10.0]]]), eps=1.0).values.tolist() == [pytest.approx([-5 / 6, 5 / 6])]


def test_groups_do_not_see_each_other_and_scale_does_not_matter() -> None:
    rewards = torch.tensor([[[1.0, 5.0, 9.0], [2.0, 2.0, 8.0]]])
    together = advantages(rewards, eps=1e-9).values
    assert torch.equal(together[1:], advantages(rewards[:, 1:], eps=1e-9).values)
    torch.testing.assert_close(together, advantages(3 * rewards + 7, eps=1e-9).values)


def test_the_std_of_the_whole_step() -> None:
    """Rewards 0, 2 and 4, 10: means 1 and 7; of all four mean 4, squares 16 + 4 + 0 + 36 over 4, so std sqrt(14)."""
    found = advantages(torch.tensor([[[0.0, 2.0], [4.0, 10.0]]]), scale="global", eps=1e-12).values
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0], [-3.0, 3.0]]) / math.sqrt(14))


def test_centred_only() -> None:
    """Rewards 0, 2 and an unreadable one: -1, 1 and 0, in points; a gap of 20 is clipped at 5."""
    found = advantages(torch.tensor([[[0.0, 2.0, NAN], [0.0, 20.0, NAN]]]), scale="mean").values
    assert found.tolist() == [[-1.0, 1.0, 0.0], [-5.0, 5.0, 0.0]]


def test_components_are_normalised_apart_and_then_weighted() -> None:
    """Follow 0, 10 has std 5, keep 9, 10 has std 1/2: each gives -1, 1, so weights 1 and 1/2 give 1/2 when they differ.

    Added up first they would give 9, 20 or, the other way round, 10, 19: keep would hardly count.
    """
    follow, keep = [[0.0, 10.0], [0.0, 10.0]], [[9.0, 10.0], [10.0, 9.0]]
    found = advantages(torch.tensor([follow, keep]), (1.0, 0.5), eps=1e-12)
    torch.testing.assert_close(found.values, torch.tensor([[-1.5, 1.5], [-0.5, 0.5]]))


def test_a_component_that_is_absent_or_equal_or_weightless_adds_nothing() -> None:
    """The first task has no second component; the second task's first is equal, so its signal is the second's alone."""
    first, second = [[0.0, 10.0], [5.0, 5.0]], [[NAN, NAN], [0.0, 10.0]]
    both = advantages(torch.tensor([first, second]), (1.0, 1.0), eps=1e-12)
    assert both.values.tolist() == [[-1.0, 1.0], [-1.0, 1.0]]
    assert both.signal.tolist() == [True, True]
    assert both.readable.all()
    assert advantages(torch.tensor([first, second]), (1.0, 0.0), eps=1e-12).signal.tolist() == [True, False]


def test_who_counts() -> None:
    """A member that is readable in one component counts; one that is in none does not."""
    found = advantages(torch.tensor([[[1.0, NAN, NAN]], [[1.0, 2.0, NAN]]]), (1.0, 1.0))
    assert found.readable.tolist() == [[True, True, False]]
