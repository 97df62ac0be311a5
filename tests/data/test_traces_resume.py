"""Traces when servers are slow, broken, dead or out of quota: what is retried, what is missing, and how it goes on."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.data.trace_bench import Bench, instruction, scripted, trace
from tests.verifier.chat_server import Reply, answer, serving
from typer.testing import Result

from edit_r1.data.store import read_traces
from edit_r1.data.traces.journal import Journal, Request
from edit_r1.errors import UserError
from edit_r1.records import Failure
from edit_r1.verifier.engines.base import Completion, no_answer

NOW = {"retry-after": "0"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Four edits."""
    bench = Bench(tmp_path)
    bench.manifest({}, {}, {}, {})
    return bench


def last_line(result: Result) -> str:
    """The one line of the error, after the progress."""
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def pairs(server: Any) -> Counter[tuple[str, str]]:
    """Who was asked about which edit, and how often."""
    return Counter((request["model"], instruction(request)) for request in server.requests)


ALL = {(model, f"edit {k}") for model in ("a", "b", "gold") for k in range(4)}


def test_a_time_out_and_broken_answers_are_tried_again(bench: Bench) -> None:
    """The first try about edit 0 is never answered, that about edit 1 with an error: all twelve answers come."""
    release = threading.Event()
    tried: set[tuple[str, str]] = set()

    def reply(request: dict[str, Any], number: int) -> Reply:
        pair = (request["model"], instruction(request))
        first = pair not in tried
        tried.add(pair)
        if first and pair[1] == "edit 0":
            release.wait(10)
        return (500, "out of memory", NOW) if first and pair[1] == "edit 1" else answer(trace("yyy", 8.0))

    with serving(reply) as server:
        bench.recipe(server.url, retries=3, each="timeout = 1.0")
        result = bench.run("--set", "give_up_after=1")
        release.set()
    assert result.exit_code == 0, result.output
    assert set(pairs(server)) == ALL
    assert all(pairs(server)[model, f"edit {k}"] >= 2 for model in ("a", "b", "gold") for k in (0, 1))
    assert bench.statistics()["edits"]["kept"] == 4
    assert len([line for line in bench.journal() if "text" in line]) == 12


def test_endpoints_are_asked_at_the_same_time_each_with_its_requests_in_flight(bench: Bench) -> None:
    """Two teachers and gold, two requests each: nobody is answered before six are in flight, and never are more."""
    six = threading.Barrier(6, timeout=10)

    def reply(request: dict[str, Any], number: int) -> Reply:
        six.wait()
        return answer(trace("yyy", 8.0))

    with serving(reply) as server:
        bench.recipe(server.url, concurrency=2, retries=0)
        result = bench.run()
    assert result.exit_code == 0, result.output
    assert server.most_at_once == 6
    assert pairs(server) == dict.fromkeys(ALL, 1)


@pytest.mark.parametrize(
    "refusal",
    [(429, "quota used up", NOW), (402, "pay first"), (403, "quota used up"), (200, "<html>log in first</html>")],
    ids=["429", "402", "403", "html"],
)
def test_quota_that_ends_in_the_middle_costs_nothing_twice(bench: Bench, refusal: Reply) -> None:
    """Teacher b answers two of four edits (one of them unreadably) and then no more; gold and a go on to their end.

    On resumption b alone is asked, about the other two; b's unreadable answer is an answer and stays.
    """
    given: Counter[str] = Counter()

    def reply(request: dict[str, Any], number: int) -> Reply:
        given[request["model"]] += 1
        if request["model"] != "b":
            return answer(trace("yyy", 8.0))
        return refusal if given["b"] > 2 else answer("no idea")

    with serving(reply) as server:
        bench.recipe(server.url, top="give_up_after = 2")
        line = last_line(bench.run())
        assert line.startswith("error: 2 answers are missing (teacher b 2: ")
        assert line.endswith(
            f"the others are safe in {bench.out}: continue with --resume, or add --finish as well to select from what "
            "is there"
        )
        assert "quota" in line or "pay" in line or "log in" in line
        assert "--resume" in last_line(bench.run())  # a finished half is not begun anew by accident
        first = {pair for pair in pairs(server) if pair[0] == "b"}
        port = server.port
    answered = [line for line in bench.journal() if "text" in line]
    assert len(answered) == 10
    assert not (bench.out / "done.json").exists()
    assert first == {("b", f"edit {k}") for k in range(4)}

    with serving(scripted({}), port) as server:
        result = bench.run("--resume")
    assert result.exit_code == 0, result.output
    assert sorted(pairs(server).elements()) == [("b", "edit 2"), ("b", "edit 3")]
    assert bench.statistics()["teachers"]["b"] | {"agreement": 0} == {
        "asked": 4,
        "readable": 2,
        "failures": {"missing_principle": 2},
        "kept": 0,
        "agreement": 0,
    }
    assert len(list(read_traces(bench.out / "traces"))) == 4


