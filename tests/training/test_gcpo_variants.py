"""What differs from the paper's form of GCPO, through the real trainer: each setting does what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.tiny_run import tiny_verifier, tiny_world

from edit_r1.data.gold import gold_checks
from edit_r1.data.store import read_pairs
from edit_r1.errors import UserError
from edit_r1.records import Check, Failure, Principle, Provenance, Verdict
from edit_r1.runs.run import Run
from edit_r1.stages import TRAIN_PAIRS, GcpoConfig
from edit_r1.training import gcpo
from edit_r1.training.contrast import centred, contrast, pointwise
from edit_r1.verifier.tiny import END, SPECIAL
from edit_r1.verifier.verifier import Completion

Batch = dict[str, Any]


def judged_by(monkeypatch: pytest.MonkeyPatch, judge: Callable[[Completion, list[str]], Verdict | Failure]) -> None:
    """Read traces by a function, in place of the parser."""
    monkeypatch.setattr(gcpo, "trace_verdict", judge)


def scripted(scores: Iterator[float], met: bool = True) -> Callable[[Completion, list[str]], Verdict]:
    """Verdicts with these scores, in which every principle is met or none is."""

    def judge(completion: Completion, questions: list[str]) -> Verdict:
        checks = tuple(Check(Principle(q, "follow"), met, "") for q in questions)
        return Verdict(checks, next(scores), completion.text, Provenance("script", "", "", "", 0))

    return judge


def batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every generation batch as it is made."""
    seen: list[Batch] = []
    original = gcpo.GcpoTrainer._generate_and_score_completions

    def spy(self: gcpo.GcpoTrainer, inputs: list[dict[str, object]]) -> Batch:
        seen.append(original(self, inputs))
        return seen[-1]

    monkeypatch.setattr(gcpo.GcpoTrainer, "_generate_and_score_completions", spy)
    return seen


SCORES = [9.0, 5, 1, 5, 2, 4, 6, 8, 9, 1, 5, 3, 2, 8, 4, 4]
SMALL = GcpoConfig(steps=1, pairs_per_step=2, traces=4, micro_batch=16, max_tokens=8, probe_every=50)


def train(tmp_path: Path, name: str = "gcpo", **changes: Any) -> Path:
    """One run with some settings changed."""
    config = GcpoConfig.model_validate(SMALL.model_dump() | changes)
    out = tmp_path / name
    gcpo.run(config, data=tiny_world(tmp_path), model=tiny_verifier(tmp_path), out=out, seed=0, resume=False)
    return out


@pytest.mark.parametrize("reward", ["contrast", "pointwise"])
def test_group_scaling_divides_by_the_standard_deviation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: str
) -> None:
    """A = (r - mean) / (std + 1e-4) in each group, with the unbiased standard deviation, for either reward."""
    judged_by(monkeypatch, scripted(iter(SCORES)))
    seen = batches(monkeypatch)
    train(tmp_path, reward=reward, scale_rewards="group")
    scores = torch.tensor(SCORES).view(2, 2, 4)
    rewards = pointwise(scores) if reward == "pointwise" else contrast(scores)
    expected = centred(rewards) / (rewards.std(-1, keepdim=True) + 1e-4)
    torch.testing.assert_close(seen[0]["advantages"], expected.flatten())


def test_equal_rewards_have_no_advantage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 eight times 0.41 have a mean that is not 0.41; divided by their deviation + 1e-4 that is 6e-4."""
    assert torch.full((8,), 0.41).mean() != torch.tensor(0.41)
    judged_by(monkeypatch, scripted(iter([4.1] * 8 + [5.9, 5.9, 5.9, 5.9, 5.9, 5.9, 5.9, 5.8])))
    seen = batches(monkeypatch)
    train(tmp_path, reward="pointwise", scale_rewards="group", pairs_per_step=1, traces=8)
    winner, loser = seen[0]["advantages"].view(2, 8)
    assert winner.abs().max() == 0
    assert loser.abs().min() > 0.1


def test_margin_and_tie_credit_reach_the_advantages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer contrasts with the margin and the credit of its settings."""
    judged_by(monkeypatch, scripted(iter(SCORES)))
    seen = batches(monkeypatch)
    train(tmp_path, margin=1.5, tie_credit=0.5)
    expected = centred(contrast(torch.tensor(SCORES).view(2, 2, 4), 1.5, 0.5)).flatten()
    torch.testing.assert_close(seen[0]["advantages"], expected)


