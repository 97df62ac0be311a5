"""The report of invented runs with real pictures: sound HTML, true numbers, nothing from outside, nothing unescaped."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.report_fixture import build_run, write

from edit_r1.errors import UserError
from edit_r1.evaluation.report import lookup, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
V_KEYS = {"pairwise_accuracy", "tie_half", "ci95", "pairs", "traces", "check_accuracy", "failure_rate", "tie_rate"}
E_KEYS = {"oracle_success", "ci95", "tasks", "oracle_follow", "oracle_keep", "oracle_quality", "reward", "noop_rate"}
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"


class Page(HTMLParser):
    """Parses a page, checks that elements nest, and keeps tags, references, numbers and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str]] = []
        self.text = ""
        self._number: dict[str, str | None] | None = None
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if ("class", "num") in attrs:
            self._number = dict(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self._number = None

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data
        if self._number is not None:
            self.numbers.append((str(self._number["data-key"]), str(self._number["data-kind"]), data.strip()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with its report; tests that change something copy it."""
    folder = build_run(tmp_path_factory.mktemp("runs") / "demo", pairs=10, tasks=6, steps=40)
    write_report(folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "demo"))


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    write(path, document)


def test_report_json_has_the_keys_of_the_specification(finished: Path) -> None:
    document = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    assert document.keys() == {"schema", "preset", "commit", "seconds", "verifier", "editor"}
    assert (document["schema"], document["preset"], document["seconds"]) == (1, "default", 692.4)
    assert list(document["verifier"]) == ["base", "cold_start", "gcpo"]
    assert list(document["editor"]) == ["base", "grpo"]
    assert all(row.keys() == V_KEYS for row in document["verifier"].values())
    assert all(row.keys() == E_KEYS for row in document["editor"].values())
    stored = json.loads((finished / "evaluation" / "verifier.json").read_text(encoding="utf-8"))["stages"]
    assert document["verifier"] == stored


def test_every_number_of_the_headline_is_that_of_report_json(finished: Path) -> None:
    document = json.loads((finished / "report.json").read_text(encoding="utf-8"))
    page = Page((finished / "report.html").read_text(encoding="utf-8"))
    shown = {"share": lambda v: f"{100 * v:.1f}%", "score": lambda v: f"{v:.2f}", "count": lambda v: f"{v:,}"}
    keys = {key for key, _, _ in page.numbers}
    for key, kind, text in page.numbers:
        assert text == shown[kind](lookup(document, key)), key
    for key in (
        "pairwise_accuracy",
        "ci95.0",
        "ci95.1",
        "tie_half",
        "check_accuracy",
        "failure_rate",
        "tie_rate",
        "pairs",
    ):
        assert f"verifier.gcpo.{key}" in keys
    assert {"verifier.cold_start.pairwise_accuracy", "verifier.cold_start.tie_half"} <= keys
    for key in ("oracle_success", "ci95.0", "ci95.1", "noop_rate", "reward", "tasks"):
        assert f"editor.grpo.{key}" in keys
    assert {"editor.base.oracle_success", "editor.base.noop_rate", "editor.base.reward"} <= keys


def test_the_page_asks_for_nothing_and_runs_nothing(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "form", "base"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "srcset", "poster", "data", "xlink:href"}:
                assert value is not None
                assert value.startswith(("data:", "#"))


def test_links_within_the_page_lead_somewhere(finished: Path) -> None:
    page = Page((finished / "report.html").read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    targets = [str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"]
    assert len(ids) == len(set(ids))
    assert set(targets) <= set(ids)


def test_the_page_explains_itself(finished: Path) -> None:
    page = Page((finished / "report.html").read_text(encoding="utf-8"))
    for words in (
        "A coin toss gives 50%",
        "simulated annotator",
        "PKU-YuanGroup/Edit-R1",
        "arXiv 2604.27505",
        "edit-r1 demo --preset default",
        "The verifier is wrong here",
        "Glossary",
        "Linux x86_64, 2 CPUs",
        "truly not met",
        "% of opponents",  # the curve of GCPO's reward
        "queue, left",  # a curve that the report has no words for
    ):
        assert words in page.text, words
    assert "not run" not in page.text
    pixels = [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("class") == "pixels"]
    assert len(pixels) > 10
    assert all(str(attributes["src"]).startswith("data:image/png;base64,") for attributes in pixels)


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    before = (run / "report.html").read_bytes()
    assert write_report(run) == run / "report.html"
    assert (run / "report.html").read_bytes() == before


def test_text_of_a_run_is_never_markup(run: Path) -> None:
    def poison(document: Any) -> None:
        for example in document["examples"]:
            example["instruction"] = example["category"] = EVIL
            for sides in example["stages"].values():
                for side in sides.values():
                    side["trace"] = EVIL
                    side["failure"] = EVIL
                    for check in side["checks"]:
                        check |= {"question": EVIL, "reason": EVIL, "category": EVIL}
        for table in document["by_category"].values():
            table[EVIL] = {"pairwise_accuracy": 0.5, "tie_half": 0.5, "pairs": 2}
        document["failures"]["gcpo"] = {EVIL: 3}
        document["confusion"][EVIL] = document["confusion"]["gcpo"]
        document["sampled"]["cold_start"] = {"keep": document["sampled"]["cold_start"]["keep"]}
        document["sampled"][EVIL + EVIL] = document["sampled"]["gcpo"]

    edit_json(run / "evaluation" / "verifier.json", poison)
    edit_json(run / "demo.json", lambda d: d.update(preset=EVIL, commit=EVIL, command=[EVIL]))
    edit_json(run / "gcpo" / "environment.json", lambda d: d.update(command=[EVIL], platform=EVIL, python=EVIL))
    edit_json(run / "gcpo" / "config.json", lambda d: d.update({EVIL: EVIL}))
    with (run / "gcpo" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 41, EVIL: 1.0}) + "\n")
    page = page_of(run)
    assert all(tag != "script" for tag, _ in page.tags)
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert EVIL in page.text  # shown as it is, the braces included


def drop(*names: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        for name in names:
            path = run / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    return change


def drop_stage(name: str, *stages: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        def remove(document: Any) -> None:
            for table in document.values():
                for stage in stages if isinstance(table, dict) else ():
                    table.pop(stage, None)
            for example in document["examples"]:
                for stage in stages:
                    example.get("stages", example.get("edits")).pop(stage)

        edit_json(run / "evaluation" / name, remove)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("demo.json"), ["demo.json is missing", "The command is not on record"]),
        (
            drop("evaluation/verifier.json"),
            ["The verifier was not evaluated in this run", "Not evaluated in this run."],
        ),
        (drop("evaluation/editor.json"), ["The editor was not evaluated in this run"]),
        (drop("evaluation"), ["The verifier was not evaluated", "The editor was not evaluated"]),
        (drop("gcpo"), ["This stage was not run, or has recorded nothing (gcpo/metrics.jsonl)"]),
        (drop("gcpo/metrics.jsonl"), ["This stage was not run, or has recorded nothing (gcpo/metrics.jsonl)"]),
        (drop("cold_start", "gcpo", "editor"), ["No stage has left its environment on record"]),
        (drop("editor/done.json"), ["This stage is not finished."]),
        (drop("evaluation/images"), ["picture missing"]),
        (drop_stage("verifier.json", "gcpo"), ["not measured in this run", "This needs both the cold start and GCPO"]),
        (drop_stage("verifier.json", "base", "cold_start"), ["not measured in this run"]),
        (
            drop_stage("editor.json", "grpo"),
            ["not measured in this run", "No edits from before and after RL are stored"],
        ),
        (drop_stage("editor.json", "base"), ["not measured in this run"]),
        (
            drop("demo.json", "evaluation", "cold_start", "editor"),
            ["This stage was not run, or has recorded nothing (editor/metrics.jsonl)"],
        ),
    ],
)
def test_what_is_missing_is_stated(run: Path, change: Callable[[Path], None], words: list[str]) -> None:
    change(run)
    page = page_of(run)
    for each in words:
        assert each in page.text, each


def test_faults_in_the_editors_own_edits_are_shown_where_there_are_any(run: Path) -> None:
    assert "Faults seen, in all edits and in the editor’s own" in page_of(run).text
    edit_json(run / "evaluation" / "verifier.json", lambda document: document.pop("sampled"))
    assert "Faults seen" not in page_of(run).text


def test_a_smoke_run_says_that_it_proves_nothing(run: Path) -> None:
    edit_json(run / "demo.json", lambda document: document.update(preset="smoke"))
    assert "at a size that proves nothing" in page_of(run).text


def test_a_verifier_that_cannot_be_read_at_all_has_a_page(run: Path) -> None:
    def silence(document: Any) -> None:
        for name in ("base", "cold_start", "gcpo"):
            document["stages"][name] |= {"check_accuracy": None, "failure_rate": 1.0, "pairwise_accuracy": 0.0}
            for table in document["confusion"][name].values():
                table.update(tp=0, fp=0, fn=0, tn=0)
        for example in document["examples"]:
            for sides in example["stages"].values():
                for side in sides.values():
                    side.update(score=None, checks=[], failure="no_score", trace="?")

    edit_json(run / "evaluation" / "verifier.json", silence)
    edit_json(run / "evaluation" / "editor.json", lambda d: d["stages"]["grpo"].update(reward=None))
    page = page_of(run)
    assert "No readable example is stored in this run." in page.text
    assert "no readable checks" in page.text
    assert ("verifier.gcpo.check_accuracy", "share", "–") in page.numbers
    assert ("editor.grpo.reward", "score", "–") in page.numbers


def test_evaluations_may_be_run_directories_of_their_own(run: Path) -> None:
    expected = (run / "report.html").read_bytes()
    for name in ("verifier", "editor"):
        folder = run / "evaluation" / name
        shutil.copytree(run / "evaluation" / "images", folder / "images")
        (run / "evaluation" / f"{name}.json").rename(folder / f"{name}.json")
    shutil.rmtree(run / "evaluation" / "images")
    assert write_report(run).read_bytes() == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("demo.json", "{", "demo.json is damaged"),
        ("demo.json", '{"seed": "one"}', "demo.json is damaged (seed: "),
        ("evaluation/verifier.json", '{"stages": {"gcpo": {}}}', "verifier.json is damaged (stages.gcpo."),
        ("gcpo/done.json", "[1]", "done.json is damaged (not a JSON object)"),
        ("gcpo/config.json", "{", "config.json is damaged"),
        ("gcpo/metrics.jsonl", '{"step": 1\n{"step": 2}\n', "metrics.jsonl is damaged"),
    ],
)
def test_damaged_files_are_named_and_the_old_report_stays(run: Path, name: str, content: str, words: str) -> None:
    before = (run / "report.html").read_bytes()
    (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        write_report(run)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (run / "report.html").read_bytes() == before


def test_no_run_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder at"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_training_and_probe_share_a_chart(finished: Path) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    editor = text[text.index("Editor RL</h") : text.index('id="honest"')]
    assert editor.count("<h4>Oracle success") == 1
    assert editor.count("probe set</tspan>") == 2  # of the reward and of the success
