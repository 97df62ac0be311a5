"""Editors compared by a verifier: numbers known on paper, over real HTTP and through the real command line."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.data.trace_bench import QUESTIONS, instruction, trace
from tests.verifier.chat_server import Reply, answer, serving
from typer.testing import CliRunner, Result

from edit_r1.cli.main import app
from edit_r1.data.store import Records
from edit_r1.errors import UserError
from edit_r1.evaluation.answers import Answer
from edit_r1.evaluation.edits_judge import Entry, judge
from edit_r1.evaluation.edits_table import Judged, contests, editor_rows
from edit_r1.records import Check, Edit, EditTask, Failure, Principle, Provenance, Verdict
from edit_r1.verifier.engines.scripted import ScriptedEngine
from edit_r1.verifier.verifier import Verifier
from edit_r1.world.render import render, to_image
from edit_r1.world.tasks import generator, sample_task

SAID = {11: ("yny", 4.0), 21: ("yny", 4.0), 31: ("yny", 4.0), 41: ("yny", 4.0)} | {
    12: ("yyy", 8.0),
    22: ("yyy", 8.0),
    32: ("yyy", 8.0),
    42: ("nyy", 2.0),
}
"""What the server says of edits, by their shade: those of `base` end with 1, those of `mine` with 2."""


def shade(request: dict[str, Any]) -> int:
    """Of the edited picture in a request, which is the second."""
    data = request["messages"][-1]["content"][1]["image_url"]["url"].split(",")[1]
    red = Image.open(io.BytesIO(base64.b64decode(data))).convert("L", (1, 0, 0, 0)).getpixel((0, 0))
    assert isinstance(red, int)
    return red


def reply(request: dict[str, Any], number: int) -> Reply:
    return answer(trace(*SAID[shade(request)]))


class Bench:
    """Four tasks on pictures of one colour, two editors' edits of each, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        for editor, last in (("base", 1), ("mine", 2)):
            lines = [self.line(tens, last, editor) for tens in (10, 20, 30, 40)]
            (folder / f"{editor}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")

    def line(self, tens: int, last: int, editor: str) -> dict[str, Any]:
        for value in (tens, tens + last):
            Image.new("RGB", (8, 8), (value, 0, 0)).save(self.folder / f"{value}.png")
        given = {"instruction": "paint the cup", "editor": editor, "principles": QUESTIONS}
        return {"source": f"{tens}.png", "edited": f"{tens + last}.png", **given}

    def run(self, *more: object, url: str = "") -> Result:
        settings = {"traces": 1, "batch": 2, "endpoint.model": "judge", "endpoint.base_url": url}
        settings |= {"endpoint.concurrency": 1, "endpoint.retries": 0}
        flags = [part for key, value in settings.items() if url for part in ("--set", f"{key}={value}")]
        files = [part for name in ("base", "mine") for part in ("--edits", self.folder / f"{name}.jsonl")]
        arguments = ["evaluate", "edits", *files, *flags, "--out", self.out, *more]
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def last_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1].removeprefix("error: ")


def test_two_editors_by_hand(bench: Bench) -> None:
    """Base has 4 everywhere, mine has 8, 8, 8 and 2: 6.5 on average, +2.5 with three tasks won and one lost.

    The server dies after three answers; what it said is not asked again.
    """
    with serving(lambda request, number: reply(request, number) if number < 3 else (503, "down")) as server:
        line = last_line(bench.run(url=server.url))
        url, port = server.url, server.port
    assert line.startswith("the verifier does not answer (status 503")
    assert f"3 edits are judged and safe in {bench.out}/judgements.jsonl: continue with --resume" in line
    with serving(reply, port) as server:
        result = bench.run("--resume", url=url)
        assert result.exit_code == 0, result.output
        assert [shade(request) for request in server.requests] == [41, 12, 22, 32, 42]
        again = bench.run("--resume", url=url)
        assert (again.stdout, len(server.requests)) == (result.stdout, 5)
    document = json.loads((bench.out / "edits.json").read_text())
    base, mine = document["editors"]
    assert (base["editor"], base["edits"], base["score"], base["ci95"]) == ("base", 4, 4.0, [4.0, 4.0])
    assert base["met"] == {"all": 0.0, "follow": 1.0, "keep": 0.0, "quality": 1.0}
    assert (mine["score"], mine["met"]) == (6.5, {"all": 0.75, "follow": 0.75, "keep": 1.0, "quality": 1.0})
    [contest] = document["contests"]
    low, high = contest.pop("ci95")
    assert contest == {"first": "mine", "second": "base", "tasks": 4, "gain": 2.5, "wins": 0.75, "losses": 0.25}
    assert -2 <= low < 2.5 < high <= 4
    assert "mine over base: +2.50 points of 10" in result.stdout


