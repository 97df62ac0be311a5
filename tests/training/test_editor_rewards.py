"""Rewards of an editor: what judgements become, several verifiers, categories, a server that dies and comes back."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from tests.verifier.chat_server import Server, answer, choice, serving

from edit_r1.errors import UserError
from edit_r1.records import Check, Edit, EditTask, Failure, Principle, Provenance, Verdict
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.editor_rewards import (
    Reward,
    RewardFn,
    component_weights,
    patient,
    reward_function,
    reward_of,
    reward_tensor,
    verify,
    weighted,
)
from edit_r1.training.editor_rollout import Part
from edit_r1.verifier.trace import format_trace
from edit_r1.verifier.verifier import Judgement

ASKED = (
    Principle("is it red ?", "follow"),
    Principle("is it round ?", "follow"),
    Principle("is it sharp ?", "quality"),
)
UNKNOWN = Provenance("", "", "", "", 0)
SILENT = Reward(None, failures={"unreachable": 1}, trouble="ConnectError")


def checks(*met: bool) -> list[Check]:
    return [Check(principle, yes, "seen") for principle, yes in zip(ASKED, met, strict=True)]


def edits(count: int) -> list[Edit]:
    task = EditTask(Image.new("RGB", (8, 8)), "make it red", "colour", ASKED)
    return [Edit(task, Image.new("RGB", (8, 8), "red"), "editor", 0) for _ in range(count)]


def test_a_judgement_as_a_reward() -> None:
    """Two readable traces: follow 2 of 2 and 1 of 2 make 3/4, quality 0 and 1 make 1/2; nobody asked about keep."""
    verdicts = [Verdict(tuple(checks(*met)), 5.0, "", UNKNOWN) for met in ((True, True, False), (True, False, True))]
    found = reward_of(Judgement((*verdicts, Failure("no_score", "")), 5.0, 0.0, 1))
    assert found == Reward(5.0, {"follow": 0.75, "quality": 0.5}, {"no_score": 1}, traces=3)


def test_several_verifiers_are_weighted_and_must_all_be_readable() -> None:
    """Weights 1 and 3: scores 4 and 8 make 7; follow 0 and 1 make 3/4; quality is the second's alone."""
    first = [Reward(4.0, {"follow": 0.0}), Reward(None, failures={"no_score": 1})]
    second = [Reward(8.0, {"follow": 1.0, "quality": 0.5}), Reward(9.0, {"follow": 1.0})]
    both = weighted([first, second], [1.0, 3.0])
    expected = [Reward(7.0, {"follow": 0.75, "quality": 0.5}, traces=2), Reward(None, {}, {"no_score": 1}, traces=2)]
    assert both == expected


def test_categories_are_components_in_points() -> None:
    rewards = [Reward(5.0, {"follow": 0.5, "keep": 1.0}), Reward(None, failures={"empty": 1})]
    config = EditorGrpoConfig.model_validate({"categories": {"keep": 0.5}})
    found = reward_tensor(rewards, 2, config)
    assert found[:, 0, 0].tolist()[:2] == [5.0, 10.0]
    assert found.isnan().tolist() == [[[False, True]], [[False, True]], [[True, True]]]
    assert component_weights(config) == (1.0, 0.5, 1.0)
    assert torch.equal(reward_tensor(rewards, 2, EditorGrpoConfig()).nan_to_num(-1), torch.tensor([[[5.0, -1.0]]]))


def test_a_silent_server_is_asked_again_with_growing_pauses() -> None:
    answers = iter([[SILENT, SILENT], [SILENT, SILENT], [Reward(4.0), Reward(3.0)]])
    pauses: list[float] = []
    found = patient(lambda _: next(answers), 100.0, pauses.append)(edits(2))
    assert found == [Reward(4.0), Reward(3.0)]
    assert pauses == [2.0, 4.0]


