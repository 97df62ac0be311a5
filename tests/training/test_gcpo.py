"""GCPO: TRL's trainer does what the pure functions say, in less time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.training import several_processes
from tests.training.tiny_run import tiny_verifier, tiny_world
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from edit_r1.data.store import read_pairs
from edit_r1.records import Failure, Provenance, Verdict
from edit_r1.runs.run import Run
from edit_r1.stages import TRAIN_PAIRS, GcpoConfig
from edit_r1.training import gcpo
from edit_r1.training.contrast import centred, contrast
from edit_r1.training.gcpo import pair_rows, trace_verdict
from edit_r1.training.gcpo_trainer import PairSampler
from edit_r1.training.shared_prompts import first_rows
from edit_r1.verifier.verifier import Completion


@given(st.integers(1, 4), st.integers(2, 5), st.integers(1, 3))
def test_winner_and_loser_share_a_generation_batch(pairs_per_batch: int, traces: int, repeats: int) -> None:
    """Every batch of 2 * P * N rows holds whole pairs, N rows of the winner before N of the loser."""
    order = RepeatSampler(range(12), 1, pairs_per_batch, repeats, shuffle=True, seed=3)  # pyright: ignore[reportArgumentType]
    rows = list(PairSampler(order, traces))
    assert len(rows) == len(PairSampler(order, traces))
    for start in range(0, len(rows), 2 * traces):
        pair = rows[start] // 2
        assert rows[start : start + 2 * traces] == [2 * pair] * traces + [2 * pair + 1] * traces
    assert set(Counter(rows).values()) == {traces * repeats}


def test_rows_put_the_winner_first(tmp_path: Path) -> None:
    """Whatever side the annotator chose, the first row of a pair is the preferred edit."""
    data = tiny_world(tmp_path)
    rows = list(pair_rows(read_pairs(data / TRAIN_PAIRS), 3, "compact", gold=False))
    pairs = [judged.preference for judged in read_pairs(data / TRAIN_PAIRS)]
    assert {p.choice for p in pairs} == {"first", "second"}
    for index, preference in enumerate(pairs):
        winner = preference.first if preference.choice == "first" else preference.second
        assert np.array_equal(np.asarray(rows[2 * index]["images"][1]), np.asarray(winner.image))
        assert rows[2 * index]["prompt"] == rows[2 * index + 1]["prompt"]


def test_a_trace_that_cannot_be_read_has_no_score() -> None:
    """Failure is a value, never a number."""
    whole = "[1] same => yes\n<score> 7.5 </score>"
    verdict = trace_verdict(Completion(whole, finished=True), ["q"])
    assert isinstance(verdict, Verdict)
    assert verdict.score == 7.5
    assert isinstance(trace_verdict(Completion(whole + " and", finished=False), ["q"]), Failure)
    assert isinstance(trace_verdict(Completion("[1] same => yes", finished=True), ["q"]), Failure)
    assert isinstance(trace_verdict(Completion("<score> 7.5 </score>", finished=True), ["q"]), Failure)


def test_a_trace_of_a_batch_is_whole_when_it_ends_with_its_end_token() -> None:
    """The same text with the end token (2) and without it, and prose: 7.5, and two Failures, which have no score."""
    texts = ["[1] same => yes\n<score> 7.5 </score>\nand"] * 2 + ["no idea"]
    said = [[{"role": "assistant", "content": text}] for text in texts]
    asked = [["q"]] * 3
    assert gcpo.score_reward(said, [[4, 2], [4, 5], [4, 2]], asked, [2] * 3) == [7.5, None, None]
    right = gcpo.check_reward(said, [[4, 2], [4, 5], [4, 2]], asked, [2] * 3, [[True]] * 3)
    assert right == [1.0, None, None]


def scripted(monkeypatch: pytest.MonkeyPatch, score: Callable[[Completion], float]) -> None:
    """Let a function of the trace say its score, in place of the parser alone."""
    unknown = Provenance("script", "", "", "", 0)

    def verdict(completion: Completion, questions: list[str]) -> Verdict:
        return Verdict((), score(completion), completion.text, unknown)

    monkeypatch.setattr(gcpo, "trace_verdict", verdict)


def test_rows_without_advantage_are_left_out_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights after a step are those of a step that passes every row, traces without advantage included.

    Each row adds A_j / T_j sum_t rho_t / B to the objective, which is 0 with zero gradient where A_j = 0; the mean over
    the kept rows is scaled by kept / B.
    """
    data, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    # Groups of four: the first pair is separated (no signal), the second is not.
    script = [9.0, 9, 9, 9, 1, 1, 1, 1, 9, 1, 5, 3, 2, 8, 4, 4]
    config = GcpoConfig(steps=1, pairs_per_step=2, traces=4, micro_batch=16, max_tokens=8, probe_every=5)
    weights: list[dict[str, torch.Tensor]] = []
    for whole in (False, True):
        scores = iter(script)
        scripted(monkeypatch, lambda completion, s=scores: next(s))
        if whole:
            monkeypatch.setattr(gcpo.GcpoTrainer, "_compute_loss", GRPOTrainer._compute_loss)
        out = tmp_path / f"whole_{whole}"
        gcpo.run(config, data=data, model=model, out=out, seed=0, resume=False)
        weights.append(load_file(out / "model" / "model.safetensors"))
    before = load_file(model / "model.safetensors")
    moved = [(weights[0][key] - before[key]).abs().max().item() for key in before]
    assert max(moved) > 0
    for key, expected in weights[1].items():
        # AdamW's first step divides each gradient by itself: where it is rounding noise, its sign is too.
        torch.testing.assert_close(weights[0][key], expected, atol=3e-7, rtol=0, msg=key)


