"""The marks that mean something to a model or to our parser, and how text from outside is stripped of their power.

Instructions, questions and reasons are data. If they carry a model's control tokens (`<|im_start|>`, `<image>`,
`[INST]`) the tokenizer would obey them: in a trial one `<|image_pad|>` in an instruction crashed the processor, for the
number of placeholders no longer fitted the number of images. If they carry our own tags (`<score>`, `[1]`, `=> yes`) a
verifier that quotes them could be made to answer with them. `neutralise` turns all of these into harmless brackets.
"""

from __future__ import annotations

import re

ARROW = r"(?:=>|⇒)"
"""What stands between a reason and its answer in a trace."""

_MAX_PASSES = 8

_ANGLE_NAMES = (
    # our own tags
    "score|average|box|think|thinking|answer|"
    # special tokens of public chat and vision models that are written without bars
    "s|bos|eos|pad|unk|mask|cls|sep|sys|"
    "image|images|img|video|audio|image_placeholder|image_soft_token|img_context|imagehere|"
    "im_start|im_end|start_of_turn|end_of_turn|start_of_image|end_of_image|"
    "tool_call|tool_response|tools|ref|quad|unused|extra_id"
)
_SQUARE_NAMES = (
    "inst|img|img_break|img_end|system_prompt|available_tools|tool_calls|tool_results|tool_content|"
    "think|gmask|sop|prefix|middle|suffix|bos|eos|pad|unk|mask|cls|sep"
)
_BARRED = re.compile(r"<\s*[|｜]([^<>]*)[|｜]\s*>")
_ANGLED = re.compile(rf"<\s*(/?\s*(?:{_ANGLE_NAMES})(?:[-_ ]?[0-9]{{1,5}})?\s*/?)\s*>", re.IGNORECASE)
_SQUARED = re.compile(rf"\[\s*(/?\s*(?:{_SQUARE_NAMES}))\s*\]", re.IGNORECASE)
_NUMBERED = re.compile(r"\[\s*([0-9]+)\s*\]")
_ANSWERED = re.compile(rf"{ARROW}(?=[\s\"'`*]*(?:yes|no)\b)", re.IGNORECASE)


def tag(name: str, *, closing: bool = False) -> re.Pattern[str]:
    """Pattern of one of our tags as a model may write it: any case, spaces inside the brackets allowed."""
    slash = r"/\s*" if closing else ""
    return re.compile(rf"<\s*{slash}{name}\s*>", re.IGNORECASE)


SCORE_OPEN, SCORE_CLOSE = tag("score"), tag("score", closing=True)


def without_bold(text: str) -> str:
    """`text` without `**`, which the parser does not see: a tag or an arrow may be hidden by it (`<sc**ore>`)."""
    while "**" in text:
        text = text.replace("**", "")
    return text


def neutralise(text: str) -> str:
    """Defuse control tokens, our tags, check markers and answers in `text`; everything else stays as it is.

    `<|im_start|>` becomes `(im_start)`, `<image>` `(image)`, `[INST]` `(INST)`, `</score>` `(/score)`, `[1]` `(1)` and
    `=> yes` `-> yes`. Idempotent. Nested marks are taken apart from the inside; text nested deeper than any honest text
    loses all its `<|`.
    """
    for _ in range(_MAX_PASSES):
        before = text
        text = _BARRED.sub(lambda match: f"({match[1].strip()})", text)
        text = _ANGLED.sub(lambda match: f"({match[1].strip()})", text)
        text = _SQUARED.sub(lambda match: f"({match[1].strip()})", text)
        text = _NUMBERED.sub(r"(\1)", text)
        text = _ANSWERED.sub("->", text)
        if text == before:
            return text
    return re.sub(r"<\s*([|｜])", r"(\1", text)
