"""Principles for tasks that bring none: a chat model names them, once for each source image and instruction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from edit_r1.data.traces.asking import Endpoint, Subject, ask, shown
from edit_r1.data.traces.journal import Journal, Request
from edit_r1.data.traces.selection import principles_of
from edit_r1.data.traces.statistics import Answers
from edit_r1.records import EditTask, Failure, Principle
from edit_r1.verifier.prompting import Prompt, build_decomposition


def ask_principles(
    decomposer: Endpoint,
    tasks: Mapping[str, Callable[[], EditTask]],
    journal: Journal,
    *,
    give_up_after: int,
    seed: int,
) -> list[Request]:
    """Have the principles named of tasks by key, each opened when its turn comes; what is missing comes back."""
    subjects = [Subject(key, partial(_prompt, task, seed)) for key, task in tasks.items()]
    return ask("Principles", [decomposer], subjects, journal, give_up_after=give_up_after, seed=seed)


def named_principles(keys: Iterable[str], journal: Journal) -> tuple[dict[str, tuple[Principle, ...] | str], Answers]:
    """The principles of each task, or one line that says why there are none; and how many answers could be read."""
    named: dict[str, tuple[Principle, ...] | str] = {}
    answers = Answers()
    for key in dict.fromkeys(keys):
        read = principles_of((), key, journal)
        if read is not None:
            answers.add(read)
        why = f"{read.kind}: {shown(read.text)}" if isinstance(read, Failure) else "not asked"
        named[key] = read if isinstance(read, tuple) else f"no principles ({why})"
    return named, answers


def _prompt(task: Callable[[], EditTask], seed: int) -> Prompt:
    opened = task()
    return build_decomposition(opened.source, opened.instruction, seed)
