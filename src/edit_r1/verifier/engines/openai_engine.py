"""Verifier behind any OpenAI-compatible chat endpoint (vLLM, SGLang, `transformers serve`, hosted models), over httpx.

Images travel as base64 PNG data URLs. Requests run in parallel up to `concurrency`. Busy or broken servers (408, 429,
5xx, time-outs, lost connections) are asked again a bounded number of times with growing pauses; after that the prompt's
completions carry a `Failure("unreachable", ...)` and the others go on. What is refused, withheld or malformed is a
`Failure("engine", ...)` at once: asking again would not mend it.
"""

from __future__ import annotations

import base64
import io
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import cast

import httpx
from PIL.Image import Image

from edit_r1.errors import UserError
from edit_r1.records import Failure
from edit_r1.verifier.engines.base import Completion, no_answer
from edit_r1.verifier.engines.score_tokens import distribution, written_value
from edit_r1.verifier.markers import SCORE_OPEN
from edit_r1.verifier.prompting import Prompt

JSON = Mapping[str, object]

_OK = 200
_BUSY = {408, 409, 425, 429}
_MAX_PAUSE = 30.0
_MAX_WAIT = 300.0
_WITHHELD = {"content_filter", "error", "abort"}
"""Reasons to finish after which there is no answer, though the status is 200."""
_TOP_LOGPROBS = 20


class OpenAIEngine:
    """Answers prompts through `POST {base_url}/chat/completions`.

    Args:
        base_url: of the API, as in `http://127.0.0.1:8000/v1`.
        model: model id that the server knows.
        api_key_env: name of the environment variable that holds the key; None sends no key. The key itself is never
            stored in records, messages or configuration.
        revision: what the user knows of the deployment; kept in the provenance.
        probabilities: ask for log-probabilities and fill `Completion.score_probs` and `Completion.log_prob` (for the
            aggregations `expected` and `confident`). vLLM gives them before temperature; a server that gives them after
            it is to be asked at temperature 1.
        concurrency: requests in flight at once.
        retries: further tries after the first.
        backoff: seconds before the first further try; doubles each time, up to 30 s; `Retry-After` is obeyed, and a
            server that asks for more than five minutes is not asked again.
        timeout: seconds for one request.
        system: a system message that goes before every question; empty for none.
        extra: fields merged into every request, for what one server needs and others do not know.
        sleep: replaced in tests.

    Raises:
        UserError: the variable that should hold the key is not set or holds none, or `base_url` is no http address.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        revision: str = "",
        probabilities: bool = False,
        concurrency: int = 8,
        retries: int = 4,
        backoff: float = 0.5,
        timeout: float = 120.0,
        system: str = "",
        extra: JSON | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"{base_url!r} is no address of an API: write it as http://host:port/v1")
        self.name = model
        self.revision = revision
        self._probabilities = probabilities
        self._concurrency = max(1, concurrency)
        self._retries = max(0, retries)
        self._backoff = backoff
        self._system: list[JSON] = [{"role": "system", "content": system}] if system else []
        self._extra = dict(extra or {})
        self._sleep = sleep
        self._down = threading.Event()  # set once a prompt ran out of tries to connect: the others then try only once
        try:
            address = httpx.URL(base_url.rstrip("/") + "/")
        except httpx.InvalidURL as error:
            raise UserError(
                f"{base_url!r} is no address of an API ({error}): write it as http://host:port/v1"
            ) from error
        self._client = httpx.Client(base_url=address, headers=_headers(api_key_env), timeout=timeout)

    def __enter__(self) -> OpenAIEngine:
        """Use as a context manager to close the connections."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, seed: int, max_tokens: int, temperature: float
    ) -> list[list[Completion]]:
        """See `Engine.generate`. `seed` is sent along; whether it fixes the text is up to the server."""
        if not prompts or n < 1:
            return [[] for _ in prompts]
        settings: JSON = {"model": self.name, "max_tokens": max_tokens, "temperature": temperature}
        if self._probabilities:
            settings = {**settings, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}

        def answer(prompt: Prompt) -> list[Completion]:
            messages = [*self._system, {"role": "user", "content": _content(prompt)}]
            return self._samples({**settings, "messages": messages, **self._extra}, n, seed)

        with ThreadPoolExecutor(max_workers=min(self._concurrency, len(prompts))) as pool:
            return list(pool.map(answer, prompts))

    def _samples(self, request: JSON, n: int, seed: int) -> list[Completion]:
        """`n` completions of one request; servers that give fewer choices than asked for are asked for the rest."""
        completions: list[Completion] = []
        while len(completions) < n:
            missing = n - len(completions)
            choices = self._post({**request, "n": missing, "seed": seed + len(completions)})
            if isinstance(choices, Failure):
                completions.extend([Completion(text="", finished=False, failure=choices)] * missing)
            else:
                completions.extend(_completion(choice) for choice in choices[:missing])
        return completions

    def _post(self, payload: JSON) -> list[JSON] | Failure:
        """The choices of one request (at least one), or why there are none."""
        message = ""
        for attempt in range(self._retries + 1):
            try:
                response = self._client.post("chat/completions", json=payload)
            except httpx.TransportError as error:
                message = f"no answer from {self._client.base_url}: {type(error).__name__} {error}".strip()
                pause = None
            except httpx.HTTPError as error:
                message = f"the request to {self._client.base_url} failed: {type(error).__name__} {error}"
                return Failure("engine", message)
            else:
                self._down.clear()
                if response.status_code == _OK:
                    return _choices(response)
                message = f"status {response.status_code} from {self._client.base_url}: {response.text[:200]}"
                if response.status_code not in _BUSY and response.status_code < 500:
                    return Failure("engine", message)
                pause = _retry_after(response)
            if pause is None:
                pause = min(_MAX_PAUSE, self._backoff * 2**attempt)
            if self._down.is_set() or attempt == self._retries or pause > _MAX_WAIT:
                break
            self._sleep(pause)
        if message.startswith("no answer"):
            self._down.set()
        return Failure("unreachable", message)


