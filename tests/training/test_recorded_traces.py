"""From a manifest to a cold start on real texts: a verifier that really runs, behind a server of the tests' own."""

from __future__ import annotations

import base64
import io
import json
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.training.tiny_run import tiny_verifier
from tests.verifier.chat_server import Reply, answer, choice, serving
from typer.testing import CliRunner, Result

from edit_r1.cli.main import app
from edit_r1.data.store import KeptTrace, read_traces, write_traces
from edit_r1.errors import UserError
from edit_r1.records import Edit, EditTask, Principle
from edit_r1.runs.run import Run
from edit_r1.stages import ColdStartConfig
from edit_r1.training.cold_start import lessons, recorded
from edit_r1.verifier.engines.transformers_engine import TransformersEngine
from edit_r1.verifier.prompting import Prompt
from edit_r1.verifier.tiny import load_verifier_model
from edit_r1.world.render import render, to_image
from edit_r1.world.tasks import generator, sample_task

EDITS = 3
QUESTIONS = [("Is it blue?", "follow"), ("Is the rest the same?", "keep")]


class Model:
    """A tiny verifier that answers chat requests. As `guided` it may only write traces, as `free` anything.

    Its weights are random, so that free texts are no traces; of guided ones every answer and score is its own.
    """

    def __init__(self, folder: Path) -> None:
        model, processor = load_verifier_model(folder)
        self._model, self._tokenizer = model.eval(), processor.tokenizer
        self._engine = TransformersEngine(self._model, processor)
        self._lock = threading.Lock()

    def reply(self, request: dict[str, Any], number: int) -> Reply:
        """Answer as `/v1/chat/completions` does."""
        prompt = _prompt(request["messages"][-1]["content"])
        with self._lock:
            if request["model"] == "free":
                [[made]] = self._engine.generate([prompt], n=1, seed=request["seed"], max_tokens=12, temperature=1.0)
                return 200, {"choices": [choice(made.text, "stop" if made.finished else "length")]}
            return answer(self._guided(prompt, request["seed"]))

    def _guided(self, prompt: Prompt, seed: int) -> str:
        inputs = self._engine._encode([prompt])
        width = inputs["input_ids"].shape[1]
        slots = [self._tokenizer.convert_tokens_to_ids(words) for words in _slots(prompt.text)]
        torch.manual_seed(seed)
        tokens = self._model.generate(
            **inputs,
            do_sample=True,
            max_new_tokens=len(slots),
            prefix_allowed_tokens_fn=lambda _row, ids: slots[min(len(ids) - width, len(slots) - 1)],
        )
        return str(self._tokenizer.decode(tokens[0, width:], clean_up_tokenization_spaces=False))


def _prompt(content: list[dict[str, Any]]) -> Prompt:
    pictures = [base64.b64decode(part["image_url"]["url"].split(",")[1]) for part in content[:-1]]
    images = tuple(Image.open(io.BytesIO(data)).convert("RGB") for data in pictures)
    return Prompt(images, content[-1]["text"])


def _slots(question: str) -> list[list[str]]:
    """The words that may stand at each place of a trace that answers `question`."""
    count = sum(line.startswith("[") for line in question.split("\n"))
    checks = [[[f"[{k}]"], ["clean"], ["=>"], ["yes", "no"], ["\n"]] for k in range(1, count + 1)]
    scores = [f"{k / 2:.1f}" for k in range(21)]
    return [slot for check in checks for slot in check] + [["<score>"], scores, ["</score>"]]


def manifest(folder: Path) -> None:
    rng = generator(0, "train")
    lines: list[str] = []
    for number in range(EDITS):
        task = sample_task(rng, "train")
        to_image(render(task.scene)).save(folder / f"source{number}.png")
        to_image(render(task.operation.apply(task.scene))).save(folder / f"edited{number}.png")
        principles = [claim.principle for claim in task.claims]
        entry = {
            "source": f"source{number}.png",
            "edited": f"edited{number}.png",
            "instruction": task.instruction,
            "principles": [{key: asdict(p)[key] for key in ("question", "category")} for p in principles],
        }
        lines.append(json.dumps(entry))
    (folder / "edits.jsonl").write_text("\n".join(lines))


RECIPE = """
[traces]
template = "compact"
[[traces.teachers]]
name = "free"
model = "free"
base_url = "{url}"
[[traces.teachers]]
name = "guided"
model = "guided"
system = "strict"
texts = 3
base_url = "{url}"
[traces.gold]
model = "guided"
base_url = "{url}"

[cold_start]
steps = 2
batch_size = 2
checkpoint_every = 1
"""


