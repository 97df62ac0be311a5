"""Every word that the world can say is a word of the tiny models."""

from __future__ import annotations

import hashlib
from typing import get_args

import numpy as np
import pytest

from edit_r1.records import Provenance, Verdict
from edit_r1.verifier.prompting import build_prompt
from edit_r1.verifier.tiny import UNKNOWN, build_tokenizer
from edit_r1.verifier.trace import format_trace, parse_trace
from edit_r1.world.faults import candidate, draw_faults
from edit_r1.world.instructions import CATEGORIES
from edit_r1.world.oracle import Reading
from edit_r1.world.render import to_image
from edit_r1.world.scene import Split
from edit_r1.world.tasks import generator, sample_task
from edit_r1.world.teachers import TEACHERS, teach
from edit_r1.world.words import vocabulary

WORDS = "a5dd662f5e5b6499ae8184b7cc62de5c072a8c6b77b128792d3f39e72ede4b3a"
PROVENANCE = Provenance("world", "0", "0", "{}", 64)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(vocabulary())


def unknown(tokenizer, text: str) -> list[str]:
    words = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    return [text] if UNKNOWN in words else []


def test_vocabulary_is_frozen() -> None:
    """The embeddings of the shipped bases are of these words in this order: another vocabulary needs other bases."""
    words = vocabulary()
    assert len(words) == len(set(words))
    assert all(word == word.lower() and " " not in word for word in words)
    assert hashlib.sha256("\0".join(words).encode()).hexdigest() == WORDS


@pytest.mark.parametrize("split", get_args(Split))
def test_prompts_and_traces_hold_no_unknown_word(split: Split, tokenizer) -> None:
    """500 tasks of each split, in all categories: instruction, questions, traces about faulty edits; they parse."""
    rng = generator(0, split)
    missing: list[str] = []
    for index in range(500):
        category = CATEGORIES[index % len(CATEGORIES)] if index % 2 and split != "heldout" else None
        task = sample_task(rng, split, category)
        made = candidate(rng, task.scene, task.operation, draw_faults(rng, heldout=True))
        lesson = teach(
            rng, TEACHERS[index % len(TEACHERS)], task.principles, task.judge(Reading(made.scene, made.defects, 0.0))
        )
        trace = format_trace(lesson.checks, lesson.score)
        record = task.record()
        prompt = build_prompt(record, to_image(made.image), record.principles)
        missing += unknown(tokenizer, prompt.text) + unknown(tokenizer, trace)
        read = parse_trace(trace, record.principles, PROVENANCE)
        assert isinstance(read, Verdict)
        assert (read.checks, read.score) == (lesson.checks, lesson.score)
    assert not missing


def test_prompts_reach_the_tokenizer_unchanged() -> None:
    """Instructions and questions of the world hold nothing that has to be neutralised."""
    rng = generator(1, "train")
    for _ in range(200):
        task = sample_task(rng, "train")
        record = task.record()
        lines = [task.instruction, *(f"[{k}] {claim.principle.question}" for k, claim in enumerate(task.claims, 1))]
        assert build_prompt(record, record.source, record.principles).text.split("\n") == lines


def test_every_score_and_average_is_a_word(tokenizer) -> None:
    scores = [f"<score> {score} </score>" for score in np.arange(0, 10.5, 0.5)]
    averages = [f"<average> {met / count:.1f} </average>" for count in range(1, 13) for met in range(count + 1)]
    numbers = [f"[{k}]" for k in range(1, 13)]
    assert not [text for words in (scores, averages, numbers) for word in words for text in unknown(tokenizer, word)]


def test_markup_and_tasks_of_pretraining_are_words(tokenizer) -> None:
    words = "describe compare observe judge source edited none clean missed changed want > => yes no"
    text = f"<think> {words} </think>\n<box> </box>"
    assert not unknown(tokenizer, text)
    assert unknown(tokenizer, "elephant")