def test_the_trainer_contrasts_centres_and_starts_at_ratio_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of the real trainer, with scripted scores in place of the parser alone.

    The advantages that reach TRL's loss are `centred(contrast(scores))` of each pair, and in the first pass over a
    batch the likelihood ratio is exactly 1: the policy gradient is on-policy and nothing is clipped.
    """
    drawn: list[float] = []
    generator = np.random.default_rng(0)

    def draw(completion: Completion) -> float:
        drawn.append(float(generator.integers(0, 21)) / 2)
        return drawn[-1]

    scripted(monkeypatch, draw)
    seen: list[dict[str, torch.Tensor]] = []
    original = gcpo.GcpoTrainer._generate_and_score_completions

    def spy(self: gcpo.GcpoTrainer, inputs: list[dict[str, object]]) -> dict[str, torch.Tensor]:
        seen.append(original(self, inputs))
        return seen[-1]

    monkeypatch.setattr(gcpo.GcpoTrainer, "_generate_and_score_completions", spy)
    config = GcpoConfig(steps=1, pairs_per_step=2, traces=4, micro_batch=8, max_tokens=8, probe_every=5)
    out = tmp_path / "gcpo"
    gcpo.run(config, data=tiny_world(tmp_path), model=tiny_verifier(tmp_path), out=out, seed=0, resume=False)
    expected = centred(contrast(torch.tensor(drawn).view(-1, 2, 4))).flatten()
    torch.testing.assert_close(seen[0]["advantages"], expected)
    assert expected.abs().max() > 0
    metrics = Run(out).metrics()[0]
    assert metrics["clip_ratio/region_mean"] == 0
    # With ratio 1 and token means per trace the loss is -mean(A) = 0 but for rounding; its gradient is not.
    assert abs(metrics["loss"]) < 1e-6
    assert metrics["grad_norm"] > 0


def test_prompts_read_once_give_the_traces_of_prompts_read_for_every_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same random state, our way and TRL's sample the same tokens; prompts differ in length and pictures."""
    both: list[tuple[list[list[int]], list[list[int]]]] = []
    original = gcpo.GcpoTrainer._generate_single_turn

    def compare(self: gcpo.GcpoTrainer, *args: Any, **kwargs: Any) -> object:
        state = torch.get_rng_state()
        plain, _ = GRPOTrainer._generate_single_turn(self, *args, **kwargs)
        torch.set_rng_state(state)
        ours, _ = original(self, *args, **kwargs)
        both.append((plain, ours))
        return ours, None

    monkeypatch.setattr(gcpo.GcpoTrainer, "_generate_single_turn", compare)
    config = GcpoConfig(steps=1, pairs_per_step=3, traces=4, micro_batch=8, max_tokens=12, probe_every=5)
    out = tmp_path / "gcpo"
    gcpo.run(config, data=tiny_world(tmp_path), model=tiny_verifier(tmp_path), out=out, seed=0, resume=False)
    [(plain, ours)] = both
    assert len(ours) == 24
    assert len({tuple(row) for row in ours}) > 12
    assert ours == plain