def test_right_checks_are_rewarded_beside_the_contrast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal scores leave no contrast; what is left is check_weight times the share of right checks, centred.

    A trace that says yes to everything is right in the share of principles that are met, one that says no in the rest,
    and a Failure in none: with y of K met and four traces yes, no, Failure, no the rewards are w y / K, w (K - y) / K,
    0 and w (K - y) / K.
    """
    answers = iter([True, False, None, False] * 8)  # the score is read first, then the checks: two passes

    def judge(completion: Completion, questions: list[str]) -> Verdict | Failure:
        met = next(answers)
        return Failure("empty", "") if met is None else scripted(iter([5.0]), met)(completion, questions)

    judged_by(monkeypatch, judge)
    seen = batches(monkeypatch)
    order: list[list[bool]] = []
    original = gcpo.check_reward

    def spy(*args: Any, gold: list[list[bool]], **kwargs: Any) -> list[float | None]:
        order.extend(gold)
        assert set(kwargs["end_id"]) == {SPECIAL.index(END)}
        return original(*args, gold=gold, **kwargs)

    monkeypatch.setattr(gcpo, "check_reward", spy)
    train(tmp_path, check_weight=0.5)
    shares = torch.tensor([sum(gold) / len(gold) for gold in order]).view(4, 4)
    says_yes = torch.tensor([True, False, False, False])
    right = torch.where(says_yes, shares, 1 - shares) * torch.tensor([1, 1, 0, 1])
    expected = 0.5 * (right - right.mean(-1, keepdim=True))
    torch.testing.assert_close(seen[0]["advantages"], expected.flatten())
    assert expected.abs().max() > 0.05


def test_gold_of_rows_is_the_truth_of_their_edits(tmp_path: Path) -> None:
    """The winner's row holds the winner's truth, whatever side it is on; without truth there is an error."""
    pairs = list(read_pairs(tiny_world(tmp_path) / TRAIN_PAIRS))
    rows = list(gcpo.pair_rows(iter(pairs), 3, "compact", gold=True))
    for index, judged in enumerate(pairs):
        first = judged.preference.choice == "first"
        winner = judged.preference.first if first else judged.preference.second
        assert rows[2 * index]["gold"] == gold_checks(winner, judged.first_truth if first else judged.second_truth)
    blind = gcpo.JudgedPair(pairs[0].preference)
    with pytest.raises(UserError, match="check_weight needs pairs with truth"):
        list(gcpo.pair_rows(iter([blind]), 3, "compact", gold=True))


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo"])
def test_what_a_trace_weighs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss_type: str) -> None:
    """With ratio 1 the loss of R traces is -sum_j A_j / R, which is 0, or by token sums -sum_j A_j T_j / (R M).

    T_j is the length of trace j and M the most tokens it may have. The random model does not always stop at M.
    """
    judged_by(monkeypatch, scripted(iter(SCORES)))
    seen = batches(monkeypatch)
    out = train(tmp_path, loss_type=loss_type, max_tokens=60)
    lengths, advantages = seen[0]["completion_mask"].sum(1), seen[0]["advantages"]
    assert len(set(lengths.tolist())) > 1
    expected = 0.0 if loss_type == "grpo" else -(advantages * lengths).sum().item() / (16 * 60)
    assert Run(out).metrics()[0]["loss"] == pytest.approx(expected, abs=1e-6)
    assert loss_type == "grpo" or abs(expected) > 1e-3


def test_further_updates_on_a_batch_leave_ratio_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates per batch: one generation for two steps; nothing is clipped in the first, something in the second."""
    judged_by(monkeypatch, scripted(iter(SCORES * 2)))
    seen = batches(monkeypatch)
    out = train(tmp_path, steps=2, updates_per_batch=2, checkpoint_every=2, clip=0.001, learning_rate=1e-2)
    assert len(seen) == 1
    first, second = Run(out).metrics()
    assert first["clip_ratio/region_mean"] == 0
    assert second["clip_ratio/region_mean"] > 0.1


