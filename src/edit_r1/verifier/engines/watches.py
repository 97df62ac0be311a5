"""Watches over a generation of `transformers`: they change nothing, and keep the few probabilities that scores need.

Keeping them as they pass needs a few numbers per row; `output_logits` would hold rows x steps x vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from edit_r1.verifier.engines.score_tokens import distribution, token_value, written_value
from edit_r1.verifier.markers import SCORE_OPEN

_TAIL = 12
"""Tokens looked back at to find a `<score>` tag: real tokenizers split it, the tiny one does not."""


class ScoreTokens:
    """Which tokens are scores, and which may end a `<score>` tag or follow it. One pass over the vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        texts = [str(tokenizer.decode([i])) for i in range(len(tokenizer))]
        self.texts = {i: text for i, text in enumerate(texts) if token_value(text) is not None}
        self.ids = torch.tensor(sorted(self.texts), dtype=torch.long)
        self.may_precede = torch.tensor([">" in text or not text.strip() for text in texts])

    def read(self, row: list[int], step: int, probs: Tensor) -> dict[float, float] | None:
        """The distribution at `step` of a generated row, given the probabilities of `ids` there."""
        candidates = [(self.texts[int(i)], float(p)) for i, p in zip(self.ids, probs, strict=True)]
        chosen = str(self.tokenizer.decode([row[step]]))
        after = self.tokenizer.decode(row[step:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return distribution(candidates, chosen, written_value(str(after)))


class ScoreWatch(LogitsProcessor):
    """Per row the probabilities of the score tokens at the last place where a score is due."""

    def __init__(self, tokens: ScoreTokens, prompt_width: int) -> None:
        self.seen: dict[int, tuple[int, Tensor]] = {}
        self._tokens = tokens
        self._width = prompt_width

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Look at one step of a generation; see `LogitsProcessor`."""
        step = input_ids.shape[1] - self._width
        if step > 0:
            last = input_ids[:, -1].cpu()
            known = last < len(self._tokens.may_precede)
            rows = (known & self._tokens.may_precede[last.clamp(max=len(self._tokens.may_precede) - 1)]).nonzero()
            for row in rows.flatten().tolist():
                tail = input_ids[row, -min(_TAIL, step) :].tolist()
                text = str(self._tokens.tokenizer.decode(tail, skip_special_tokens=False))
                tags = list(SCORE_OPEN.finditer(text))
                if tags and not text[tags[-1].end() :].strip():
                    probs = scores[row].float().softmax(-1)[self._tokens.ids.to(scores.device)]
                    self.seen[row] = (step, probs.cpu())
        return scores


class TextWatch(LogitsProcessor):
    """Per row the log-probability of the text, before temperature and without the token that ends it.

    The last token of a text that was cut off is not seen.
    """

    def __init__(self, end_ids: Collection[int], prompt_width: int) -> None:
        self.log_probs = torch.empty(0)
        self._ends = torch.tensor(sorted(end_ids))
        self._width = prompt_width

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Look at one step of a generation; see `LogitsProcessor`."""
        now = scores.float().log_softmax(-1)
        if input_ids.shape[1] == self._width:
            self.log_probs = torch.zeros(len(scores))
            self._open = torch.ones(len(scores), dtype=torch.bool)
        else:
            last = input_ids[:, -1:]
            self._open &= ~torch.isin(last[:, 0].cpu(), self._ends)
            self.log_probs += self._last.gather(1, last)[:, 0].cpu() * self._open
        self._last: Tensor = now
        return scores
