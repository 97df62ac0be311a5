"""What the edits of a pair are said to differ in, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import differences


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 0), (1, 0, 0), "others"),
        ((0, 1, 0), (0, 0, 0), "keep alone"),
        ((1, 1, 2), (1, 1, 1), "quality alone"),
        ((0, 1, 0), (0, 0, 1), "keep against quality"),
        ((0, 1, 1), (0, 0, 0), "others"),
        ((0, 1, 1), (1, 0, 1), "follow against the rest"),
        ((0, 1, 0), (1, 2, 0), "others"),
        ((0, 0, 0), (0, 0, 0), "others"),
    ],
)
def test_the_kind_of_a_pair(monkeypatch: pytest.MonkeyPatch, first: Any, second: Any, expected: str) -> None:
    """Edits that miss so many of follow, keep and quality; the order of the two says nothing, a copy all."""
    counted = {"first": first, "second": second}

    def stands(edit: str, truth: str) -> tuple[dict[str, int], bool]:
        return dict(zip(("follow", "keep", "quality"), counted[edit], strict=True)), truth == "copy"

    monkeypatch.setattr(differences, "unmet", stands)

    def kind(one: str, other: str, truth: str = "") -> str:
        preference = SimpleNamespace(first=one, second=other)
        pair: Any = SimpleNamespace(preference=preference, first_truth="", second_truth=truth)
        return differences.kind(pair)

    assert kind("first", "second") == kind("second", "first") == expected
    assert kind("first", "second", "copy") == "a copy among them"
