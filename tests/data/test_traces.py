"""Traces for real images, through the real command line and over real HTTP: who is asked what, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.trace_bench import QUESTIONS, Bench, instruction, question, scripted, trace
from tests.training.tiny_run import tiny_world
from tests.verifier.chat_server import Reply, answer, choice, serving
from typer.testing import CliRunner

from edit_r1.cli.main import app
from edit_r1.config import load_recipe
from edit_r1.data.store import read_edits, read_traces
from edit_r1.data.traces.selection import read_gold
from edit_r1.records import Failure, Principle
from edit_r1.stages import TracesConfig
from edit_r1.verifier.prompting import load_system
from edit_r1.verifier.verifier import Completion


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_is_kept_and_counted_by_hand(bench: Bench) -> None:
    """Six edits with three principles, teachers a and b, gold yyn (but for edit 5).

    edit 0: a yyy agrees in 2 of 3, b yyn in 3 of 3: b is kept, though its score is lower.
    edit 1: a answers in another language (`bad_answer`), b is cut off at the limit (`truncated`): no readable text.
    edit 2: gold is a web page without a check (`missing_principle`): no gold; a yyy and b yyy can be read.
    edit 3: a is wrapped in HTML and readable, yyn: 3 of 3; b says nothing (`empty`): a is kept. Gold has no score.
    edit 4: equal to edit 0 in all that is shown: a duplicate, never asked about.
    edit 5: a and b are alike, yyy and 8, and gold is yyy: the first teacher's is kept, 3 of 3.
    Agreement of a: (2/3 + 1 + 1) / 3 = 8/9; of b: (1 + 1) / 2 = 1.
    """
    page = "<html><body>\n<p>Here is my report.</p>\n{}\n</body></html>"
    texts = {
        ("a", "edit 0"): trace("yyy", 9.0),
        ("b", "edit 0"): trace("yyn", 4.0),
        ("a", "edit 1"): "[1] Die Tasse ist blau => ja\n[2] 桌子一样 => 是\n[3] sauber => nein\n<score> 7 </score>",
        ("a", "edit 3"): page.format(trace("yyn", 5.0)),
        ("b", "edit 3"): "  ",
        ("gold", "edit 2"): "<html><body><h1>Bad gateway</h1></body></html>",
        ("gold", "edit 3"): trace("yyn", None),
        ("gold", "edit 5"): trace("yyy", 1.0),
    }
    usual = scripted(texts)

    def reply(request: dict[str, Any], number: int) -> Reply:
        key = (request["model"], instruction(request))
        if key == ("b", "edit 1"):
            return 200, {"choices": [choice("[1] seen => yes\n[2] se", "length")]}
        return answer(trace("yyn", 9.0)) if key[0] == "gold" and key not in texts else usual(request, number)

    lines: list[dict[str, Any]] = [{"editor": "kontext", "category": "color"}, *({} for _ in range(5))]
    lines[4] = {"instruction": "edit 0", "source": "source0.png", "edited": "edited0.png"}
    bench.manifest(*lines)
    with serving(reply) as server:
        bench.recipe(server.url)
        result = bench.run()
    assert result.exit_code == 0, result.output
    assert bench.statistics() == {
        "edits": {"in": 6, "kept": 3, "dropped": {"duplicate": 1, "no_gold": 1, "no_readable_text": 1}},
        "teachers": {
            "a": {
                "asked": 5,
                "readable": 4,
                "failures": {"bad_answer": 1},
                "kept": 2,
                "agreement": pytest.approx(8 / 9),
            },
            "b": {"asked": 5, "readable": 3, "failures": {"empty": 1, "truncated": 1}, "kept": 1, "agreement": 1.0},
        },
        "gold": {"asked": 5, "readable": 4, "failures": {"missing_principle": 1}},
        "decomposer": {"asked": 0, "readable": 0, "failures": {}},
        "never_asked": {},
    }
    assert result.stdout.splitlines() == [
        f"{bench.out}: 3 of 6 edits have a text; dropped: duplicate 1, no_gold 1, no_readable_text 1",
        "teacher a: asked 5, readable 4, failures: bad_answer 1, kept 2, agreement with gold 89%",
        "teacher b: asked 5, readable 3, failures: empty 1, truncated 1, kept 1, agreement with gold 100%",
        "gold: asked 5, readable 4, failures: missing_principle 1",
        "decomposer: asked 0, readable 0, failures: none",
        "never asked: none",
    ]
    kept = list(read_traces(bench.out / "traces"))
    assert [(k.edit.task.instruction, k.teacher, k.agreement) for k in kept] == [
        ("edit 0", "b", 1.0),
        ("edit 3", "a", 1.0),
        ("edit 5", "a", 1.0),
    ]
    assert kept[0].text == texts["b", "edit 0"]
    task = kept[0].edit.task
    assert (kept[0].edit.editor, task.category) == ("kontext", "color")
    assert [p.question for p in task.principles] == [q["question"] for q in QUESTIONS]
    assert (task.source.getpixel((0, 0)), kept[0].edit.image.getpixel((0, 0))) == ((40, 0, 0), (90, 0, 0))
    assert len(server.requests) == 15


def test_gold_that_was_cut_off_is_none() -> None:
    """Behind the last check it may have gone on to correct itself."""
    principles = tuple(Principle(q["question"], "follow") for q in QUESTIONS)
    found = read_gold(Completion(trace("yyn", None), finished=True), principles)
    assert isinstance(found, tuple)
    assert [check.met for check in found] == [True, True, False]
    assert isinstance(read_gold(Completion(trace("yyn", None), finished=False), principles), Failure)


def test_everyone_is_asked_in_a_manner_of_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """System prompt, key, temperature, images and seed of each; two texts of one teacher differ in their seed."""
    monkeypatch.setenv("TEST_TRACES_KEY", "abc")
    own = bench.folder / "own.txt"
    own.write_text("Be kind.\n")
    bench.manifest({})
    with serving(scripted({})) as server:
        bench.recipe(server.url, each='api_key_env = "TEST_TRACES_KEY"')
        recipe = (bench.folder / "recipe.toml").read_text()
        recipe = recipe.replace('model = "a"', f'model = "a"\nsystem = "{own}"\ntexts = 2\ntemperature = 0.3')
        (bench.folder / "recipe.toml").write_text(recipe)
        assert bench.run().exit_code == 0
    assert {headers["authorization"] for headers in server.headers} == {"Bearer abc"}
    assert "abc" not in (bench.out / "config.json").read_text()
    asked = {model: [r for r in server.requests if r["model"] == model] for model in ("a", "b", "gold")}
    assert {model: len(requests) for model, requests in asked.items()} == {"a": 2, "b": 1, "gold": 1}
    first, second = asked["a"]
    assert first["seed"] != second["seed"]
    assert (first["temperature"], asked["b"][0]["temperature"], asked["gold"][0]["temperature"]) == (0.3, 0.7, 0.0)
    systems = {model: requests[0]["messages"][0] for model, requests in asked.items()}
    assert systems["a"] == {"role": "system", "content": "Be kind."}
    assert systems["b"]["content"] == load_system("plain")
    assert systems["gold"]["content"] == load_system("gold")
    for request in server.requests:
        assert [part["type"] for part in request["messages"][-1]["content"]] == ["image_url", "image_url", "text"]
        assert "[3] Is it free of seams?" in question(request)


def test_missing_principles_are_named_once_for_each_task(bench: Bench) -> None:
    """Edits 0 and 1 share source and instruction, edit 2 has no usable list and is dropped, edit 3 brings its own."""

    def reply(request: dict[str, Any], number: int) -> Reply:
        if "JSON list" not in question(request):
            return answer(trace("yyy", 8.0))
        return answer("I cannot." if instruction(request) == "edit 2" else f"```json\n{json.dumps(QUESTIONS)}\n```")

    none: dict[str, Any] = {"principles": None}
    bench.manifest(none, {**none, "source": "source0.png", "instruction": "edit 0"}, none, {})
    with serving(reply) as server:
        bench.recipe(server.url)
        result = bench.run()
    assert result.exit_code == 0, result.output
    decompositions = [request for request in server.requests if "JSON list" in question(request)]
    assert sorted(map(instruction, decompositions)) == ["edit 0", "edit 2"]
    assert {request["model"] for request in decompositions} == {"gold"}
    assert {message["role"] for request in decompositions for message in request["messages"]} == {"user"}
    statistics = bench.statistics()
    assert statistics["decomposer"] == {"asked": 2, "readable": 1, "failures": {"bad_answer": 1}}
    assert statistics["edits"] == {"in": 4, "kept": 3, "dropped": {"no_principles": 1}}
    kept = list(read_traces(bench.out / "traces"))
    assert [len(k.edit.task.principles) for k in kept] == [3, 3, 3]


def test_nothing_to_keep_is_an_error_with_its_reasons(bench: Bench) -> None:
    bench.manifest({}, {})
    texts = {("gold", "edit 0"): "no", ("a", "edit 1"): "no", ("b", "edit 1"): "no"}
    with serving(scripted(texts)) as server:
        bench.recipe(server.url)
        result = bench.run()
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "error: no edit has a text to keep (no_gold 1, no_readable_text 1); see what the models wrote in "
        f"{bench.out}/journal.jsonl"
    )
    assert not (bench.out / "done.json").exists()


def test_the_edits_of_a_world(bench: Bench) -> None:
    """Its principles go along; a trace that meets all of them is readable whatever their number."""
    world = tiny_world(bench.folder)
    edits = list(read_edits(world / "edits"))

    def reply(request: dict[str, Any], number: int) -> Reply:
        return answer(trace("y" * sum(line.startswith("[") for line in question(request).split("\n")), 8.0))

    with serving(reply) as server:
        bench.recipe(
            server.url,
            teachers="a",
            top='template = "compact"',
            each="max_tokens = 300",
        )
        result = bench.run("--data", world)
    assert result.exit_code == 0, result.output
    kept = list(read_traces(bench.out / "traces"))
    assert [k.edit.task.principles for k in kept] == [judged.edit.task.principles for judged in edits]
    assert bench.statistics()["edits"] == {"in": len(edits), "kept": len(edits), "dropped": {}}


def test_the_shipped_recipe() -> None:
    """It can be read, its addresses are this machine's own, and its teachers differ in their manner."""
    config = load_recipe(TracesConfig, "qwen_vl/traces", section="traces")
    endpoints = [*config.teachers, config.gold]
    assert all(endpoint.base_url.startswith("http://127.0.0.1:") for endpoint in endpoints)
    assert [teacher.system for teacher in config.teachers] == ["plain", "strict", "terse"]
    assert all(load_system(endpoint.system) for endpoint in endpoints)


