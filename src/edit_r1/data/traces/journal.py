"""What has been asked and answered: journal.jsonl, one line per finished request, so that nothing is paid for twice.

    {"edit": "9f...", "role": "teacher", "teacher": "strict", "sample": 1, "text": "[1] ...", "finished": true}
    {"edit": "9f...", "role": "gold", "teacher": "", "sample": 0, "failure": "status 429 from ...", "kind": "engine"}

`edit` is the key of the edit; for the role `principles`, which edits of one task share, that of the task. `finished` is
false for a text that was cut off. A line with `failure` has no answer: a later line of the same request replaces it.
`kind` is the failure's; a line without it is read as `engine`.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edit_r1.errors import UserError
from edit_r1.files import append_line, drop_partial_line
from edit_r1.records import Failure
from edit_r1.verifier.engines.base import Completion

Role = Literal["principles", "gold", "teacher"]


@dataclass(frozen=True)
class Request:
    """One thing to ask: of which edit (or task), of whom, and which of several texts (0 first)."""

    edit: str
    role: Role
    teacher: str = ""
    sample: int = 0

    @property
    def whom(self) -> str:
        """Whom it asks, as messages and statistics say it: `principles`, `gold` or `teacher NAME`."""
        return f"{self.role} {self.teacher}".strip()


class Journal:
    """The answers that are there; threads may share it. A torn last line, of a killed process, is dropped.

    Raises:
        UserError: a line of the file is damaged; the message names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._known: dict[Request, Completion] = {}
        self._asked: Counter[Request] = Counter()
        if path.exists():
            drop_partial_line(path)
            for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
                request, answer = _read(line, f"{path} line {number}")
                self._note(request, answer)

    def asked(self, request: Request) -> int:
        """How often it was asked."""
        return self._asked[request]

    def answer(self, request: Request) -> Completion | None:
        """The answer, readable or not, or the last failure to get one; None for what was never asked."""
        return self._known.get(request)

    def answered(self, request: Request) -> bool:
        """Whether there is an answer, be it unreadable. A failure of the engine is none: it is asked again."""
        found = self._known.get(request)
        return found is not None and found.failure is None

    def add(self, request: Request, answer: Completion) -> None:
        """Write down one finished request.

        Raises:
            UserError: the disk is full.
        """
        outcome: dict[str, Any] = {"text": answer.text, "finished": answer.finished}
        if answer.failure is not None:
            outcome = {"failure": answer.failure.text, "kind": answer.failure.kind}
        with self._lock:
            append_line(self.path, json.dumps(asdict(request) | outcome))
            self._note(request, answer)

    def _note(self, request: Request, answer: Completion) -> None:
        self._known[request] = answer
        self._asked[request] += 1


def _read(line: str, place: str) -> tuple[Request, Completion]:
    try:
        entry: dict[str, Any] = json.loads(line)
        request = Request(*(entry[key] for key in ("edit", "role", "teacher", "sample")))
        if "failure" in entry:
            return request, Completion("", False, failure=Failure(entry.get("kind", "engine"), entry["failure"]))
        return request, Completion(entry["text"], entry["finished"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error}); take the line out, and it is asked again") from error
