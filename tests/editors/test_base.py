"""What is known of tasks, by hand: rows stay together whatever an adapter puts in."""

import pytest
import torch

from edit_r1.editors.base import Conditioning

TWO = Conditioning({"words": torch.tensor([[1, 2], [3, 4]]), "mask": torch.tensor([True, False])})


def test_rows_are_repeated_next_to_each_other() -> None:
    """Tasks a, b in groups of 3 are a a a b b b, in every tensor."""
    group = TWO.repeat(3)
    assert len(group) == 6
    assert group["words"].tolist() == [[1, 2]] * 3 + [[3, 4]] * 3
    assert group["mask"].tolist() == [True] * 3 + [False] * 3


def test_rows_are_selected_in_every_tensor() -> None:
    swapped = TWO.select([1, 0])
    assert (swapped["words"].tolist(), swapped["mask"].tolist()) == ([[3, 4], [1, 2]], [False, True])
    last = TWO.repeat(2).select(slice(3, 8))
    assert (len(last), last["words"].tolist(), last["mask"].tolist()) == (1, [[3, 4]], [False])


@pytest.mark.parametrize("tensors", [{}, {"text": torch.zeros(2, 3), "reference": torch.zeros(3, 3)}])
def test_tensors_that_do_not_agree_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="same number of rows"):
        Conditioning(tensors)