def test_a_dead_server_is_left_alone_and_asked_again_later(bench: Bench) -> None:
    """Nothing listens: each of three endpoints gives up after one request; with a server back, all 12 are asked."""
    with serving(scripted({})) as server:
        port = server.port
        bench.recipe(server.url, top="give_up_after = 1", each="max_tokens = 9")
    line = last_line(bench.run())
    assert line.startswith("error: 12 answers are missing (gold 4: no answer from http://127.0.0.1")
    assert "teacher a 4: no answer" in line
    assert "ConnectError" in line
    assert len(bench.journal()) == 3
    with serving(scripted({}), port) as server:
        assert bench.run("--resume").exit_code == 0
    assert pairs(server) == Counter(ALL)


def test_what_is_always_refused_holds_back_no_other(bench: Bench) -> None:
    """Teacher b refuses edits 1 and 3 for ever; its quota ends after edit 4, and 7 is never asked about.

    A resumed run asks about 7 first, and then about 1 and 3, where b is left alone again. The next has asked least
    often about 5 and 6. Patience and address may be others then.
    """
    quota = 5

    def reply(request: dict[str, Any], number: int) -> Reply:
        place = int(instruction(request).split()[1])
        if request["model"] == "b" and (place in (1, 3) or place >= quota):
            return (400, "not this picture") if place < quota else (402, "pay first")
        return answer(trace("yyy", 8.0))

    bench.manifest(*({} for _ in range(8)))
    with serving(reply) as server:
        bench.recipe(server.url, top="give_up_after = 2")
        assert "teacher b 5: " in last_line(bench.run())
        quota, before = 8, len(server.requests)
        assert "teacher b 4: " in last_line(bench.run("--resume"))
    asked = [instruction(request) for request in server.requests[before:]]
    assert asked == ["edit 7", "edit 1", "edit 3"]
    with serving(reply) as server:
        bench.recipe(server.url, top="give_up_after = 3")
        other = ("--set", "gold.max_tokens=9")
        assert "made with other settings (gold.max_tokens)" in last_line(bench.run("--resume", *other))
        assert "teacher b 2: status 400" in last_line(bench.run("--resume"))
    asked = [instruction(request) for request in server.requests]
    assert asked == ["edit 5", "edit 6", "edit 1", "edit 3"]
    assert json.loads((bench.out / "config.json").read_text())["give_up_after"] == 3


def test_finish_selects_from_what_is_there(bench: Bench) -> None:
    """Gold never answers about edit 1, a about edit 2: edit 1 is dropped, of edit 2 b is kept; the rest are a's."""

    def reply(request: dict[str, Any], number: int) -> Reply:
        refused = (request["model"], instruction(request)) in {("gold", "edit 1"), ("a", "edit 2")}
        return (400, "not this picture") if refused else answer(trace("yyy", 8.0))

    with serving(reply) as server:
        bench.recipe(server.url)
        assert "gold 1: status 400" in last_line(bench.run())
        result = bench.run("--resume", "--finish")
    assert result.exit_code == 0, result.output
    assert len(server.requests) == 14  # twelve, and the two without an answer once more
    statistics = bench.statistics()
    assert statistics["edits"] == {"in": 4, "kept": 3, "dropped": {"no_gold": 1}}
    assert statistics["teachers"]["a"]["failures"] == statistics["gold"]["failures"] == {"engine": 1}
    kept = [(k.edit.task.instruction, k.teacher) for k in read_traces(bench.out / "traces")]
    assert kept == [("edit 0", "a"), ("edit 2", "b"), ("edit 3", "a")]
    with serving(lambda request, number: answer(trace("yyy", 8.0)), server.port) as server:  # the quota is back
        assert bench.run("--resume", "--finish").exit_code == 0
        assert server.requests == []
        assert bench.run("--resume").exit_code == 0
        assert len(server.requests) == 2
        assert bench.statistics()["edits"] == {"in": 4, "kept": 4, "dropped": {}}
        assert bench.run("--resume").exit_code == 0
        assert len(server.requests) == 2


def test_missing_principles_hold_back_their_own_edits_only(bench: Bench) -> None:
    """The decomposer refuses one of two tasks: the other edit is asked about at once, the first after resumption."""
    bench.manifest({"principles": None}, {})
    refuse = True

    def reply(request: dict[str, Any], number: int) -> Reply:
        if len(request["messages"]) == 1:
            questions = [{"question": f"is {k} right?", "category": "follow"} for k in range(3)]
            return (403, "no") if refuse else answer(json.dumps(questions))
        return answer(trace("yyy", 8.0))

    with serving(reply) as server:
        bench.recipe(server.url)
        assert "1 answer is missing (principles 1: status 403" in last_line(bench.run())
        assert set(pairs(server)) == {("gold", "edit 0"), *((model, "edit 1") for model in ("a", "b", "gold"))}
        refuse = False
        assert bench.run("--resume").exit_code == 0
    assert len(server.requests) == 1 + 3 + 1 + 3
    assert bench.statistics()["edits"]["kept"] == 2


