"""Best of N: the curve by hand, and both commands with random models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.trace_bench import QUESTIONS, question, trace
from tests.training.tiny_run import tiny_verifier
from tests.verifier.chat_server import Reply, answer, serving
from typer.testing import CliRunner, Result

from edit_r1.cli.edit import _written
from edit_r1.cli.main import app
from edit_r1.editors.loading import load_editor
from edit_r1.editors.tiny import TinyEditorSize, build_tiny_kontext
from edit_r1.errors import UserError
from edit_r1.evaluation import best_of_curve, score
from edit_r1.evaluation.best_of import make_candidates
from edit_r1.evaluation.best_of_curve import Judged, curve, read_journal, sizes, verifier_names
from edit_r1.evaluation.best_of_result import as_text
from edit_r1.images import open_image
from edit_r1.records import Failure, Provenance, Verdict
from edit_r1.stages import EditConfig
from edit_r1.verifier.engines.scripted import ScriptedEngine
from edit_r1.verifier.prompting import Prompt, load_template
from edit_r1.verifier.verifier import Judgement, Verifier
from edit_r1.world.render import from_image
from edit_r1.world.tasks import WorldTask, generator, sample_task
from edit_r1.world.words import vocabulary

SIZE = TinyEditorSize(
    width=32, head_dim=16, double_blocks=1, single_blocks=1, text_width=16, t5_layers=1, vae_channels=(8, 8, 8)
)
TWO_STEPS = EditConfig(steps=2)


# --- the curve ---


def test_the_curve_by_hand() -> None:
    """Two tasks of two candidates. `good` prefers the right one, `bad` the wrong one, `mute` says nothing of task 2.

    Random: (1/2 + 1/2) / 2 = 1/2 at every N. N = 2: one is right in each, so the oracle has 1, as has `good`; `bad` 0;
    `mute` (1 + 0) / 2 with no choice in half of the tasks. N = 1 is chance, but for `mute`: (1/2 + 0) / 2.
    """
    tasks = [
        Judged("colour", (True, False), {"good": (9.0, 1.0), "bad": (1.0, 9.0), "mute": (9.0, 1.0)}),
        Judged("remove", (False, True), {"good": (1.0, 9.0), "bad": (9.0, 1.0), "mute": (None, None)}),
    ]
    result = curve(tasks)
    one, two = result.points
    assert (one.n, two.n, result.tasks, result.candidates) == (1, 2, 2, 2)
    assert result.failure_rate == {"good": 0.0, "bad": 0.0, "mute": 0.5}
    assert {point.random.mean for point in result.points} == {0.5}
    assert (one.oracle.mean, two.oracle.mean) == (0.5, 1.0)
    assert [one.verifiers[name].success.mean for name in ("good", "bad", "mute")] == [0.5, 0.5, 0.25]
    assert [two.verifiers[name].success.mean for name in ("good", "bad", "mute")] == [1.0, 0.0, 0.5]
    assert [two.verifiers[name].gain.mean for name in ("good", "bad", "mute")] == [0.5, -0.5, 0.0]
    assert two.verifiers["good"].gain.ci95 == (0.5, 0.5)  # the same in both tasks
    assert [point.verifiers["mute"].no_choice for point in result.points] == [0.5, 0.5]
    assert "100.0 (100.0 to 100.0)  +50.0 (+50.0 to +50.0)" in as_text(result)


def test_sizes_and_names(tmp_path: Path) -> None:
    assert [sizes(count) for count in (1, 8, 12)] == [[1], [1, 2, 4, 8], [1, 2, 4, 8, 12]]
    assert list(verifier_names([Path("runs/gcpo/model"), Path("other/cold")])) == ["gcpo", "cold"]
    assert list(verifier_names([Path("a/gcpo/model"), Path("b/gcpo")])) == ["a/gcpo/model", "b/gcpo"]
    with pytest.raises(UserError, match="given twice"):
        verifier_names([Path("a/gcpo"), Path("a/gcpo")])


# --- commands ---


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random editor, and a random verifier that writes nothing readable."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline: Any = build_tiny_kontext(SIZE, vocabulary())
        tiny_verifier(folder)
    pipeline.vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.mul_(10)  # so that candidates differ by more than rounding
    pipeline.save_pretrained(folder / "editor")
    return folder


@pytest.fixture(scope="module")
def task() -> WorldTask:
    return sample_task(generator(0, "test"), "test", "colour")


@pytest.fixture
def picture(tmp_path: Path, task: WorldTask) -> Path:
    task.record().source.save(tmp_path / "before.png")
    return tmp_path / "before.png"


def number(image: Image.Image) -> int:
    """A number from 0 to 19 that stands for a picture."""
    return int(from_image(image).mean() * 1e5) % 20


def script(prompt: Prompt, sample: int, seed: int) -> str:
    """A score in half points that follows from the picture; one picture in four is not readable."""
    drawn = number(prompt.images[1])
    questions = [line for line in prompt.text.splitlines() if line.startswith("[")]
    checks = "".join(f"[{k}] clean => yes\n" for k in range(1, len(questions) + 1))
    return "?" if drawn % 4 == 3 else f"{checks}<average> 1.0 </average>\n<score> {drawn / 2} </score>"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedEngine]:
    """The verifiers' model answers from `script`; the engines that were made."""
    engines: list[ScriptedEngine] = []

    def load(*_: object, **__: object) -> Verifier:
        engines.append(ScriptedEngine(script))
        return Verifier(engines[-1])

    monkeypatch.setattr(score, "load_verifier", load)
    monkeypatch.setattr(best_of_curve, "load_verifier", load)
    return engines


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def edit(models: Path, picture: Path, task: WorldTask, *more: object) -> Result:
    given = ("--editor", models / "editor", "--set", "steps=2")
    return command("edit", picture, task.instruction, *given, *more)