def test_pairs_without_signal_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first batch the first pair is separated (all advantages 0), the second is not; of the next, the reverse.

    The update then has the next batch's first pair in the first place and the old second pair in the second.
    """
    separated, mixed = [9.0, 9, 9, 9, 1, 1, 1, 1], [9.0, 1, 5, 3, 2, 8, 4, 4]
    judged_by(monkeypatch, scripted(iter([*separated, *mixed, *mixed, *separated])))
    seen, used = batches(monkeypatch), []
    original = gcpo.GcpoTrainer._refilled

    def spy(self: gcpo.GcpoTrainer, batch: Batch) -> Batch:
        used.append(original(self, batch))
        return used[-1]

    monkeypatch.setattr(gcpo.GcpoTrainer, "_refilled", spy)
    train(tmp_path, refills=3)
    assert len(seen) == 2  # after one refill every pair has signal
    [batch] = used
    old, new = (b["completion_ids"] for b in seen)
    text = batch["completion_ids"]
    for row in range(16):
        expected = new[row] if row < 8 else old[row]
        told = batch["completion_mask"][row].bool()
        assert text[row][told].tolist() == expected[: int(told.sum())].tolist()
    torch.testing.assert_close(batch["advantages"][:8], seen[1]["advantages"][:8])
    torch.testing.assert_close(batch["advantages"][8:], seen[0]["advantages"][8:])
    words = [set(b["prompt_ids"][0][b["prompt_mask"][0].bool()].tolist()) for b in (batch, seen[1])]
    assert words[0] == words[1]


def test_refills_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing gives a signal it stops after as many tries as were allowed, and the step changes no weight."""
    judged_by(monkeypatch, scripted(iter([5.0] * 200)))
    seen = batches(monkeypatch)
    out = train(tmp_path, refills=2)
    assert len(seen) == 3
    before, after = load_file(tmp_path / "verifier/model.safetensors"), load_file(out / "model/model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)


SEPARATED, MIXED = [9.0, 8, 9, 8, 1, 2, 1, 2], [9.0, 1, 5, 3, 2, 8, 4, 4]


@pytest.mark.parametrize(("reward", "share"), [("contrast", 0.5), ("pointwise", 1.0)])
def test_signal_is_of_the_reward_that_is_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: str, share: float
) -> None:
    """A pair whose traces are told apart has no contrast left, but its scores differ: `pointwise` learns from them."""
    judged_by(monkeypatch, scripted(iter([*SEPARATED, *MIXED])))
    assert Run(train(tmp_path, reward=reward)).metrics()[0]["signal_share"] == share


def test_a_trace_from_which_nothing_is_learnt_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no trace has an advantage one passes nonetheless: the entropy is that of the others, or there is none."""
    found: list[dict[str, Any]] = []
    for parts, scores in ((1, [*SEPARATED, *MIXED]), (2, [*SEPARATED, *MIXED]), (2, [*SEPARATED, *SEPARATED])):
        judged_by(monkeypatch, scripted(iter(scores)))
        found += Run(train(tmp_path, str(len(found)), micro_batch=16 // parts)).metrics()
    assert found[0]["entropy"] == pytest.approx(found[1]["entropy"], rel=1e-6)
    assert found[1]["clip_ratio/region_mean"] == 0
    assert not [name for name in found[2] if name == "entropy" or name.startswith("clip_ratio")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 3, "updates_per_batch": 2}, "multiples of updates_per_batch 2"),
        ({"reward": "pointwise", "margin": 1.0}, "belong to the contrast"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    """A setting without effect, or one that would break a batch, is an error of the recipe."""
    with pytest.raises(ValueError, match=message):
        GcpoConfig.model_validate(SMALL.model_dump() | changes)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_vision_tower_learns_where_it_is_not_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """Frozen, it stays as the cold start made it, to the bit; the language model learns in either case."""
    judged_by(monkeypatch, scripted(iter(SCORES)))
    out = train(tmp_path, freeze_vision=frozen)
    before, after = load_file(tmp_path / "verifier/model.safetensors"), load_file(out / "model/model.safetensors")
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert any("language_model" in key for key in moved)
    assert any("visual" in key for key in moved) == (not frozen)
