"""The OpenAI-compatible engine over real HTTP, against a small server that misbehaves on order."""

from __future__ import annotations

import base64
import io
import math
import socket
import threading
import time
from typing import Any

import pytest
from PIL import Image
from tests.verifier.chat_server import Reply, answer, choice, serving

from edit_r1.errors import UserError
from edit_r1.verifier.engines.openai_engine import OpenAIEngine
from edit_r1.verifier.prompting import Prompt

PROMPT = Prompt((Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")), "which one ?")


def ask(url: str, prompts: int = 1, n: int = 1, **options: Any) -> tuple[list[list[Any]], list[float]]:
    """Completions, and the pauses that the engine made."""
    pauses: list[float] = []
    settings: dict[str, Any] = {"sleep": pauses.append, "timeout": 5.0, **options}
    with OpenAIEngine(url, "vlm", **settings) as engine:
        found = engine.generate([PROMPT] * prompts, n=n, seed=5, max_tokens=64, temperature=0.7)
    return found, pauses


def test_request_and_answer() -> None:
    with serving(lambda request, number: answer("one", "two")) as server:
        found, pauses = ask(server.url, n=2, extra={"top_p": 0.9})
    assert [(c.text, c.finished, c.failure) for c in found[0]] == [("one", True, None), ("two", True, None)]
    assert pauses == []
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    settings = {key: request[key] for key in ("model", "n", "seed", "max_tokens", "temperature", "top_p")}
    assert settings == {"model": "vlm", "n": 2, "seed": 5, "max_tokens": 64, "temperature": 0.7, "top_p": 0.9}
    assert "logprobs" not in request
    first, second, text = request["messages"][0]["content"]
    assert text == {"type": "text", "text": "which one ?"}
    for part, pixel in ((first, (255, 0, 0)), (second, (0, 0, 255))):
        head, data = part["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == pixel


def test_a_system_prompt_goes_first() -> None:
    with serving(lambda request, number: answer("x")) as server:
        ask(server.url, system="Be strict.")
        ask(server.url)
    first, second = (request["messages"] for request in server.requests)
    assert first[0] == {"role": "system", "content": "Be strict."}
    assert first[1:] == second
    assert [message["role"] for message in second] == ["user"]


def test_half_a_character_does_not_come_through() -> None:
    """A server may cut an emoji, of two units in JSON, in the middle; what is left could not be written to disk."""
    with serving(lambda request, number: (200, '{"choices": [{"message": {"content": "fine \\ud83d"}}]}')) as server:
        found, _ = ask(server.url)
    assert found[0][0].text == "fine ?"


def test_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_VERIFIER_KEY", "abc\r\n")  # as a file with Windows' line ends leaves it
    with serving(lambda request, number: answer("x")) as server:
        ask(server.url, api_key_env="TEST_VERIFIER_KEY")
        ask(server.url)
    assert server.headers[0]["authorization"] == "Bearer abc"
    assert "authorization" not in server.headers[1]


def test_missing_key_and_wrong_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_VERIFIER_KEY", raising=False)
    with pytest.raises(UserError, match="TEST_VERIFIER_KEY is not set"):
        OpenAIEngine("http://127.0.0.1:1/v1", "vlm", api_key_env="TEST_VERIFIER_KEY")
    with pytest.raises(UserError, match="no address of an API"):
        OpenAIEngine("localhost:8000", "vlm")
    with pytest.raises(UserError, match="no address of an API"):
        OpenAIEngine("http://localhost:port/v1", "vlm")


@pytest.mark.parametrize("key", ["sk-s\u00e9cret", "sk-sec\nret"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_VERIFIER_KEY", key)
    with pytest.raises(UserError, match="TEST_VERIFIER_KEY holds no API key") as caught:
        OpenAIEngine("http://127.0.0.1:1/v1", "vlm", api_key_env="TEST_VERIFIER_KEY")
    assert "sk-" not in str(caught.value)


def test_server_that_gives_one_choice_at_a_time_is_asked_again_with_other_seeds() -> None:
    with serving(lambda request, number: answer(f"answer {number}")) as server:
        found, _ = ask(server.url, n=3)
    assert [c.text for c in found[0]] == ["answer 0", "answer 1", "answer 2"]
    assert [(r["n"], r["seed"]) for r in server.requests] == [(3, 5), (2, 6), (1, 7)]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_busy_then_fine(status: int) -> None:
    with serving(lambda request, number: (status, "busy") if number < 2 else answer("x")) as server:
        found, pauses = ask(server.url, backoff=0.5)
    assert found[0][0].text == "x"
    assert pauses == [0.5, 1.0]


def test_retry_after_is_obeyed() -> None:
    with serving(lambda r, k: (429, "busy", {"retry-after": "3"}) if k == 0 else answer("x")) as server:
        assert ask(server.url)[1] == [3.0]
    with serving(lambda r, k: (429, "busy", {"retry-after": "120"}) if k == 0 else answer("x")) as server:
        assert ask(server.url)[1] == [120.0]  # longer than a pause of our own
    with serving(lambda r, k: (429, "quota", {"retry-after": "86400"})) as server:
        found, pauses = ask(server.url)  # tomorrow: the run goes on without it
    assert pauses == []
    assert found[0][0].failure.kind == "unreachable"


def test_always_broken_is_a_failure_for_every_sample() -> None:
    with serving(lambda request, number: (500, "out of memory")) as server:
        found, pauses = ask(server.url, n=2, retries=2)
    assert len(server.requests) == 3
    assert len(pauses) == 2
    for completion in found[0]:
        assert completion.failure is not None
        assert completion.failure.kind == "unreachable"
        assert "500" in completion.failure.text
        assert "out of memory" in completion.failure.text


@pytest.mark.parametrize("status", [400, 401, 404])
def test_refusals_are_not_tried_again(status: int) -> None:
    with serving(lambda request, number: (status, "no such model")) as server:
        found, pauses = ask(server.url)
    assert len(server.requests) == 1
    assert pauses == []
    assert found[0][0].failure.kind == "engine"
    assert "no such model" in found[0][0].failure.text


@pytest.mark.parametrize(
    "body",
    [
        "{ not json",
        "",
        "[]",
        "null",
        {"choices": []},
        {"choices": "x"},
        {"error": "x"},
        {"choices": [1]},
        {"choices": [{}]},
    ],
)
def test_malformed_answers_are_failures(body: Any) -> None:
    with serving(lambda request, number: (200, body)) as server:
        found, _ = ask(server.url, n=2)
    assert [c.failure.kind for c in found[0]] == ["engine", "engine"]


def test_one_bad_prompt_does_not_spoil_the_others() -> None:
    def reply(request: dict[str, Any], number: int) -> Reply:
        return (400, "no") if number == 0 else answer("fine")

    with serving(reply) as server:
        found, _ = ask(server.url, prompts=3, concurrency=1)
    assert [c.failure is None for (c,) in found] == [False, True, True]


def test_finish_reasons_and_contents() -> None:
    choices = [
        choice("cut", "length"),
        choice("", "content_filter"),
        {"message": {"content": None}, "finish_reason": "stop"},
        {"message": {"content": [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]}},
        choice("[1] half of an ans", "error"),
        choice("[1] half of an ans", "stop") | {"error": {"code": 502, "message": "provider fell over"}},
        {"message": {"content": None, "refusal": "I cannot help with that"}, "finish_reason": "stop"},
    ]
    with serving(lambda request, number: (200, {"choices": choices})) as server:
        cut, withheld, nothing, parts, *broken = ask(server.url, n=7)[0][0]
    assert (cut.text, cut.finished) == ("cut", False)
    assert {completion.failure.kind for completion in (withheld, *broken)} == {"engine"}
    assert "provider fell over" in broken[1].failure.text
    assert "cannot help" in broken[2].failure.text
    assert (nothing.text, nothing.finished, nothing.failure) == ("", True, None)
    assert (parts.text, parts.finished) == ("in parts", True)


def test_dead_server() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        found, pauses = ask(url, prompts=20, n=2, retries=3, concurrency=2)
    assert [len(samples) for samples in found] == [2] * 20
    assert {c.failure.kind for samples in found for c in samples} == {"unreachable"}
    assert "ConnectError" in found[0][0].failure.text
    assert len(pauses) <= 2 * 3  # once the first prompts have waited in vain, the others do not


def test_slow_server_times_out() -> None:
    release = threading.Event()

    def reply(request: dict[str, Any], number: int) -> Reply:
        if number == 0:
            release.wait(5)
        return answer("x")

    with serving(reply) as server:
        start = time.perf_counter()
        found, pauses = ask(server.url, timeout=0.2)
        assert time.perf_counter() - start < 3
        release.set()
    assert found[0][0].text == "x"
    assert len(pauses) == 1


def test_concurrency_is_limited_and_order_kept() -> None:
    def reply(request: dict[str, Any], number: int) -> Reply:
        time.sleep(0.05)
        return answer(request["messages"][0]["content"][-1]["text"])

    prompts = [Prompt(PROMPT.images, f"prompt {k}") for k in range(9)]
    with serving(reply) as server, OpenAIEngine(server.url, "vlm", concurrency=3) as engine:
        found = engine.generate(prompts, n=1, seed=0, max_tokens=8, temperature=1.0)
    assert [c.text for (c,) in found] == [f"prompt {k}" for k in range(9)]
    assert 2 <= server.most_at_once <= 3


def steps(*tokens: str | tuple[str, dict[str, float]]) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for entry in tokens:
        token, others = entry if isinstance(entry, tuple) else (entry, {entry: 1.0})
        top = [{"token": other, "logprob": math.log(p)} for other, p in others.items()]
        content.append({"token": token, "logprob": math.log(others[token]), "top_logprobs": top})
    return {"content": content}


def probs_of(*tokens: str | tuple[str, dict[str, float]]) -> Any:
    text = "".join(entry if isinstance(entry, str) else entry[0] for entry in tokens)
    with serving(lambda r, k: (200, {"choices": [choice(text, logprobs=steps(*tokens))]})) as server:
        found, _ = ask(server.url, probabilities=True)
    assert server.requests[0]["logprobs"] is True
    assert server.requests[0]["top_logprobs"] == 20
    return found[0][0].score_probs


def test_score_probabilities_of_whole_numbers() -> None:
    """0.6 on 7, 0.2 on 8 and 0.2 on a word: 3/4 and 1/4 among numbers."""
    at_score = ("7", {"7": 0.6, " 8": 0.2, "seven": 0.2})
    probs = probs_of("<score> ", ("9", {"9": 1.0}), " </score> no: ", "<sc", "ore", ">", " ", at_score, " </score>")
    assert probs == pytest.approx({7.0: 0.75, 8.0: 0.25})


def test_log_probability_of_a_text() -> None:
    """0.5 * 0.25 * 1, whether or not the server lists the end too; a token without a number makes it unknown."""
    text = "[1] => yes <score> 7 </score>"
    written = steps(("[1] ", {"[1] ": 0.5}), ("=> yes ", {"=> yes ": 0.25}), "<score> 7 </score>")["content"]
    ended = [*written, {"token": "<|im_end|>", "logprob": -3.0}]
    torn, odd = [{"token": "[1] "}, *written[1:]], [{**written[0], "logprob": math.nan}, *written[1:]]
    for content, known in ((written, math.log(0.125)), (ended, math.log(0.125)), (torn, None), (odd, None), ([], None)):
        reply = choice(text, logprobs={"content": content})
        with serving(lambda r, k, found=reply: (200, {"choices": [found]})) as server:
            (completion,) = ask(server.url, probabilities=True)[0][0]
        assert completion.log_prob == (known if known is None else pytest.approx(known))


def test_score_probabilities_of_first_digits() -> None:
    """The written 7 goes on to 7.5, and stands for it; 8 stands for 8."""
    probs = probs_of("<score>", ("7", {"7": 0.5, "8": 0.5}), ".", "5", "</score>")
    assert probs == pytest.approx({7.5: 0.5, 8.0: 0.5})


def test_a_one_that_may_be_ten_is_not_guessed() -> None:
    assert probs_of("<score>", ("8", {"8": 0.7, "1": 0.3}), "</score>") is None
    assert probs_of("<score>", ("1", {"8": 0.7, "1": 0.3}), "0", "</score>") == pytest.approx({8.0: 0.7, 10.0: 0.3})
    assert probs_of("<score>", ("8", {"8": 0.5, "1": 0.3, "10": 0.2}), "</score>") == pytest.approx(
        {1.0: 0.3, 8.0: 0.5, 10.0: 0.2}
    )


@pytest.mark.parametrize("tokens", [("no score",), ("<score>",), ("<score>", "high"), ("<score> 7", " </score>")])
def test_no_probabilities_without_a_place_to_read_them(tokens: tuple[str, ...]) -> None:
    assert probs_of(*tokens) is None