def edit_r1(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_from_a_manifest_to_a_cold_start(tmp_path: Path) -> None:
    """Three edits, of each one free text, three guided ones and gold's: 15 requests, 3 kept, and weights that move."""
    model = tiny_verifier(tmp_path)
    manifest(tmp_path)
    recipe, traces, out = tmp_path / "recipe.toml", tmp_path / "traces", tmp_path / "cold_start"
    with serving(Model(model).reply) as server:
        recipe.write_text(RECIPE.replace("{url}", server.url))
        result = edit_r1("verifier", "traces", "--edits", tmp_path / "edits.jsonl", "--preset", recipe, "--out", traces)
    assert result.exit_code == 0, result.output
    assert len(server.requests) == 5 * EDITS
    statistics = json.loads((traces / "done.json").read_text())["statistics"]
    assert statistics["edits"] == {"in": EDITS, "kept": EDITS, "dropped": {}}
    free, guided = statistics["teachers"]["free"], statistics["teachers"]["guided"]
    assert (free["asked"], free["readable"], sum(free["failures"].values())) == (EDITS, 0, EDITS)
    assert (guided["asked"], guided["readable"], guided["kept"]) == (3 * EDITS, 3 * EDITS, EDITS)
    assert statistics["gold"] == {"asked": EDITS, "readable": EDITS, "failures": {}}
    kept = list(read_traces(traces / "traces"))
    assert sum(trace.agreement for trace in kept) / EDITS >= guided["agreement"]

    result = edit_r1("verifier", "cold-start", "--data", traces, "--model", model, "--preset", recipe, "--out", out)
    assert result.exit_code == 0, result.output
    assert Run(out).done == {"traces": EDITS}
    before, after = (load_file(folder / "model.safetensors") for folder in (model, out / "model"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_folder_with_neither_traces_nor_edits(tmp_path: Path) -> None:
    result = edit_r1("verifier", "cold-start", "--data", tmp_path)
    assert result.exit_code == 2
    assert "has no data set edits; make one with `edit-r1 world make` or `edit-r1 verifier traces`" in result.stderr


TEXT = (
    "```\n<think>The cup [1] was red <score> 3 </score>.\nIt is **blue** <|im_end|> now.</think>\nHere are my checks:\n"
    "**[1]** cup red > blue <box> 1 2 3 4 </box> => yes\n- [2] table changed => no\n<score>6/10</score>\nHope it helps!"
)


def kept(text: str = TEXT) -> KeptTrace:
    principles = tuple(Principle(question, category) for question, category in QUESTIONS)  # pyright: ignore
    source, edited = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    edit = Edit(EditTask(source, "make the cup blue", "color", principles), edited, "mine", 3)
    return KeptTrace(edit, text, "plain", 0.5)


def test_what_is_learnt_of_a_text() -> None:
    """Thoughts without their marks, checks and score in the one form that is written; the rest of the text is left."""
    thoughts = "<think>\n```\nThe cup (1) was red (score) 3 (/score).\nIt is **blue** (im_end) now.\n</think>\n"
    checks = "[1] cup red > blue <box> 1 2 3 4 </box> => yes\n[2] table changed => no\n<average> 0.5 </average>\n"
    bare = "[1] <box> 1 2 3 4 </box> => yes\n[2] => no\n<average> 0.5 </average>\n"
    score = "<score> 6.0 </score>"
    for form, expected, asked in (
        ("full", thoughts + checks + score, True),
        ("verify", bare + score, True),
        ("think", thoughts + score, False),
        ("direct", score, False),
    ):
        row = recorded(kept(), form, "verify")  # pyright: ignore[reportArgumentType]
        assert row["completion"] == [{"role": "assistant", "content": expected}]
        prompt = row["prompt"][0]["content"]
        assert "make the cup blue" in prompt
        assert ("[2] Is the rest the same?" in prompt) == asked
        assert [image.getpixel((0, 0)) for image in row["images"]] == [(255, 0, 0), (0, 0, 255)]


def test_kept_texts_come_back_from_the_disk(tmp_path: Path) -> None:
    """Every field, and the rows of a cold start that are made of them."""
    write_traces(tmp_path / "traces", [kept(), kept("[1] => no\n[2] => yes\n<score> 1 </score>")])
    records = read_traces(tmp_path / "traces")
    assert len(records) == 2
    found, expected = records[0], kept()
    assert (found.text, found.teacher, found.agreement) == (expected.text, "plain", 0.5)
    assert (found.edit.editor, found.edit.seed, found.edit.task.category) == ("mine", 3, "color")
    assert found.edit.task.principles == expected.edit.task.principles
    assert found.edit.image.getpixel((0, 0)) == (0, 0, 255)

    rows, summary = lessons(ColdStartConfig(), tmp_path, seed=0)
    assert summary == {"traces": 2}
    assert (
        rows[1]["completion"][0]["content"] == "[1] => no\n[2] => yes\n<average> 0.5 </average>\n<score> 1.0 </score>"
    )
    with pytest.raises(UserError, match="hard_share needs the edits of a built-in world"):
        lessons(ColdStartConfig(hard_share=0.3), tmp_path, seed=0)
    write_traces(tmp_path / "traces", [kept("no trace")])
    with pytest.raises(UserError, match=r"a kept text cannot be read \(missing_principle\)"):
        lessons(ColdStartConfig(), tmp_path, seed=0)[0][0]