def test_prompts_prepared_once_are_those_prepared_for_every_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token ids, pictures and what the processor makes of them are TRL's, row by row."""
    seen: list[int] = []
    ours = gcpo.GcpoTrainer._tokenize_prompts

    def compare(self: gcpo.GcpoTrainer, prompts: list[Any]) -> Any:
        expected, found = GRPOTrainer._tokenize_prompts(self, prompts), ours(self, prompts)
        assert found[0] == expected[0]
        assert found[1] == expected[1]
        assert found[2].keys() == expected[2].keys()
        for key, value in expected[2].items():
            assert torch.equal(found[2][key], value) if isinstance(value, torch.Tensor) else found[2][key] == value
        seen.append(len(found[0]))
        return found

    monkeypatch.setattr(gcpo.GcpoTrainer, "_tokenize_prompts", compare)
    config = GcpoConfig(steps=1, pairs_per_step=3, traces=4, micro_batch=8, max_tokens=2, probe_every=5)
    out = tmp_path / "gcpo"
    gcpo.run(config, data=tiny_world(tmp_path), model=tiny_verifier(tmp_path), out=out, seed=0, resume=False)
    assert seen == [24]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_update_reads_a_prompt_once_and_learns_what_trl_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """Log-probabilities, entropies and gradients are those of TRL, which reads a prompt with every trace.

    Rows without advantage are left out, so that prompts keep different numbers of traces: by hand 2, 4, 4 and none.
    """
    scores = iter([9.0, 5, 1, 5, 2, 4, 6, 8, 9, 1, 5, 3, 4, 4, 4, 4])
    scripted(monkeypatch, lambda completion: next(scores))
    seen: list[tuple[int, int]] = []
    ours = gcpo.GcpoTrainer._get_per_token_logps_and_entropies

    def gradients(model: Any, log_probs: torch.Tensor) -> torch.Tensor:
        weights = torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)
        found = torch.autograd.grad((weights * log_probs).sum(), [p for p in model.parameters() if p.requires_grad])
        return torch.cat([gradient.flatten() for gradient in found])

    def compare(self: gcpo.GcpoTrainer, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, **rest: Any):
        plain = GRPOTrainer._get_per_token_logps_and_entropies(self, model, ids, mask, keep, **rest)
        shared = ours(self, model, ids, mask, keep, **rest)
        told = mask[:, -keep:].bool()
        assert plain[1] is not None
        assert shared[1] is not None
        torch.testing.assert_close(shared[0][told], plain[0][told], atol=2e-5, rtol=0)
        torch.testing.assert_close(shared[1][told], plain[1][told], atol=2e-5, rtol=0)
        expected, found = (gradients(model, log_probs * told) for log_probs in (plain[0], shared[0]))
        assert (found - expected).norm() < 1e-5 * expected.norm()
        prompts = {key: rest[key] for key in ("pixel_values", "image_grid_thw", "num_images")}
        seen.append((len(ids), len(first_rows(prompts | {"input_ids": ids[:, :-keep]}))))
        return ours(self, model, ids, mask, keep, **rest)

    monkeypatch.setattr(gcpo.GcpoTrainer, "_get_per_token_logps_and_entropies", compare)
    config = GcpoConfig(
        steps=1, pairs_per_step=2, traces=4, micro_batch=16, max_tokens=12, probe_every=5, temperature=temperature
    )
    out = tmp_path / "gcpo"
    gcpo.run(config, data=tiny_world(tmp_path), model=tiny_verifier(tmp_path), out=out, seed=0, resume=False)
    assert seen == [(10, 3)]


