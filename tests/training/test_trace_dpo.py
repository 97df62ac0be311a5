"""DPO on traces: which traces make a pair, and that training makes the chosen ones likelier."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.training.tiny_run import tiny_verifier, tiny_world

from edit_r1.errors import UserError
from edit_r1.records import Provenance, Verdict
from edit_r1.runs.run import Run
from edit_r1.stages import TraceDpoConfig
from edit_r1.training import trace_dpo
from edit_r1.training.trace_dpo import trace_pair
from edit_r1.verifier.verifier import Completion


def test_trace_pair_by_hand() -> None:
    """The best and the worst of rewards, the first of equals; nothing is learnt from equal rewards."""
    assert trace_pair([0.5, 1.0, 0.0, 1.0, 0.0]) == (1, 2)
    assert trace_pair([0.25, 0.25]) is None


def test_which_texts_are_chosen() -> None:
    """Winner 7, 1, 5 and loser 6, 2, Failure: 7 beats both readable traces (1), 1 beats none (0).

    Of three readable winner traces 7 and 5 are above the loser's 2 (2/3), 7 alone is above its 6; a Failure earns 0.
    """
    written, settings = [["7", "1", "5"], ["6", "2", "?"]], dict[str, Any]()

    def generate(prompts: object, **rest: Any) -> list[list[Completion]]:
        settings.update(rest)
        return [[Completion(f"[1] a => yes\n<score> {score} </score>", True) for score in row] for row in written]

    rows = [{"images": (), "prompt": [{"content": "x"}], "questions": ["q"]}] * 2
    engine: Any = SimpleNamespace(generate=generate)
    found = trace_dpo._draw(engine, rows, TraceDpoConfig(traces=3, temperature=0.7), 5)
    assert [[text.split()[5] for text in texts] for texts in found if texts] == [["7", "1"], ["2", "?"]]
    assert (settings["n"], settings["temperature"], settings["seed"]) == (3, 0.7, 5)


def scored_by_length(completion: Completion, questions: list[str]) -> Verdict:
    """A stand-in for the parser: random models write nothing that it could read."""
    return Verdict((), float(len(completion.text) % 11), completion.text, Provenance("script", "", "", "", 0))


def test_chosen_traces_become_likelier_than_rejected_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss starts at ln 2 (policy and reference are equal) and falls; chosen traces end above rejected ones."""
    monkeypatch.setattr(trace_dpo, "trace_verdict", scored_by_length)
    config = TraceDpoConfig(steps=20, batch_size=4, traces=4, max_tokens=8, learning_rate=1e-3)
    out = tmp_path / "dpo"
    rest: dict[str, Any] = {"data": tiny_world(tmp_path), "model": tiny_verifier(tmp_path), "seed": 0}
    trace_dpo.run(config, out=out, resume=False, **rest)
    first, *_, last = Run(out).metrics()
    assert last["loss"] < first["loss"] < 0.70
    assert last["rewards/accuracies"] > 0.8
    done = Run(out).done
    assert done is not None
    assert 0 < done["trace_pairs"] <= 16


def test_an_interrupted_drawing_goes_on_with_the_same_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four chunks are there, and a torn third: the last two are drawn, and all is as without interruption."""
    monkeypatch.setattr(trace_dpo, "trace_verdict", scored_by_length)
    monkeypatch.setattr(trace_dpo, "_CHUNK", 2)
    config = TraceDpoConfig(steps=2, batch_size=2, traces=2, max_tokens=8)
    rest: dict[str, Any] = {"data": tiny_world(tmp_path), "model": tiny_verifier(tmp_path), "seed": 0}
    trace_dpo.run(config, out=tmp_path / "whole", resume=False, **rest)
    draw, seeds = trace_dpo._draw, list[int]()

    def counted(engine: Any, rows: Any, config: Any, seed: int) -> Any:
        seeds.append(seed)
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return draw(engine, rows, config, seed)

    monkeypatch.setattr(trace_dpo, "_draw", counted)
    with pytest.raises(KeyboardInterrupt):
        trace_dpo.run(config, out=tmp_path / "parts", resume=False, **rest)
    with (tmp_path / "parts" / "trace_pairs.jsonl").open("a") as file:
        file.write('[["torn')
    trace_dpo.run(config, out=tmp_path / "parts", resume=True, **rest)
    assert seeds == [0, 4, 8, 8, 12]
    whole, parts = ((tmp_path / name / "trace_pairs.jsonl").read_text() for name in ("whole", "parts"))
    assert whole == parts
    assert len(whole.splitlines()) == 4
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_nothing_to_learn_is_said(tmp_path: Path) -> None:
    """A model that writes no readable trace has no pair of traces: an error in one line, before any training."""
    config = TraceDpoConfig(steps=1, batch_size=2, traces=2, max_tokens=4)
    rest: dict[str, Any] = {"data": tiny_world(tmp_path), "model": tiny_verifier(tmp_path), "seed": 0}
    with pytest.raises(UserError, match="no image has two traces"):
        trace_dpo.run(config, out=tmp_path / "dpo", resume=False, **rest)