def test_what_cannot_be_read_is_in_no_mean() -> None:
    """Of two edits of a task one is unreadable: the task has the score of the other; half of the traces failed."""
    principle = Principle("Is it?", "follow")
    verdict = Verdict((Check(principle, True, ""),), 6.0, "", Provenance("", "", "", "", 0))
    unread = Failure("no_score", "")
    read = [
        Judged("a", "task", "source", Answer(6.0, (verdict, unread), (6.0, None))),
        Judged("a", "task", "source", Answer(None, (unread, unread), (None, None))),
        Judged("a", "other", "source", Answer(8.0, (verdict, verdict), (8.0, 8.0))),
        Judged("b", "other", "source", Answer(None, (unread, unread), (None, None))),
    ]
    first, second = editor_rows(read)
    assert (first.score, first.edits, first.unreadable, first.failures) == (7.0, 3, 1, 0.5)
    assert first.met == {"all": 1.0, "follow": 1.0, "keep": None, "quality": None}
    assert (second.score, second.ci95, second.met["all"], second.failures) == (None, None, None, 1.0)
    assert contests(read) == []


def test_what_a_server_refuses_is_no_answer(bench: Bench) -> None:
    """It will not look at the pictures of the first batch, and is asked about the others all the same.

    Nothing is compared until those two edits are left out on demand, by name.
    """

    def refuse(request: dict[str, Any], number: int) -> Reply:
        return (400, "not this picture") if shade(request) in (11, 21) else reply(request, number)

    with serving(refuse) as server:
        assert "status 400" in last_line(bench.run(url=server.url))
        assert not (bench.out / "edits.json").exists()
        result = bench.run("--resume", "--finish", url=server.url)
    assert result.exit_code == 0, result.output
    assert [shade(request) for request in server.requests] == [11, 21, 31, 41, 12, 22, 32, 42, 11, 21]
    document = json.loads((bench.out / "edits.json").read_text())
    assert [(row["edits"], row["score"]) for row in document["editors"]] == [(2, 4.0), (4, 6.5)]
    assert [(one["tasks"], one["gain"]) for one in document["contests"]] == [(2, 1.0)]
    assert [place.rpartition("/")[2] for place in document["left_out"]] == ["base.jsonl line 1", "base.jsonl line 2"]
    assert all(why.startswith("no answer (status 400") for why in document["left_out"].values())
    assert "left out: 2" in result.stdout


def test_principles_are_named_once_for_each_task(bench: Bench) -> None:
    """Two editors' edits of a task are asked the same questions; a task without an answer goes when that is said."""
    for name, last in (("base", 1), ("mine", 2)):
        lines = [bench.line(tens, last, name) | {"principles": None} for tens in (10, 20)]
        lines[1]["instruction"] = "do the impossible"
        (bench.folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def both(request: dict[str, Any], number: int) -> Reply:
        if request["model"] == "judge":
            return reply(request, number)
        return (400, "no") if instruction(request) == "do the impossible" else answer(json.dumps(QUESTIONS))

    with serving(both) as server:
        named = {"base_url": server.url, "model": "chat", "concurrency": 1, "retries": 0}
        flags = [part for key, value in named.items() for part in ("--set", f"decomposer.{key}={value}")]
        assert "1 answer is missing (principles 1: status 400" in last_line(bench.run(*flags, url=server.url))
        result = bench.run(*flags, "--resume", "--finish", url=server.url)
    assert result.exit_code == 0, result.output
    assert [request["model"] for request in server.requests] == ["chat", "chat", "chat", "judge", "judge"]
    assert "mine over base: +4.00 points of 10" in result.stdout
    assert "left out: 2" in result.stdout


def test_a_batch_of_a_model_in_this_process_is_asked_whole(tmp_path: Path) -> None:
    """Its traces depend on the batch: where a kill left half of one, both edits are asked again. Then none is."""
    pictures = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (1, 2, 3, 4)]
    principles = tuple(Principle(question["question"], "follow") for question in QUESTIONS)
    task = EditTask(pictures[0], "paint", "", principles)
    edits = Records(4, lambda index: Edit(task, pictures[index], "x", 0))
    entries = [Entry(index, f"key {index}", "task", "source", "x", principles) for index in range(4)]
    journal = tmp_path / "judgements.jsonl"

    def judged() -> tuple[int, int]:
        engine = ScriptedEngine(lambda prompt, sample, seed: trace("yyy", 5.0))
        said, trouble = judge(Verifier(engine), entries, edits, journal, batch=2, traces=1, seed=0, whole=True)
        assert not trouble
        return len(engine.calls), len(said)

    assert judged() == (4, 4)
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:3], lines[3][:9]]))
    assert judged() == (2, 4)
    assert judged() == (0, 4)
    journal.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        judged()