def test_a_candidate_is_the_same_whatever_n_is(models: Path, task: WorldTask) -> None:
    """Bitwise: of four candidates of seed 5 the k-th is the only one of seed 5 + k; and no two are alike."""
    editor = load_editor(models / "editor")
    four = make_candidates(editor, task.record(), TWO_STEPS, 4, seed=5)
    alone = [make_candidates(editor, task.record(), TWO_STEPS, 1, seed=5 + k)[0] for k in range(4)]
    pixels = [candidate.image.tobytes() for candidate in four]
    assert pixels == [candidate.image.tobytes() for candidate in alone]
    assert [candidate.seed for candidate in four] == [5, 6, 7, 8]
    assert len(set(pixels)) == 4


def test_the_best_readable_edit_is_saved(
    models: Path, picture: Path, task: WorldTask, tmp_path: Path, scripted: list[ScriptedEngine]
) -> None:
    """Scores follow from the saved pictures, which are looked at again here: the highest is what was saved."""
    out, kept = tmp_path / "edited.png", tmp_path / "all"
    options = ("--verifier", models / "verifier", "--best-of", 8, "--out", out, "--json")
    result = edit(models, picture, task, *options, "--all", kept)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    document = json.loads((kept / "candidates.json").read_text())
    numbers = [number(open_image(kept / row["image"])) for row in document["candidates"]]
    expected = [None if drawn % 4 == 3 else drawn / 2 for drawn in numbers]
    assert [row["score"] for row in printed["candidates"]] == expected
    assert [row["score"] for row in document["candidates"]] == expected
    assert printed["failures"] == document["failures"] == expected.count(None) > 0
    chosen = expected.index(max(score for score in expected if score is not None))
    assert printed["chosen"] == document["chosen"] == chosen
    assert open_image(out).tobytes() == open_image(kept / f"seed{chosen}.png").tobytes()
    assert printed["judgement"]["score"] == expected[chosen]
    assert [row["question"] for row in printed["judgement"]["principles"]] == [
        claim.principle.question for claim in task.claims
    ]  # the decomposer's, from picture and instruction
    assert len(scripted[0].calls) == 8  # one trace each

    before = out.read_bytes()
    assert json.loads(edit(models, picture, task, *options).stdout) == printed
    assert out.read_bytes() == before
    text = edit(models, picture, task, *options[:-1]).stdout.splitlines()
    assert text[chosen] == f"seed {chosen}: {expected[chosen]:.1f} <"
    assert text[8] == f"{expected.count(None)} of 8 edits could not be judged"
    assert text[9].startswith("[1] ")
    assert text[-2:] == [f"score {expected[chosen]:.1f} of 10 (mean of 1)", f"{out}: the edit of seed {chosen}"]


