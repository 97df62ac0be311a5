"""Questions to several endpoints at once, each with its own number of requests in flight, into one journal.

An endpoint that is dead, or whose quota is used up, is left alone after a number of requests without an answer; the
others go on. Nothing is lost by that: what is missing is asked for when the run is resumed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from edit_r1.data.traces.journal import Journal, Request, Role
from edit_r1.runs.progress import Tracker, track
from edit_r1.stages import EndpointConfig
from edit_r1.verifier.engines.base import Completion
from edit_r1.verifier.engines.openai_engine import OpenAIEngine
from edit_r1.verifier.prompting import Prompt, single_seed

_SHOWN = 160
"""Characters of a model's or a server's text that a message quotes."""


@dataclass(frozen=True)
class Endpoint:
    """Whom to ask, as what, and how."""

    role: Role
    name: str
    engine: OpenAIEngine
    settings: EndpointConfig
    texts: int = 1

    def requests(self, key: str) -> list[Request]:
        """What is asked of it about one edit, or task."""
        return [Request(key, self.role, self.name, sample) for sample in range(self.texts)]


def connect(role: Role, settings: EndpointConfig, *, name: str = "", texts: int = 1, system: str = "") -> Endpoint:
    """An endpoint in a role; `system` is the text of its system prompt.

    Raises:
        UserError: the key's environment variable is not set, or the address is none.
    """
    engine = OpenAIEngine(
        settings.base_url,
        settings.model,
        api_key_env=settings.api_key_env,
        concurrency=1,  # it is asked from as many threads as it may have requests in flight
        retries=settings.retries,
        timeout=settings.timeout,
        system=system,
    )
    return Endpoint(role, name, engine, settings, texts)


@dataclass(frozen=True)
class Subject:
    """What questions are about: its key in the journal, and its prompt, built (with its images) when its turn comes."""

    key: str
    prompt: Callable[[], Prompt]


class _Queue:
    """The questions to one endpoint, and how many requests in a row it has not answered. Threads share it."""

    def __init__(self, endpoint: Endpoint, questions: Iterator[tuple[Request, Subject]], give_up_after: int) -> None:
        self.endpoint = endpoint
        self._questions = questions
        self._patience = give_up_after
        self._unanswered = 0
        self._stopped = False
        self._lock = threading.Lock()

    def next(self) -> tuple[Request, Subject] | None:
        """The next question; None when there is none, or when the endpoint is left alone."""
        with self._lock:
            if self._stopped or self._unanswered >= self._patience:
                return None
            return next(self._questions, None)

    def note(self, answered: bool) -> None:
        """Say whether a request was answered."""
        with self._lock:
            self._unanswered = 0 if answered else self._unanswered + 1

    def stop(self) -> None:
        """Give out no further questions; what is in flight ends and is written down."""
        self._stopped = True


def ask(
    title: str,
    endpoints: Sequence[Endpoint],
    subjects: Sequence[Subject],
    journal: Journal,
    *,
    give_up_after: int,
    seed: int,
) -> list[Request]:
    """Ask every endpoint about every subject, all at the same time, and write each answer into the journal as it comes.

    What has an answer in the journal is not asked again; what was asked least often is asked first, so that requests
    which are always refused hold back no others. An endpoint that leaves `give_up_after` requests in a row unanswered
    is left alone. `seed` is of the sampling, as far as a server heeds it.

    Returns:
        The requests that are still without an answer.

    Raises:
        UserError: an image can no longer be read, or the disk is full; the answers until then are in the journal.
    """

    def open_questions(endpoint: Endpoint) -> list[tuple[Request, Subject]]:
        wanted = ((request, subject) for subject in subjects for request in endpoint.requests(subject.key))
        left = [question for question in wanted if not journal.answered(question[0])]
        return sorted(left, key=lambda question: journal.asked(question[0]))

    total = len(subjects) * sum(endpoint.texts for endpoint in endpoints)
    questions = [open_questions(endpoint) for endpoint in endpoints]
    still_open = sum(map(len, questions))
    if still_open:
        queues = [_Queue(*one, give_up_after) for one in zip(endpoints, map(iter, questions), strict=True)]
        with track(title, total=total, start=total - still_open) as bar:
            _work(queues, journal, bar, seed)
    return [request for endpoint in endpoints for request, _ in open_questions(endpoint)]


def _work(queues: Sequence[_Queue], journal: Journal, bar: Tracker, seed: int) -> None:
    """Empty the queues, each with as many threads as its endpoint may have requests in flight."""
    shown = threading.Lock()

    def work(queue: _Queue) -> None:
        while (question := queue.next()) is not None:
            request, subject = question
            answer = _answer(queue.endpoint, request, subject.prompt(), seed)
            journal.add(request, answer)
            queue.note(answer.failure is None)
            with shown:
                bar.advance(int(answer.failure is None))

    workers = [queue for queue in queues for _ in range(queue.endpoint.settings.concurrency)]
    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            for finished in as_completed([pool.submit(work, queue) for queue in workers]):
                finished.result()
        finally:
            for queue in queues:
                queue.stop()


def _answer(endpoint: Endpoint, request: Request, prompt: Prompt, seed: int) -> Completion:
    own_seed = single_seed(request.edit, request.role, request.teacher, str(request.sample), str(seed)) % 2**31
    settings = endpoint.settings
    [[answer]] = endpoint.engine.generate(
        [prompt], n=1, seed=own_seed, max_tokens=settings.max_tokens, temperature=settings.temperature
    )
    return answer


def shortfall(missing: Sequence[Request], journal: Journal, path: Path) -> str:
    """One line that says whose answers are missing, with the last reason of each, and how to go on."""
    counts: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for request in missing:
        counts[request.whom] += 1
        answer = journal.answer(request)
        if answer is not None and answer.failure is not None:
            reasons[request.whom] = shown(answer.failure.text)
    listed = "; ".join(f"{who} {count}: {reasons.get(who, 'not asked')}" for who, count in counts.items())
    number = "1 answer is" if len(missing) == 1 else f"{len(missing)} answers are"
    return (
        f"{number} missing ({listed}); the others are safe in {path}: continue with --resume, "
        "or add --finish as well to select from what is there"
    )


def shown(text: str) -> str:
    """The beginning of a text on one line, as messages quote it."""
    return " ".join(text.split())[:_SHOWN]
