"""The cold start: which texts are kept, and that a run that was interrupted ends as one that was not."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from tests.training.tiny_run import tiny_verifier, tiny_world
from transformers import GenerationConfig, TrainerControl, TrainerState

from edit_r1.data.gold import gold_checks, truth_of
from edit_r1.data.store import read_edits
from edit_r1.errors import UserError
from edit_r1.records import Provenance, Verdict
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run
from edit_r1.stages import EDITS, ColdStartConfig, TraceForm
from edit_r1.training import cold_start, sft
from edit_r1.verifier.trace import parse_trace

CONFIG = ColdStartConfig(steps=4, batch_size=4, checkpoint_every=2)


def test_kept_texts_are_readable_and_agree_with_gold_better_than_any_teacher(tmp_path: Path) -> None:
    """Every kept text parses; selection lifts agreement above the teachers' own (their errors are 5 to 30%)."""
    data = tiny_world(tmp_path)
    statistics: Counter[str] = Counter()
    easy = ColdStartConfig(hard_share=0)
    rows = list(cold_start.selected_traces(read_edits(data / EDITS), easy, 0, statistics))
    right = total = 0
    for row, judged in zip(rows, read_edits(data / EDITS), strict=True):
        text = row["completion"][0]["content"]
        verdict = parse_trace(text, judged.edit.task.principles, Provenance("", "", "", "", 0))
        assert isinstance(verdict, Verdict)
        gold = gold_checks(judged.edit, judged.truth)
        right += sum(check.met == met for check, met in zip(verdict.checks, gold, strict=True))
        total += len(gold)
        assert judged.edit.task.instruction in row["prompt"][0]["content"]
    assert (statistics["right"], statistics["checks"]) == (right, total)
    assert right / total > 0.97
    assert sum(statistics[name] for name in ("plain", "lenient", "strict")) == len(rows)


def test_hard_questions_are_asked_and_their_answers_fit(tmp_path: Path) -> None:
    """With every question hard the texts still parse with the edits' own principles; most prompts have more words."""
    edits = list(read_edits(tiny_world(tmp_path) / EDITS))
    rows = list(cold_start.selected_traces(edits, ColdStartConfig(hard_share=1), 0, Counter()))
    longer = pictured = 0
    for row, judged in zip(rows, edits, strict=True):
        task = judged.edit.task
        text = row["completion"][0]["content"]
        assert isinstance(parse_trace(text, task.principles, Provenance("", "", "", "", 0)), Verdict)
        longer += row["prompt"][0]["content"].splitlines()[0] != task.instruction
        pictured += row["images"] != [task.source, judged.edit.image]
    assert longer > len(rows) / 3
    assert longer + pictured > 0.8 * len(rows)  # a copy is not exchanged


def test_other_questions_are_asked_and_answered(tmp_path: Path) -> None:
    """Every text answers the questions of its own prompt; of a task's list of principles only a copy's is left.

    Without principles there are none to be others. Teachers that weigh as annotators do write other scores.
    """
    edits = list(read_edits(tiny_world(tmp_path) / EDITS))
    config = ColdStartConfig(hard_share=0, question_share=1)
    rows = list(cold_start.selected_traces(edits, config, 0, Counter()))
    for row, judged in zip(rows, edits, strict=True):
        prompt, text = (row[key][0]["content"] for key in ("prompt", "completion"))
        questions = [line.split("] ", 1)[1] for line in prompt.splitlines() if re.match(r"\[\d+\] ", line)]
        own = [principle.question for principle in judged.edit.task.principles]
        assert (questions == own) == truth_of(judged.edit, judged.truth).noop
        assert len(re.findall(r"=> (?:yes|no)", text)) == len(questions) >= 3
    weighted = config.model_copy(update={"question_share": 0.0, "teacher_weights": "annotators"})
    alike = config.model_copy(update={"question_share": 0.0})

    def texts(one: ColdStartConfig) -> list[str]:
        return [row["completion"][0]["content"] for row in cold_start.selected_traces(edits, one, 0, Counter())]

    assert texts(weighted) != texts(alike) != texts(config)
    direct = config.model_copy(update={"form": "direct"})
    assert texts(direct) == texts(direct.model_copy(update={"question_share": 0.0}))