def test_a_doubtful_score_says_what_was_written() -> None:
    """One trace that writes 10 and counts 6.1 for its probability; a sure one, and a mean of several, say nothing."""
    ten = Verdict((), 10.0, "", Provenance("", "", "", "", 0))
    assert _written(Judgement((ten,), 6.1, None, 0)) == " (written: 10.0)"
    assert _written(Judgement((ten,), 9.98, None, 0)) == ""
    assert _written(Judgement((ten, ten), 6.1, 0.0, 0)) == ""
    assert _written(Judgement((Failure("empty", ""),), None, None, 1)) == ""


def test_one_edit_needs_no_verifier_and_no_grammar(
    models: Path, picture: Path, task: WorldTask, tmp_path: Path
) -> None:
    out = tmp_path / "edited.png"
    words = "anything at all"
    given = ("--editor", models / "editor", "--set", "steps=2", "--best-of", 1, "--out", out)
    result = command("edit", picture, words, *given)
    assert (result.exit_code, result.stdout) == (0, f"{out}: the edit of seed 0\n"), result.output
    editor = load_editor(models / "editor")
    record = replace(task.record(), instruction=words, principles=())
    assert open_image(out).tobytes() == make_candidates(editor, record, TWO_STEPS, 1, seed=0)[0].image.tobytes()


