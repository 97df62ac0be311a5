"""Principles for tasks that bring none: a chat model names them, once for each source image and instruction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from edit_r1.data.traces.asking import Endpoint, Subject, ask, connect, shortfall, shown
from edit_r1.data.traces.journal import Journal, Request
from edit_r1.data.traces.selection import principles_of
from edit_r1.data.traces.statistics import Answers
from edit_r1.errors import UserError
from edit_r1.records import EditTask, Failure, Principle
from edit_r1.stages import EndpointConfig
from edit_r1.verifier.prompting import Prompt, build_decomposition

Named = dict[str, tuple[Principle, ...] | str]
"""The principles of each task by its key, or one line that says why there are none."""


class Namer:
    """Names the principles of a stage's tasks, where a recipe's section gives a decomposer.

    Raises:
        UserError: the endpoint has no address or no key.
    """

    def __init__(self, section: str, settings: EndpointConfig | None, *, give_up_after: int, seed: int) -> None:
        self._section, self._patience, self._seed = section, give_up_after, seed
        self._endpoint = connect("principles", settings) if settings else None

    def close(self) -> None:
        """Close the connections."""
        if self._endpoint is not None:
            self._endpoint.engine.close()

    def demand(self, places: Iterable[tuple[str, tuple[Principle, ...]]]) -> None:
        """Without a decomposer every task must bring its own principles: said before an image is opened.

        Raises:
            UserError: one does not; the message names it.
        """
        if self._endpoint is not None:
            return
        for place, given in places:
            if not given:
                raise UserError(
                    f"{place} has no principles, and there is no [{self._section}.decomposer] to name them: give each "
                    "its own, or name a chat model in a recipe (docs/traces.md has the keys)"
                )

    def name(
        self, tasks: Mapping[str, Callable[[], EditTask]], journal: Journal, *, finish: bool = False
    ) -> tuple[Named, Answers, int]:
        """The principles of tasks by key, how many answers could be read, and how many there are not.

        Each task is opened when its turn comes, and what the journal has is not asked.

        Raises:
            UserError: answers are missing and `finish` is off.
        """
        missing: list[Request] = []
        if self._endpoint is not None:
            missing = ask_principles(self._endpoint, tasks, journal, give_up_after=self._patience, seed=self._seed)
            if missing and not finish:
                raise UserError(shortfall(missing, journal, journal.path.parent))
        return *named_principles(tasks, journal), len(missing)


def ask_principles(
    decomposer: Endpoint,
    tasks: Mapping[str, Callable[[], EditTask]],
    journal: Journal,
    *,
    give_up_after: int,
    seed: int,
) -> list[Request]:
    """Have the principles named of tasks by key; what is missing comes back."""
    subjects = [Subject(key, partial(_prompt, task, seed)) for key, task in tasks.items()]
    return ask("Principles", [decomposer], subjects, journal, give_up_after=give_up_after, seed=seed)


def named_principles(keys: Iterable[str], journal: Journal) -> tuple[Named, Answers]:
    """What the journal has of the principles of tasks, and how many answers could be read."""
    named: Named = {}
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