def test_what_a_user_can_mend(bench: Bench) -> None:
    """Every mistake is one line with its mend, before anything is asked, and no run is begun."""
    url = "http://127.0.0.1:9/v1"
    assert "there is no verifier: give its folder as --model" in last_line(bench.run())
    mine = bench.folder / "mine.jsonl"
    line = bench.line(10, 2, "mine")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"editor": " "}, "mine.jsonl line 1 does not say whose edit it is"),
        ({"editor": "base"}, "mine.jsonl line 1 is of the editor base, as is"),
        ({"principles": None}, "mine.jsonl line 1 has no principles, and there is no [edits.decomposer]"),
        ({"principles": QUESTIONS[:1]}, "mine.jsonl line 1 has other principles than"),
    ]
    for changed, said in cases:
        mine.write_text(json.dumps(line | changed))
        assert said in last_line(bench.run(url=url))
    assert not bench.out.exists()


def test_editors_without_a_common_task_are_told_apart_from_nothing(bench: Bench) -> None:
    (bench.folder / "mine.jsonl").write_text(json.dumps(bench.line(10, 2, "mine") | {"instruction": "another"}))
    with serving(reply) as server:
        result = bench.run(url=server.url)
    assert "base and mine have no scored task in common" in result.stdout


def test_an_editors_samples_have_the_shape_of_their_sources(tmp_path: Path) -> None:
    """64 x 64 pixels at a ratio of 1 to 2: 45.3 x 90.5, in tokens of 8 pixels."""
    Image.effect_noise((50, 100), 80).convert("RGB").save(tmp_path / "high.png")
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"source": "high.png", "instruction": "remove the red square"}))
    given = ("--tasks", str(tmp_path / "tasks.jsonl"), "--out", str(tmp_path / "out"), "--set", "steps=1")
    result = CliRunner().invoke(app, ["editor", "sample", *given])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out/images/00000_0.png") as edited:
        assert edited.size == (48, 88)


def test_an_editors_samples_are_such_edits(tmp_path: Path) -> None:
    """The shipped editor does two world tasks twice; a run that lost a picture makes that one again, the same."""
    tasks = [sample_task(generator(seed, "test"), "test") for seed in (0, 1)]
    lines: list[dict[str, Any]] = []
    for number, task in enumerate(tasks):
        to_image(render(task.scene)).save(tmp_path / f"{number}.png")
        lines.append({"source": f"{number}.png", "instruction": task.instruction, "principles": QUESTIONS})
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "edits"
    settings = ("--set", "per_task=2", "--set", "steps=2", "--seed", "3")
    arguments = ["editor", "sample", "--tasks", str(tmp_path / "tasks.jsonl"), "--out", str(out), *settings]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (0, f"{out}/edits.jsonl: 4 edits\n"), result.output
    rows = [json.loads(line) for line in (out / "edits.jsonl").read_text().splitlines()]
    assert [row["edited"] for row in rows] == [f"images/0000{task}_{seed}.png" for task in (0, 1) for seed in (3, 4)]
    assert {row["editor"] for row in rows} == {"tiny"}
    assert rows[0]["principles"] == QUESTIONS
    images = [(out / row["edited"]).read_bytes() for row in rows]
    assert len(set(images)) == 4
    (out / "done.json").unlink()
    (out / "images" / "00001_4.png").unlink()
    assert CliRunner().invoke(app, [*arguments, "--resume"]).exit_code == 0
    assert [(out / row["edited"]).read_bytes() for row in rows] == images
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines[::-1])))
    changed = CliRunner().invoke(app, [*arguments, "--resume"])
    assert (changed.exit_code, "inputs.content" in changed.stderr) == (2, True)
    compared = ["evaluate", "edits", "--edits", str(out / "edits.jsonl"), "--out", str(tmp_path / "compared")]
    with serving(lambda request, number: answer(trace("yyy", 5.0))) as server:
        more = ["--set", f"endpoint.base_url={server.url}", "--set", "endpoint.model=judge", "--set", "traces=1"]
        result = CliRunner().invoke(app, [*compared, *more])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split()[:3] == ["tiny", "4", "5.00"]