def test_without_a_readable_edit_nothing_is_overwritten(
    models: Path, picture: Path, task: WorldTask, tmp_path: Path
) -> None:
    """A really random verifier: every trace is a Failure. The candidates can still be looked at."""
    out, kept = tmp_path / "edited.png", tmp_path / "all"
    out.write_bytes(b"mine")
    options = ("--verifier", models / "verifier", "--best-of", 2, "--out", out)
    result = edit(models, picture, task, *options, "--json", "--all", kept)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"none of the 2 edits could be judged: {out} was not written"
    document = json.loads(result.stdout)
    assert (document["chosen"], document["out"], document["failures"], document["judgement"]) == (None, None, 2, None)
    assert out.read_bytes() == b"mine"
    assert {path.name for path in kept.iterdir()} == {"seed0.png", "seed1.png", "candidates.json"}


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def test_edit_refuses_bad_input(
    models: Path, picture: Path, task: WorldTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no demo has left a verifier
    words = task.instruction
    assert refusal(command("edit", picture, " ")).startswith("the instruction is empty")
    assert "saved as PNG" in refusal(command("edit", picture, words, "--out", "edited.jpg"))
    assert "there is no folder none" in refusal(command("edit", picture, words, "--out", "none/edited.png"))
    (tmp_path / "folder.png").mkdir()
    assert "is a folder" in refusal(command("edit", picture, words, "--out", "folder.png"))
    assert "is not an empty folder" in refusal(command("edit", picture, words, "--all", tmp_path))
    assert "no image at none.png" in refusal(command("edit", "none.png", words))
    assert "there is no verifier in runs/demo/gcpo/model yet" in refusal(command("edit", picture, words))
    assert "give --verifier FOLDER" in refusal(command("edit", picture, words))
    assert "outside the grammar" in refusal(command("edit", picture, "sing", "--verifier", models / "verifier"))
    wrong = ("--best-of", 1, "--editor", models / "verifier")
    assert "is no editor" in refusal(command("edit", picture, words, *wrong))


def photograph(folder: Path) -> Path:
    Image.effect_noise((100, 50), 80).convert("RGB").save(folder / "photo.jpg")
    return folder / "photo.jpg"


def servers(url: str, *names: str) -> list[str]:
    """Settings that put the verifier or the decomposer behind a server, without a second try."""
    keys = {"base_url": url, "retries": 0}
    models = [f"{name}.model={name}" for name in names]
    settings = [f"{name}.{key}={value}" for name in names for key, value in keys.items()]
    return [part for setting in (*models, *settings) for part in ("--set", setting)]


def test_a_picture_of_ones_own_is_edited_and_judged_behind_servers(models: Path, tmp_path: Path) -> None:
    """A photograph of 100 x 50, words outside the grammar: a chat model names the principles, once. Scores 2, 9, 5."""
    scores = {0: 2.0, 1: 9.0, 2: 5.0}

    def reply(request: dict[str, Any], number: int) -> Reply:
        return answer(json.dumps(QUESTIONS) if request["model"] == "decomposer" else trace("yyy", scores[number - 1]))

    out, kept = tmp_path / "edited.png", tmp_path / "all"
    given = ("--preset", "qwen_vl/edit", "--editor", models / "editor", "--best-of", 3, "--out", out, "--all", kept)
    changed = ("--set", "steps=2", "--set", "traces=1", "--set", "bf16=false", "--set", "endpoint.concurrency=1")
    with serving(reply) as server:
        both = servers(server.url, "endpoint", "decomposer")
        result = command("edit", photograph(tmp_path), "paint the cup blue", *given, *changed, *both)
    assert result.exit_code == 0, result.output
    assert [request["model"] for request in server.requests] == ["decomposer", *["endpoint"] * 3]
    for request in server.requests[1:]:
        assert (request["max_tokens"], request["temperature"]) == (1024, 0.0)
        assert "logprobs" not in request  # in prose the choice of words makes any trace improbable
        assert "Is the cup blue?" in question(request)
        assert question(request).startswith(load_template("verify")[:40])
    assert result.stdout.splitlines()[:4] == [
        "seed 0: 2.0",
        "seed 1: 9.0 <",
        "seed 2: 5.0",
        "[1] follow   Is the cup blue?",
    ]
    assert open_image(out).tobytes() == open_image(kept / "seed1.png").tobytes()
    assert open_image(out).size == (88, 48)  # 64 x 64 pixels at a ratio of 2, in tokens of 8
    document = json.loads((kept / "candidates.json").read_text())
    assert (document["template"], document["traces"], document["steps"]) == ("verify", 1, 2)


def test_one_edit_of_ones_own_is_scored_behind_servers(tmp_path: Path) -> None:
    def reply(request: dict[str, Any], number: int) -> Reply:
        return answer(json.dumps(QUESTIONS) if request["model"] == "decomposer" else trace("yyn", 6.5))

    photo = photograph(tmp_path)
    with serving(reply) as server:
        both = servers(server.url, "endpoint", "decomposer")
        result = command("score", photo, photo, "paint the cup blue", "--preset", "qwen_vl/edit", *both, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["score"], document["traces"]) == (6.5, 4)
    assert [row["question"] for row in document["principles"]] == [row["question"] for row in QUESTIONS]
    assert {request["temperature"] for request in server.requests[1:]} == {1.0}


def test_what_servers_do_not_say_is_told(models: Path, tmp_path: Path) -> None:
    """No chat model; one that names nothing; a verifier that is not there."""
    photo, words = photograph(tmp_path), "paint the cup blue"
    given = ("--editor", models / "editor", "--set", "steps=1", "--best-of", 2, "--out", tmp_path / "edited.png")
    judged = (*given, "--verifier", models / "verifier")
    assert "put a chat model into [edit.decomposer] of a recipe" in refusal(command("edit", photo, words, *judged))
    with serving(lambda request, number: answer("I cannot.")) as server:
        said = refusal(command("edit", photo, words, *judged, *servers(server.url, "decomposer")))
    assert said.startswith(f"decomposer at {server.url} named no principles (bad_answer: I cannot.)")
    with serving(lambda request, number: answer(json.dumps(QUESTIONS))) as server:
        asked = servers(server.url, "decomposer")
        gone = ("--set", "template=verify", *servers("http://127.0.0.1:9/v1", "endpoint"))
        result = command("edit", photo, words, *given, *asked, *gone)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("none of the 2 edits could be judged (")
    assert "127.0.0.1:9" in result.stderr.splitlines()[-1]


def measure(models: Path, out: Path, *more: object) -> Result:
    given = ("--preset", "smoke", "--editor", models / "editor", "--verifier", models / "verifier", "--out", out)
    return command("evaluate", "best-of", *given, *more)


def test_the_curve_resumes_as_if_never_interrupted(
    models: Path, tmp_path: Path, scripted: list[ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tasks of four candidates, two tasks in a chunk. The second run is stopped in the second chunk."""
    first = measure(models, tmp_path / "a")
    assert first.exit_code == 0, first.output
    rows = read_journal(tmp_path / "a/candidates.jsonl")
    assert len(rows) == 3
    assert all(len(row.successes) == len(row.scores["verifier"]) == 4 for row in rows)
    assert len({tuple(row.scores["verifier"]) for row in rows}) > 1
    result = json.loads((tmp_path / "a/results.json").read_text())
    assert [point["n"] for point in result["points"]] == [1, 2, 4]
    assert result["failure_rate"]["verifier"] == np.mean([s is None for r in rows for s in r.scores["verifier"]])
    with Image.open(tmp_path / "a/best_of.png") as plot:
        assert plot.format == "PNG"
        assert plot.getbbox() is not None

    sampled = best_of_curve.sample_task

    def stopped(*arguments: Any) -> Any:
        if arguments[-1] == 2:
            raise KeyboardInterrupt
        return sampled(*arguments)

    monkeypatch.setattr(best_of_curve, "sample_task", stopped)
    assert measure(models, tmp_path / "b").exit_code == 130
    journal = tmp_path / "b/candidates.jsonl"
    assert len(journal.read_text().splitlines()) == 2
    with journal.open("a") as file:
        file.write('{"torn')
    monkeypatch.setattr(best_of_curve, "sample_task", sampled)
    assert "add --resume" in refusal(measure(models, tmp_path / "b"))
    assert "made with other settings (steps)" in refusal(
        measure(models, tmp_path / "b", "--resume", "--set", "steps=3")
    )
    again = measure(models, tmp_path / "b", "--resume")
    assert journal.read_text() == (tmp_path / "a/candidates.jsonl").read_text()
    assert again.stdout.replace("/b/", "/a/") == first.stdout
    asked = len(scripted)
    assert measure(models, tmp_path / "b", "--resume").stdout == again.stdout
    assert len(scripted) == asked  # finished: no model is loaded


def test_a_random_verifier_has_no_choice(models: Path, tmp_path: Path) -> None:
    """No candidate is readable: nothing is chosen, at no N, and that is said."""
    result = measure(models, tmp_path / "out", "--set", "tasks=1", "--set", "max_tokens=6")
    assert result.exit_code == 0, result.output
    points = json.loads((tmp_path / "out/results.json").read_text())["points"]
    assert [point["verifiers"]["verifier"]["no_choice"] for point in points] == [1.0, 1.0, 1.0]
    assert [point["verifiers"]["verifier"]["success"]["mean"] for point in points] == [0.0, 0.0, 0.0]
    assert "could not be judged: verifier 100.0%" in result.stdout