OK = '{"source": "source0.png", "edited": "edited0.png", "instruction": "x"'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "no valid JSON (key must be a string at line 1 column 2); write one object on each line"),
        ("[1, 2]", "the line should be an object"),
        ('{"source": "source0.png", "instruction": "x"}', "key 'edited' is missing; add it"),
        (OK + ', "sorce": 1}', "unknown key 'sorce'; did you mean 'source'?"),
        (
            OK + ', "zzz": 1}',
            "unknown key 'zzz'; known keys: source, instruction, category, principles, edited, editor",
        ),
        (OK.replace('"x"', '"  "') + "}", "instruction is empty; fill it in, or take the line out"),
        (OK.replace('"x"', "3") + "}", "instruction should be a valid string"),
        (OK + ', "principles": []}', "principles is an empty list; leave it out, and a"),
        (OK + ', "principles": [{"question": "q", "category": "taste"}]}', "principles.0.category should be 'follow'"),
        (OK + ', "principles": [{"question": " ", "category": "keep"}]}', "principles.0.question is empty"),
        (OK.replace("edited0", "none") + "}", "no image at {folder}/none.png; check the path"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_asked(bench: Bench, line: str, message: str) -> None:
    bench.manifest({}, "", line)
    with serving(scripted({})) as server:
        bench.recipe(server.url)
        result = bench.run()
    assert result.exit_code == 2, result.output
    expected = f"error: {bench.folder}/edits.jsonl line 3: {message}".replace("{folder}", str(bench.folder))
    assert result.stderr.startswith(expected), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert server.requests == []
    assert not bench.out.exists()


def test_a_damaged_image_is_named_before_anything_is_asked(bench: Bench) -> None:
    bench.manifest({}, {"edited": "text.png"})
    (bench.folder / "text.png").write_text("no image")
    with serving(scripted({})) as server:
        bench.recipe(server.url)
        result = bench.run()
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"error: {bench.folder}/text.png ({bench.folder}/edits.jsonl line 2) is not an image")
    assert server.requests == []
    assert not bench.out.exists()