def test_what_was_never_asked_is_not_counted_as_asked(bench: Bench) -> None:
    """Two tasks need principles, the decomposer refuses the first and is left alone: it was asked once, not twice."""
    bench.manifest({"principles": None}, {"principles": None}, {})

    def reply(request: dict[str, Any], number: int) -> Reply:
        return (403, "no") if len(request["messages"]) == 1 else answer(trace("yyy", 8.0))

    with serving(reply) as server:
        bench.recipe(server.url, top="give_up_after = 1")
        assert bench.run("--finish").exit_code == 0
    statistics = bench.statistics()
    assert statistics["decomposer"] == {"asked": 1, "readable": 0, "failures": {"engine": 1}}
    assert statistics["edits"] == {"in": 3, "kept": 1, "dropped": {"no_principles": 2}}
    assert statistics["never_asked"] == {"principles": 1}


def test_what_finish_gave_up_is_counted_by_endpoint(bench: Bench) -> None:
    """Teacher b refuses the first of four edits and is left alone: three were never asked of it, and it says so."""

    def reply(request: dict[str, Any], number: int) -> Reply:
        return (403, "no") if request["model"] == "b" else answer(trace("yyy", 8.0))

    with serving(reply) as server:
        bench.recipe(server.url, top="give_up_after = 1")
        result = bench.run("--finish")
    assert result.exit_code == 0, result.output
    assert bench.statistics()["never_asked"] == {"teacher b": 3}
    assert "never asked: teacher b 3" in result.stdout


def test_a_finished_run_goes_on_when_its_manifest_has_grown(bench: Bench) -> None:
    """A fifth edit is asked about, the four others are not, and five texts are kept; then there is nothing to do."""
    with serving(scripted({})) as server:
        bench.recipe(server.url)
        assert bench.run().exit_code == 0
        bench.manifest({}, {}, {}, {}, {})
        before = len(server.requests)
        assert bench.run("--resume").exit_code == 0
        assert {instruction(request) for request in server.requests[before:]} == {"edit 4"}
        assert len(server.requests) == before + 3
        assert len(list(read_traces(bench.out / "traces"))) == 5
        assert bench.statistics()["edits"] == {"in": 5, "kept": 5, "dropped": {}}
        written = (bench.out / "done.json").stat().st_mtime_ns
        assert "5 of 5 edits have a text" in bench.run("--resume").stdout
        assert (bench.out / "done.json").stat().st_mtime_ns == written


def test_a_finished_run_and_a_torn_line(bench: Bench) -> None:
    """A run killed while it wrote its last line asks for that answer again, and for no other; then for none."""
    with serving(scripted({})) as server:
        bench.recipe(server.url)
        assert bench.run().exit_code == 0
        whole = (bench.out / "journal.jsonl").read_bytes()
        (bench.out / "done.json").unlink()
        (bench.out / "journal.jsonl").write_bytes(whole[:-9])
        before = len(server.requests)
        assert bench.run("--resume").exit_code == 0
        assert len(server.requests) == before + 1
        assert sorted((bench.out / "journal.jsonl").read_bytes().splitlines()) == sorted(whole.splitlines())
        assert bench.run("--resume").exit_code == 0
        assert len(server.requests) == before + 1


def test_the_journal_by_itself(tmp_path: Path) -> None:
    """A later line replaces an earlier one; failures are no answers; texts come back as they were, line ends too."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    text, cut = Completion("a\nb \u2028 桌子", finished=True), Completion("a", finished=False)
    one, two = Request("x", "teacher", "plain", 1), Request("x", "gold")
    assert journal.answer(one) is None
    for request, found in ((one, no_answer("busy")), (two, no_answer("busy")), (one, text), (two, cut), (two, cut)):
        journal.add(request, found)
    dead, busy = Completion("", False, failure=Failure("unreachable", "dead")), Request("z", "gold", "")
    journal.add(Request("y", "principles"), dead)
    again = Journal(path)
    assert again.answer(Request("y", "principles")) == dead
    assert [again.asked(r) for r in (one, two, Request("y", "principles"), busy)] == [2, 3, 1, 0]
    assert (again.answer(one), again.answer(two)) == (text, cut)
    assert [again.answered(r) for r in (one, two, Request("y", "principles"), Request("z", "gold"))] == [
        True,
        True,
        False,
        False,
    ]
    old = '{"edit": "z", "role": "gold", "teacher": "", "sample": 0, "failure": "busy"}\n'  # without its kind
    path.write_text(path.read_text() + old)
    assert Journal(path).answer(busy) == no_answer("busy")
    path.write_text(path.read_text() + '{"edit": 1}\n')
    with pytest.raises(UserError, match=r"journal\.jsonl line 8 is damaged"):
        Journal(path)
