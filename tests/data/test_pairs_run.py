"""Preferences through the real command line and over real HTTP: from every format to pairs on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import datasets
import pytest
from PIL import Image
from tests.data.trace_bench import QUESTIONS, instruction
from tests.verifier.chat_server import Reply, answer, serving
from typer.testing import CliRunner, Result

from edit_r1.cli import verifier as cli_verifier
from edit_r1.cli.main import app
from edit_r1.config import load_recipe
from edit_r1.data.store import read_pairs
from edit_r1.records import Preference
from edit_r1.stages import PairFormat, PairsConfig

NAMED = answer(json.dumps(QUESTIONS))


class Bench:
    """Pictures of one colour each, a manifest, and the command; nothing is held out unless a test says so."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"

    def picture(self, name: str, shade: int) -> str:
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(self.folder / f"{name}.png")
        return f"{name}.png"

    def line(self, source: int, first: int, second: int, choice: str, **more: Any) -> dict[str, Any]:
        """A pair whose pictures are the given shades."""
        names = {"source": source, "first": first, "second": second}
        paths = {key: self.picture(str(shade), shade) for key, shade in names.items()}
        return {**paths, "instruction": f"edit {source}", "choice": choice, "principles": QUESTIONS, **more}

    def manifest(self, *lines: dict[str, Any]) -> None:
        (self.folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")

    def run(self, *more: object, url: str = "", path: str = "pairs.jsonl") -> Result:
        settings = ["test_share=0"]
        if url:
            endpoint = {"base_url": url, "model": "chat", "concurrency": 1, "retries": 0}
            settings += [f"decomposer.{key}={value}" for key, value in endpoint.items()]
        arguments = ["--pairs", self.folder / path, "--out", self.out, *more]
        flags = [part for setting in settings for part in ("--set", setting)]
        return CliRunner().invoke(app, ["verifier", "pairs", *flags, *map(str, arguments)])

    def summary(self) -> dict[str, Any]:
        return json.loads((self.out / "summary.json").read_text())

    def kept(self, name: str = "pairs_train") -> list[Preference]:
        return [judged.preference for judged in read_pairs(self.out / name)]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return Bench(tmp_path)


def last_line(result: Result) -> str:
    """The one line of the error, after the progress."""
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_a_manifest_by_hand(bench: Bench) -> None:
    """Nine lines: three are used; the winner stands first in one, and one winner is the source itself (shade 50)."""
    bench.manifest(
        bench.line(10, 11, 12, "first", category="color", annotator="me", first_editor="x", second_editor="y"),
        bench.line(10, 12, 11, "second"),  # the same, the other way round
        bench.line(20, 21, 22, "first"),
        bench.line(20, 21, 22, "second"),  # contradicts the one before
        bench.line(30, 31, 32, "same"),
        bench.line(40, 41, 41, "first"),
        bench.line(50, 51, 50, "second"),
        bench.line(10, 11, 12, "second", instruction="another"),
        bench.line(30, 31, 32, "same"),
    )
    result = bench.run()
    assert result.exit_code == 0, result.output
    names = [f"{bench.folder}/pairs.jsonl line {number}" for number in (3, 4)]
    assert bench.summary() == {
        "pairs": {"in": 9, "train": 3, "test": 0},
        "sources": {"train": 2, "test": 0},
        "dropped": {"contradiction": 2, "duplicate": 1, "identical_images": 1, "tie": 2},
        "left_out": dict.fromkeys(names, "the same pair was also judged the other way round"),
        "winner_first": 1 / 3,
        "unchanged_winners": 1,
        "decomposer": {"asked": 0, "readable": 0, "failures": {}},
    }
    assert result.stdout.splitlines() == [
        f"{bench.out}: 3 pairs to train on (of 2 source images), 0 held out (of 0), of 9 in all",
        "dropped: contradiction 2, duplicate 1, identical_images 1, tie 2; left out by name: 2 "
        f"(see {bench.out}/summary.json)",
        "winner stored first: 33%; winner that is the untouched source: 1",
    ]
    first, second, third = bench.kept()
    assert [p.choice for p in (first, second, third)] == ["first", "second", "second"]
    assert (first.task.instruction, first.task.category, first.annotator) == ("edit 10", "color", "me")
    assert (first.first.editor, first.second.editor) == ("x", "y")
    assert [p.question for p in first.task.principles] == [q["question"] for q in QUESTIONS]
    shades = [image.getpixel((0, 0)) for image in (first.task.source, first.first.image, first.second.image)]
    assert shades == [(10, 0, 0), (11, 0, 0), (12, 0, 0)]
    assert not (bench.out / "pairs_test").exists()


def test_a_share_is_held_out_by_source(bench: Bench) -> None:
    """Twelve sources with two pairs each, half of them to be held out: both sides get some, and none gets a share."""
    bench.manifest(*(bench.line(s, s + 100, s + 100 + k, "first") for s in range(12) for k in (20, 40)))
    assert bench.run("--set", "test_share=0.5", "--seed", 3).exit_code == 0
    sides = [{p.task.instruction for p in bench.kept(name)} for name in ("pairs_train", "pairs_test")]
    assert not sides[0] & sides[1]
    assert all(sides)
    assert len(sides[0]) + len(sides[1]) == 12
    counts = bench.summary()
    assert counts["sources"] == {"train": len(sides[0]), "test": len(sides[1])}
    assert counts["pairs"] == {"in": 24, "train": 2 * len(sides[0]), "test": 2 * len(sides[1])}


def test_a_bench_is_held_out_wholly_and_may_grow(bench: Bench) -> None:
    """With a share of 1 there is nothing to train on; a finished run goes on when its manifest has other lines."""
    bench.manifest(bench.line(10, 11, 12, "first"))
    assert bench.run("--set", "test_share=1").exit_code == 0
    assert [p.task.instruction for p in bench.kept("pairs_test")] == ["edit 10"]
    assert not (bench.out / "pairs_train").exists()
    bench.manifest(bench.line(10, 11, 12, "first"), bench.line(20, 21, 22, "second"))
    result = bench.run("--set", "test_share=1", "--resume")
    assert result.exit_code == 0, result.output
    assert [p.task.instruction for p in bench.kept("pairs_test")] == ["edit 10", "edit 20"]
    assert bench.summary()["pairs"] == {"in": 2, "train": 0, "test": 2}
    bench.manifest(bench.line(10, 11, 12, "first", category="color"), bench.line(20, 21, 22, "second"))
    assert bench.run("--set", "test_share=1", "--resume").exit_code == 0
    assert {p.task.category for p in bench.kept("pairs_test")} == {"color", ""}


def test_principles_are_named_once_for_each_task(bench: Bench) -> None:
    """Pairs 1 and 2 share their task; of 20 the answer cannot be read, 30 is refused, and 40 brings its own."""
    none = {"principles": None}
    bench.manifest(
        bench.line(10, 11, 12, "first", **none),
        bench.line(10, 11, 13, "second", **none),
        bench.line(20, 21, 22, "first", **none),
        bench.line(30, 31, 32, "first", **none),
        bench.line(40, 41, 42, "first"),
    )

    def reply(request: dict[str, Any], number: int) -> Reply:
        task = instruction(request)
        return (400, "not this picture") if task == "edit 30" else answer("I cannot.") if task == "edit 20" else NAMED

    with serving(reply) as server:
        assert "1 answer is missing (principles 1: status 400" in last_line(bench.run(url=server.url))
        result = bench.run("--resume", "--finish", url=server.url)
    assert result.exit_code == 0, result.output
    assert [instruction(request) for request in server.requests] == ["edit 10", "edit 20", "edit 30", "edit 30"]
    counts = bench.summary()
    assert counts["decomposer"] == {"asked": 3, "readable": 1, "failures": {"bad_answer": 1, "engine": 1}}
    assert counts["dropped"] == {"no_principles": 2}
    refused, unreadable = sorted(counts["left_out"].items(), reverse=True)
    assert unreadable == (f"{bench.folder}/pairs.jsonl line 3", "no principles (bad_answer: I cannot.)")
    assert refused[0].endswith("line 4")
    assert refused[1].startswith("no principles (engine: status 400")
    assert [p.task.instruction for p in bench.kept()] == ["edit 10", "edit 10", "edit 40"]
    assert {len(p.task.principles) for p in bench.kept()} == {3}


def test_a_server_that_dies_in_the_middle(bench: Bench) -> None:
    """It names the first of three, fails, is gone, and comes back: every task is answered once, and asked no more."""
    bench.manifest(*(bench.line(s, s + 1, s + 2, "first", principles=None) for s in (10, 20, 30)))
    patience = ("--set", "give_up_after=1")
    with serving(lambda request, number: NAMED if number == 0 else (503, "going down")) as server:
        line = last_line(bench.run(*patience, url=server.url))
        url, port = server.url, server.port
    assert line.startswith("2 answers are missing (principles 2: status 503")
    assert f"the others are safe in {bench.out}: continue with --resume" in line
    assert "no answer from" in last_line(bench.run(*patience, "--resume", url=url))
    assert not (bench.out / "pairs_train").exists()
    with serving(lambda request, number: NAMED, port) as server:
        result = bench.run(*patience, "--resume", url=url)
        assert result.exit_code == 0, result.output
        assert [instruction(request) for request in server.requests] == ["edit 20", "edit 30"]
        again = bench.run(*patience, "--resume", url=url)
        assert len(server.requests) == 2
    assert (again.exit_code, again.stdout) == (0, result.stdout)
    assert len(bench.kept()) == 3


def stored(shade: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (shade, 0, 0))


def save(folder: Path, form: str) -> Path:
    """Four entries of a public data set: a preference, one that is dropped, one whose picture is broken, another."""
    if form == "editreward-data":
        entry = {"prompt": "edit 10", "model1": "x", "model2": "y", "tie_case": False}
        paths = [{"path_src": "10.png", "path1": f"{k}.png", "path2": f"{k + 1}.png"} for k in (11, 13, 15, 17)]
        for shade in (10, *range(11, 19)):
            stored(shade).save(folder / f"{shade}.png")
        (folder / "15.png").write_text("no image")
        entries = [{**entry, **path} for path in paths]
        entries[1]["tie_case"] = True
        (folder / "train.json").write_text(json.dumps(entries))
        return folder / "train.json"
    image, text = datasets.Image(), datasets.Value("string")
    kinds: dict[str, Any]
    columns: dict[str, Any]
    shades = ((11, 12), (13, 14), (0, 16), (17, 18))
    pairs = [[stored(k) if k else {"bytes": b"no image", "path": None} for k in pair] for pair in shades]
    firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    sources = [stored(10)] * 4
    if form == "editscore-bench":
        columns = {"input_image": sources, "output_images": pairs, "instruction": ["edit 10"] * 4}
        columns |= {"task_type": ["color"] * 4, "dimension": ["overall", "consistency", "overall", "overall"]}
        kinds = {"input_image": image, "output_images": datasets.List(image)}
    elif form == "tiger-bench":
        columns = {"source_image": sources, "candidate_1": firsts, "candidate_2": seconds}
        columns |= {"instruction": ["edit 10"] * 4, "dataset": ["2pair", "4pair", "2pair", "2pair"]}
        columns |= {"ranking": ["A>B", "C>D", "A>B", "B>A"], "model_1": ["x"] * 4, "model_2": ["y"] * 4}
        kinds = dict.fromkeys(("source_image", "candidate_1", "candidate_2"), image)
    else:
        columns = {"source_image": sources, "left_output_image": firsts, "right_output_image": seconds}
        columns |= {"instruct_prompt": ["edit 10"] * 4, "left_model": ["x"] * 4, "right_model": ["y"] * 4}
        columns |= {"vote_type": ["leftvote", "bothbad_vote", "leftvote", "rightvote"]}
        kinds = dict.fromkeys(("source_image", "left_output_image", "right_output_image"), image)
    features = datasets.Features({key: kinds.get(key, text) for key in columns})
    table = datasets.Dataset.from_dict(columns, features=features)
    if form == "editscore-bench":
        table.save_to_disk(folder / "data")
    else:
        (folder / "data").mkdir()
        table.to_parquet(folder / "data" / "part-0.parquet")
    return folder / "data"


@pytest.mark.parametrize(
    ("form", "dropped", "choices"),
    [
        ("editreward-data", "tie", ["first", "first"]),
        ("editscore-bench", "other_kind", ["first", "first"]),
        ("tiger-bench", "other_kind", ["first", "second"]),
        ("genai-bench", "tie", ["first", "second"]),
    ],
)
def test_public_data_sets(bench: Bench, form: str, dropped: str, choices: list[str]) -> None:
    """Entry 0 and 3 are used, 1 is dropped, and 2 has a picture that cannot be opened: named, and left out."""
    path = save(bench.folder, form)
    more = ["--format", form, *(["--images", bench.folder] if form == "editreward-data" else [])]
    assert "row 0 has no principles, and there is no [pairs.decomposer]" in last_line(bench.run(*more, path=path.name))
    with serving(lambda request, number: NAMED) as server:
        result = bench.run(*more, url=server.url, path=path.name)
    assert result.exit_code == 0, result.output
    assert len(server.requests) == 1
    counts = bench.summary()
    assert counts["dropped"] == {dropped: 1, "unreadable_image": 1}
    [(name, why)] = counts["left_out"].items()
    assert name == f"{path} row 2"
    assert "is not an image that can be read" in why
    kept = bench.kept()
    assert [p.choice for p in kept] == choices
    assert [p.first.image.getpixel((0, 0)) for p in kept] == [(11, 0, 0), (17, 0, 0)]
    assert [p.second.image.getpixel((0, 0)) for p in kept] == [(12, 0, 0), (18, 0, 0)]
    assert {(p.annotator, p.task.instruction) for p in kept} == {(form, "edit 10")}


def test_what_a_user_can_mend(bench: Bench) -> None:
    """Every mistake is one line with its mend, and no run is begun."""

    def says(message: str, *more: object, path: str = "pairs.jsonl", url: str = "http://127.0.0.1:1/v1") -> None:
        assert message in last_line(bench.run(*more, path=path, url=url))
        assert not bench.out.exists()

    good = bench.line(10, 11, 12, "first")
    bench.manifest(good, good | {"choice": "left"})
    says("pairs.jsonl line 2: choice should be 'first', 'second' or 'same'")
    bench.manifest(good | {"winner": "first"})
    says("line 1: unknown key 'winner'; ")
    bench.manifest(good | {"second": "none.png"})
    says(f"line 1: no image at {bench.folder}/none.png; check the path")
    bench.manifest(good, good | {"principles": None})
    says("line 2 has no principles, and there is no [pairs.decomposer] to name them: give each its own", url="")
    (bench.folder / "text.png").write_text("no image")
    bench.manifest(good, good | {"first": "text.png"})
    says(f"{bench.folder}/text.png ({bench.folder}/pairs.jsonl line 2) is not an image")
    says("--images FOLDER goes with --format editreward-data", "--images", bench.folder)
    says("--images FOLDER goes with --format editreward-data", "--format", "editreward-data")
    says(f"--pairs {bench.folder}/nowhere does not exist; check the path", path="nowhere")
    (bench.folder / "empty").mkdir()
    says("empty holds no parquet or Arrow files; give a file", "--format", "genai-bench", path="empty")
    says("cannot be read", "--format", "genai-bench", path="text.png")
    editreward = ("--format", "editreward-data", "--images", bench.folder)
    says("text.png cannot be read", *editreward, path="text.png")
    for content, message in (
        ("{}", "is no JSON list of pairs"),
        ("[]", "has no pairs"),
        ('[{"prompt": "x"}]', "row 0 is not as editreward-data has it (KeyError 'path_src'); check --format and"),
        ("[3]", "row 0 is not as editreward-data has it (TypeError"),
    ):
        (bench.folder / "train.json").write_text(content)
        says(message, *editreward, path="train.json")


def test_nothing_left(bench: Bench) -> None:
    bench.manifest(bench.line(10, 11, 12, "same"), bench.line(10, 11, 11, "first"))
    assert last_line(bench.run()) == "no pair is left (identical_images 1, tie 1); bring more pairs"
    assert not bench.out.exists()  # so that the next command may have other settings


def test_an_image_column_of_another_type_is_one_line(bench: Bench) -> None:
    names = ("source_image", "left_output_image", "right_output_image", "instruct_prompt", "left_model", "right_model")
    row = {key: ["a.png"] for key in names} | {"vote_type": ["leftvote"]}
    datasets.Dataset.from_dict(row).to_parquet(str(bench.folder / "bench.parquet"))
    result = bench.run("--format", "genai-bench", path="bench.parquet", url="http://127.0.0.1:1/v1")
    assert "row 0 is not as genai-bench has it (AttributeError" in last_line(result)


def test_the_command_names_every_format() -> None:
    given = get_type_hints(cli_verifier.pairs)["form"]
    assert get_args(given) == get_args(PairFormat)


def test_the_shipped_recipe() -> None:
    assert load_recipe(PairsConfig, "qwen_vl/pairs", section="pairs") == PairsConfig()