def test_every_form_of_a_text_holds_its_part(tmp_path: Path) -> None:
    """`verify` keeps checks and score, `think` thoughts and score, `direct` the score; all of them the same score.

    Without principles in the prompt the text holds no check; what is thought names all four places.
    """
    edits = list(read_edits(tiny_world(tmp_path) / EDITS))
    unknown = Provenance("", "", "", "", 0)

    def texts(form: TraceForm) -> list[tuple[str, str]]:
        config = ColdStartConfig(form=form)
        rows = cold_start.selected_traces(edits, config, 0, Counter())
        return [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows]

    forms: dict[TraceForm, list[tuple[str, str]]] = {form: texts(form) for form in get_args(TraceForm)}
    for place, judged in enumerate(edits):
        principles = judged.edit.task.principles
        full, verify = (parse_trace(forms[form][place][1], principles, unknown) for form in ("full", "verify"))
        think, direct = (parse_trace(forms[form][place][1], (), unknown) for form in ("think", "direct"))
        verdicts = [verdict for verdict in (full, verify, think, direct) if isinstance(verdict, Verdict)]
        assert len(verdicts) == 4
        assert len({verdict.score for verdict in verdicts}) == 1
        assert [check.met for check in verdicts[0].checks] == [check.met for check in verdicts[1].checks]
        assert all(check.reason for check in verdicts[0].checks)
        assert not any(check.reason for check in verdicts[1].checks)
        assert "bottom-right" in forms["think"][place][1]
        assert forms["direct"][place][1] == f"<score> {verdicts[0].score} </score>"
        assert all("?" not in forms[form][place][0] for form in ("think", "direct"))
        assert forms["verify"][place][0] == forms["full"][place][0]


def test_servers_find_no_sampling_defaults_of_the_base(tmp_path: Path) -> None:
    """A server samples by the model folder's generation_config.json; stock Qwen-VL penalises repetition there."""
    data, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"repetition_penalty": 1.05, "top_p": 0.8, "top_k": 20}))
    cold_start.run(CONFIG, data=data, model=model, out=tmp_path / "run", seed=0, resume=False)
    saved = GenerationConfig.from_pretrained(tmp_path / "run" / "model")
    assert (saved.repetition_penalty, saved.top_p, saved.top_k, saved.temperature) == (1.0, 1.0, 0, 1.0)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", CONFIG)
    state = TrainerState(global_step=1, is_world_process_zero=True)
    with track("Cold start", total=1) as bar:
        log = sft.RunLog(run, bar)
        with pytest.raises(UserError, match="the loss is nan at step 1: begin anew"):
            log.on_log(None, state, TrainerControl(), {"loss": float("nan")})
    assert run.metrics() == [{"step": 1, "loss": None}]


def test_other_data_and_weights_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the same paths: a data set that has grown would be another order of rows, a model another start."""
    data, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    settings: dict[str, Any] = {"data": data, "model": model, "out": tmp_path / "run", "seed": 0}
    with monkeypatch.context() as patched:
        patched.setattr(cold_start, "fine_tune", interrupted)
        with pytest.raises(Interrupted):
            cold_start.run(CONFIG, **settings, resume=False)
    Run(data).finish({"edits": 25})
    tiny_verifier(tmp_path, seed=1)
    with pytest.raises(UserError, match=r"other settings \(inputs.content, inputs.weights\)"):
        cold_start.run(CONFIG, **settings, resume=True)


class Interrupted(Exception):
    """Stands for Ctrl-C."""


def interrupted(*_: object, **__: object) -> None:
    raise Interrupted


def test_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the third of four steps and resumed from the second's checkpoint: the same weights, bitwise."""
    data, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    cold_start.run(CONFIG, data=data, model=model, out=whole, seed=1, resume=False)

    original = sft.RunLog.on_step_end

    def interrupt(self: sft.RunLog, args: object, state: object, control: object, **kwargs: object) -> None:
        original(self, args, state, control, **kwargs)  # pyright: ignore[reportArgumentType]
        if state.global_step == 3:  # pyright: ignore[reportAttributeAccessIssue]
            raise Interrupted

    monkeypatch.setattr(sft.RunLog, "on_step_end", interrupt)
    with pytest.raises(Interrupted):
        cold_start.run(CONFIG, data=data, model=model, out=broken, seed=1, resume=False)
    monkeypatch.undo()
    assert Run(broken).done is None
    cold_start.run(CONFIG, data=data, model=model, out=broken, seed=1, resume=True)

    expected, found = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert [line["step"] for line in Run(broken).metrics()] == [line["step"] for line in Run(whole).metrics()]