def two_processes(data: Path, model: Path, out: Path, more: dict[str, Any], *stop: int) -> Any:
    """`several_processes` on a pair each."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    inputs = [data, model, out, 1, json.dumps(more), *stop]
    return subprocess.run(
        [*launch, several_processes.__file__, *map(str, inputs)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("more", [{}, {"updates_per_batch": 2, "checkpoint_every": 2, "check_weight": 0.5}])
def test_two_processes_learn_what_one_learns(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pairs a step, on one process or one on each of two (gloo): the same rewards, and the same weights after two.

    The trainer gathers scores over processes before it contrasts them, and averages gradients over processes that have
    equally many traces: the mean over all. Weights differ by the order of float32 sums alone.
    """
    data, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    made = two_processes(data, model, tmp_path / "of_2", more)
    assert made.returncode == 0, made.stderr[-2000:]
    monkeypatch.setattr(gcpo.GcpoTrainer, "_generate_single_turn", several_processes.written)
    monkeypatch.setattr(gcpo, "trace_verdict", several_processes.judge)
    gcpo.run(several_processes.settings(2, **more), data=data, model=model, out=tmp_path / "of_1", seed=0, resume=False)
    one, two = (Run(tmp_path / f"of_{processes}") for processes in (1, 2))
    assert "reward" in one.metrics()[0]
    for ours, theirs in zip(one.metrics(), two.metrics(), strict=True):
        for name in ("reward", "pair_accuracy", "signal_share"):  # a further update on the same traces measures none
            assert ours.get(name) == pytest.approx(theirs.get(name), abs=1e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    before, expected, found = (
        load_file(f / "model.safetensors") for f in (model, one.path / "model", two.path / "model")
    )
    moved = max((expected[key] - before[key]).abs().max().item() for key in before)
    apart = max((expected[key] - found[key]).abs().max().item() for key in before)
    assert moved > 1e-4
    assert apart < 0.01 * moved


def test_two_processes_go_on_with_the_pairs_that_are_due(tmp_path: Path) -> None:
    """Eight pairs are four steps of two. Killed in the second epoch and resumed: the rewards of a run that was not."""
    data, model, steps = tiny_world(tmp_path), tiny_verifier(tmp_path), {"steps": 7, "checkpoint_every": 5}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert two_processes(data, model, whole, steps).returncode == 0
    assert two_processes(data, model, broken, steps, 6).returncode != 0
    assert Run(broken).done is None
    made = two_processes(data, model, broken, steps)
    assert made.returncode == 0, made.stderr[-2000:]
    for name in ("reward", "grad_norm"):
        expected, found = ([line[name] for line in Run(out).metrics()] for out in (whole, broken))
        assert found == pytest.approx(expected, rel=1e-3)


class Interrupted(Exception):
    """Stands for Ctrl-C."""


def test_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the last of six steps and resumed from the fifth's checkpoint: the same weights, bitwise.

    The eight pairs make four steps an epoch, so it goes on within the second, which has another order than the first.
    Traces are sampled, so this holds only if the randomness, the order of pairs and the optimiser all go on.
    """
    data, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    scripted(monkeypatch, lambda completion: float(len(completion.text) % 11))
    config = GcpoConfig(
        steps=6, pairs_per_step=2, traces=2, micro_batch=4, max_tokens=6, checkpoint_every=1, probe_every=9
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    gcpo.run(config, data=data, model=model, out=whole, seed=2, resume=False)
    original = gcpo.ProbeLog.on_step_end

    def interrupt(self: gcpo.ProbeLog, args: object, state: object, control: object, **kwargs: object) -> None:
        original(self, args, state, control, **kwargs)
        if state.global_step == 6:  # pyright: ignore[reportAttributeAccessIssue]
            raise Interrupted

    monkeypatch.setattr(gcpo.ProbeLog, "on_step_end", interrupt)
    with pytest.raises(Interrupted):
        gcpo.run(config, data=data, model=model, out=broken, seed=2, resume=False)
    monkeypatch.setattr(gcpo.ProbeLog, "on_step_end", original)
    gcpo.run(config, data=data, model=model, out=broken, seed=2, resume=True)
    expected, found = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    steps = [[line["step"] for line in Run(run).metrics()] for run in (whole, broken)]
    assert steps[0] == steps[1] == [1, 2, 3, 4, 5, 6]
