"""Every word of the built-in world: the vocabulary of the tiny models."""

from __future__ import annotations

from edit_r1.world.defects import DEFECTS
from edit_r1.world.instructions import JOINTS, PHRASES
from edit_r1.world.scene import ATTRIBUTES, FRAME, PLACES

_MARKUP = "=> yes no > none clean <average> </average> <score> </score> <think> </think> <box> </box> \n ?"
_QUESTIONS = "is at a the now ? empty does keep its do stay it free of noise and blur grid border"
_EVIDENCE = "changed missed want"
_PRETRAINING = "describe compare observe judge source edited"


def vocabulary() -> tuple[str, ...]:
    """All words, lower case, in a fixed order: markup, check numbers, scores and averages, then the grammar's words."""
    words = _MARKUP.split(" ")
    words += [f"[{k}]" for k in range(1, 13)]
    words += [f"{k / 10:.1f}" for k in range(101)]
    for group in (ATTRIBUTES, FRAME):
        for key, values in group.items():
            words += [key, *values]
    words += [*PLACES, *DEFECTS, *_QUESTIONS.split(), *_PRETRAINING.split()]
    for text in [*JOINTS, *(text for texts in PHRASES.values() for text in texts)]:
        words += [word for word in text.split() if "{" not in word]
    words += _EVIDENCE.split()
    return tuple(dict.fromkeys(word.lower() for word in words))