def test_what_else_a_user_can_mend(bench: Bench) -> None:
    """Both sources or neither, no edits, no file, no such system prompt, no key, two teachers of one name."""
    bench.manifest({})
    bench.recipe("http://127.0.0.1:1/v1")
    both = CliRunner().invoke(app, ["verifier", "traces", "--data", str(bench.folder), "--edits", "x.jsonl"])
    neither = CliRunner().invoke(app, ["verifier", "traces"])
    for result in (both, neither):
        assert "give the edits as --edits FILE.jsonl or as --data FOLDER, one of the two" in result.stderr
    for setting, message in (
        ("gold.system=none", "no system prompt is called 'none': choose one of plain, strict, terse, gold, or give a"),
        ("gold.system=none.txt", "the system prompt none.txt cannot be read"),
        ("gold.api_key_env=NO_SUCH_KEY", "the environment variable NO_SUCH_KEY is not set"),
        ("gold.base_url=localhost", "'localhost' is no address of an API"),
    ):
        result = bench.run("--set", setting)
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    bench.recipe("http://127.0.0.1:1/v1", teachers="aa")
    assert "must have different names" in bench.run().stderr
    bench.recipe("http://127.0.0.1:1/v1")
    (bench.folder / "edits.jsonl").write_text("\n\n")
    assert "has no edits; write one JSON object on each line" in bench.run().stderr
    (bench.folder / "edits.jsonl").unlink()
    assert "cannot be read" in bench.run().stderr
    assert not bench.out.exists()
