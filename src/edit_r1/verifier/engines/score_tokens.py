"""Probabilities of scores from the probabilities of tokens, for the `expected` aggregation.

A tokenizer may have a token for a whole score ("7.5", "10") or only for its first digit. Stated reading:

- a token counts if, without white space, it is a plain decimal number in [0, 10];
- the token that was written stands for the whole number that the trace goes on to write ("7" of "7.5" stands for 7.5);
- any other token stands for its own number, and tokens of the same number add up;
- "1" that was not written could still have become 10. If no single token means 10 and "1" is more likely than
  `AMBIGUOUS`, nothing is returned: the trace's own score then stands in (see `aggregation.expected`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

AMBIGUOUS = 0.02
"""Share of the number tokens' probability up to which a "1" of unknown continuation is read as 1."""

_NUMBER = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,4})?")
_WRITTEN = re.compile(r"\s*([0-9]{1,2}(?:\.[0-9]{1,6})?)")


def token_value(token: str) -> float | None:
    """The score that a token's text is, or None."""
    text = token.strip()
    if _NUMBER.fullmatch(text) is None:
        return None
    value = float(text)
    return value if value <= 10.0 else None


def written_value(after_tag: str) -> float | None:
    """The score that a trace writes right after its `<score>` tag, or None."""
    match = _WRITTEN.match(after_tag)
    value = float(match[1]) if match else None
    return value if value is not None and value <= 10.0 else None


def distribution(
    candidates: Iterable[tuple[str, float]], chosen: str, written: float | None
) -> dict[float, float] | None:
    """Scores and their probabilities (sum 1) at the place of a score; None where the reading above gives none.

    Args:
        candidates: texts of tokens with their probabilities at that place; those that are no scores are left out.
        chosen: text of the token that was written there.
        written: the whole score that the trace writes there.
    """
    if token_value(chosen) is None or written is None:
        return None
    sums: defaultdict[float, float] = defaultdict(float)
    unclear, has_ten = 0.0, False
    for token, probability in candidates:
        value = token_value(token)
        if value is None or not probability > 0.0:
            continue
        has_ten |= value == 10.0
        if token.strip() == "1" != chosen.strip():
            unclear += probability
        sums[written if token.strip() == chosen.strip() else value] += probability
    total = sum(sums.values())
    if total <= 0.0 or (unclear > AMBIGUOUS * total and not has_ten):
        return None
    return {value: probability / total for value, probability in sorted(sums.items())}