def scripted(script: Sequence[tuple[int, list[Reward]]]) -> RewardFn:
    """Answers in turn, each for the number of edits that it expects."""
    answers = iter(script)

    def reward(asked: Sequence[Edit]) -> list[Reward]:
        count, found = next(answers)
        assert len(asked) == count
        return found

    return reward


def test_an_edit_that_only_cannot_be_reached_is_a_failure() -> None:
    """Asked again beside one that was answered: that one is answered again, so the server is there."""
    reward = scripted([(3, [SILENT, Reward(3.0), SILENT]), (3, [Reward(3.0), SILENT, Reward(5.0)])])
    assert patient(reward, 100.0, lambda _: pytest.fail("waited"))(edits(3)) == [SILENT, Reward(3.0), Reward(5.0)]


def test_a_server_that_dies_in_the_middle_of_a_batch_is_waited_for() -> None:
    """What it had answered stays; the witness is silent as well until the server is back."""
    pauses: list[float] = []
    one, two, three = Reward(1.0), Reward(2.0), Reward(3.0)
    reward = scripted([(3, [one, SILENT, SILENT]), (3, [SILENT] * 3), (3, [one, two, three])])
    assert patient(reward, 100.0, pauses.append)(edits(3)) == [one, two, three]
    assert pauses == [2.0]


def test_a_server_that_stays_away_stops_the_run() -> None:
    """Each try takes 3 seconds: they end at 3, 8, 15 and 26, with pauses of 2, 4 and 8 between, and 26 is past 20."""
    pauses: list[float] = []
    tries: list[float] = []

    def reward(_: Sequence[Edit]) -> list[Reward]:
        tries.append(3.0)
        return [SILENT]

    with pytest.raises(
        UserError, match=r"has not answered for 26 s \(ConnectError\); start it again and go on with --resume"
    ):
        patient(reward, 20.0, pauses.append, lambda: sum(tries) + sum(pauses))(edits(1))
    assert pauses == [2.0, 4.0, 8.0]


def test_what_cannot_be_read_is_not_waited_for() -> None:
    unread = Reward(None, failures={"unreachable": 1, "no_score": 1}, traces=2)
    assert patient(lambda _: [unread], 100.0, lambda _: pytest.fail("waited"))(edits(1)) == [unread]


def test_a_confident_reward_asks_the_server_for_probabilities() -> None:
    """A trace that writes 8 and has probability 0.25 in all."""
    text = format_trace(checks(True, True, True), 8.0)
    content = [{"token": text, "logprob": math.log(0.25), "top_logprobs": []}]
    with serving(lambda *_: (200, {"choices": [choice(text, logprobs={"content": content})]})) as server:
        endpoint = {"base_url": server.url, "model": "judge"}
        config = EditorGrpoConfig.model_validate({"rewards": ({"endpoint": endpoint},), "aggregate": "confident"})
        (found,) = reward_function(config.rewards, config)(edits(1))
    assert server.requests[0]["logprobs"] is True
    assert found.score == pytest.approx(2.0)


def test_what_a_server_refuses_is_a_failure_and_not_waited_for() -> None:
    """Over HTTP, with one edit: a refusal comes back however often it is asked, and the run would never go on."""
    with serving(lambda *_: (400, "the prompt is too long")) as server:
        endpoint = {"base_url": server.url, "model": "judge", "retries": 0}
        config = EditorGrpoConfig.model_validate({"rewards": ({"endpoint": endpoint},), "patience": 0})
        (found,) = reward_function(config.rewards, config)(edits(1))
    assert (found.score, found.failures) == (None, {"engine": 1})
    assert "the prompt is too long" in found.trouble