def _headers(api_key_env: str | None) -> dict[str, str]:
    if api_key_env is None:
        return {}
    key = os.environ.get(api_key_env, "").strip()
    if not key:
        raise UserError(f"the environment variable {api_key_env} is not set: it must hold the API key")
    if not (key.isascii() and key.isprintable()):  # it could not be sent, and the error of that would quote it
        raise UserError(f"the environment variable {api_key_env} holds no API key: it has characters that none has")
    return {"Authorization": f"Bearer {key}"}


def _data_url(image: Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _content(prompt: Prompt) -> list[JSON]:
    images: list[JSON] = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in prompt.images]
    return [*images, {"type": "text", "text": prompt.text}]


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait; None when it does not say, or says it as a date."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _choices(response: httpx.Response) -> list[JSON] | Failure:
    try:
        body = cast(object, response.json())
    except ValueError:
        return Failure("engine", f"the answer is not JSON: {response.text[:200]}")
    choices = _entry(body, "choices")
    if not isinstance(choices, list) or not choices:
        return Failure("engine", f"the answer has no choices: {response.text[:200]}")
    return cast("list[JSON]", choices)


def _entry(value: object, key: str) -> object:
    """`value[key]` if `value` is a JSON object that has it, else None: answers of servers are not to be trusted."""
    return cast("JSON", value).get(key) if isinstance(value, dict) else None


def _completion(choice: object) -> Completion:
    message = _entry(choice, "message")
    reason = _entry(choice, "finish_reason")
    if message is None:
        return no_answer("a choice has no message")
    said = _entry(choice, "error") or _entry(message, "refusal")
    if said or reason in _WITHHELD:
        return no_answer(f"the server withheld the answer: {said or reason}"[:200])
    text = _text(_entry(message, "content"))
    steps = _entry(_entry(choice, "logprobs"), "content")
    known = cast("list[object]", steps) if isinstance(steps, list) else []
    return Completion(
        text=text, finished=reason != "length", score_probs=_score_probs(known), log_prob=_log_prob(known, text)
    )


def _text(content: object) -> str:
    """Content is a string, or a list of parts with text; half a character, which cannot be encoded, becomes `?`."""
    parts = [_entry(part, "text") for part in cast("list[object]", content)] if isinstance(content, list) else [content]
    return "".join(part for part in parts if isinstance(part, str)).encode(errors="replace").decode()


def _log_prob(steps: Sequence[object], text: str) -> float | None:
    """Log-probability of the text; None where a token of it has none. A server may list the token that ends it too."""
    found: list[float] = []
    position = 0
    for step in steps:
        if position >= len(text):
            break
        value = _entry(step, "logprob")
        if not isinstance(value, int | float) or math.isnan(value):
            return None
        found.append(float(value))
        position += len(_text(_entry(step, "token")))
    return math.fsum(found) if found else None


def _score_probs(steps: Sequence[object]) -> dict[float, float] | None:
    """Read the log-probabilities of the first token with any text after the last `<score>`."""
    tokens = [(_text(_entry(step, "token")), step) for step in steps]
    written = "".join(token for token, _ in tokens)
    tags = list(SCORE_OPEN.finditer(written))
    position = 0
    for token, step in tokens:
        if tags and position >= tags[-1].end() and token.strip():
            return distribution(_alternatives(step), token, written_value(written[position:]))
        position += len(token)
    return None


def _alternatives(step: object) -> list[tuple[str, float]]:
    listed = _entry(step, "top_logprobs")
    pairs: list[tuple[str, float]] = []
    for entry in [*(cast("list[object]", listed) if isinstance(listed, list) else []), step]:
        token, logprob = _entry(entry, "token"), _entry(entry, "logprob")
        if isinstance(token, str) and isinstance(logprob, int | float) and token not in dict(pairs):
            pairs.append((token, math.exp(min(0.0, logprob))))
    return pairs