def test_a_reward_server_dies_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP: nobody listens at first; the server starts during the first pause, and the run goes on by itself."""
    written = format_trace(checks(True, False, True), 6.5)
    gone = Server(lambda *_: answer(written))
    gone.close()
    back: list[Server] = []

    def sleep(seconds: float) -> None:
        if not back:
            back.append(Server(lambda *_: answer(written), gone.port))

    monkeypatch.setattr(patient, "__defaults__", (sleep, time.monotonic))
    endpoint = {"base_url": gone.url, "model": "judge", "retries": 0}
    config = EditorGrpoConfig.model_validate({"rewards": ({"endpoint": endpoint},)})
    try:
        found = reward_function(config.rewards, config)(edits(3))
    finally:
        for server in back:
            server.close()
    assert found == [Reward(6.5, {"follow": 0.5, "quality": 1.0})] * 3
    assert {request["model"] for request in back[0].requests} == {"judge"}


def part(count: int) -> Part:
    nothing: Any = None
    return Part(nothing, nothing, tuple(edits(count)))


def test_verification_overlaps_the_sampling_of_the_next_part() -> None:
    """The first part's verdict is given only once the second part is being sampled: in turn, this would never end."""
    sampling = threading.Event()

    def sampled() -> Iterator[Part]:
        yield part(2)
        sampling.set()
        yield part(1)

    def reward(found: Sequence[Edit]) -> list[Reward]:
        assert sampling.wait(30)
        return [Reward(float(len(found)))] * len(found)

    parts, rewards = verify(sampled(), reward, overlap=True)
    assert [len(each) for each in parts] == [2, 1]
    assert [reward.score for reward in rewards] == [2.0, 2.0, 1.0]
    parts, rewards = verify(iter([part(2), part(1)]), reward, overlap=False)
    assert [reward.score for reward in rewards] == [3.0, 3.0, 3.0]


def test_ctrl_c_while_a_server_is_waited_for_ends_at_once() -> None:
    """The server would answer only afterwards: a run that waited for it would never come to that."""
    gone, ended = threading.Event(), threading.Event()

    def parts() -> Iterator[Part]:
        yield part(1)
        raise KeyboardInterrupt

    def reward(found: Sequence[Edit]) -> list[Reward]:
        ended.set() if gone.wait(30) else None
        return [SILENT] * len(found)

    with pytest.raises(KeyboardInterrupt):
        verify(parts(), reward, overlap=True)
    assert not ended.is_set()
    gone.set()


def test_a_verifier_may_be_asked_otherwise_than_the_run_asks() -> None:
    """Two traces with the template `verify`, where the run has one with `compact`."""

    def asked(**own: Any) -> tuple[Reward, list[dict[str, Any]]]:
        with serving(lambda *_: answer(format_trace(checks(True, True, True), 8.0))) as server:
            source = {"endpoint": {"base_url": server.url, "model": "judge"}, **own}
            config = EditorGrpoConfig.model_validate({"rewards": (source,), "temperature": 1.0})
            (found,) = reward_function(config.rewards, config)(edits(1))
        return found, server.requests

    found, requests = asked(template="verify", traces=2, max_tokens=77)
    usual, as_the_run = asked()
    assert (found.traces, usual.traces) == (2, 1)
    assert ({r["max_tokens"] for r in requests}, as_the_run[0]["max_tokens"]) == ({77}, 160)
    assert requests[0]["messages"] != as_the_run[0]["messages"]


def test_an_error_while_verifying_is_not_swallowed_and_the_rest_is_not_asked() -> None:
    """The first part's error comes once all four are queued; at most the second is begun before it is heard of."""
    sampled, asked = threading.Event(), list[int]()

    def parts() -> Iterator[Part]:
        yield from (part(count) for count in (1, 2, 3, 4))
        sampled.set()

    def broken(found: Sequence[Edit]) -> list[Reward]:
        asked.append(len(found))
        if len(found) == 1:
            assert sampled.wait(30)
            raise UserError("away")
        time.sleep(0.2)  # a server that is waited for
        return [SILENT] * len(found)

    with pytest.raises(UserError, match="away"):
        verify(parts(), broken, overlap=True)
    assert asked in ([1], [1, 2])
    assert math.isnan(float(reward_tensor([SILENT], 1, EditorGrpoConfig())))
