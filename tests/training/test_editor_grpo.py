"""Editor GRPO: policy, rollout and update, then the loop on a tiny random Kontext with scripted rewards."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline  # pyright: ignore[reportPrivateImportUsage]
from PIL import Image
from tests.training.tiny_editor import tiny_editor
from torch import Tensor

from edit_r1.editors.base import Editor, edit
from edit_r1.editors.kontext import KontextEditor
from edit_r1.editors.loading import load_editor
from edit_r1.errors import UserError
from edit_r1.flow.gaussian import log_prob
from edit_r1.records import Edit
from edit_r1.runs.checkpoint import load_checkpoint
from edit_r1.runs.run import Run, read_metrics
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training import editor_grpo
from edit_r1.training.editor_grpo import Judges, new_policy, reward_metrics, train
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.training.editor_probe import raise_alarms
from edit_r1.training.editor_rewards import Reward, RewardFn
from edit_r1.training.editor_rollout import Draw, Part, sample_groups, step_transition, velocity_fn
from edit_r1.training.editor_tasks import Tasks, open_tasks
from edit_r1.training.editor_update import update as full_update
from edit_r1.verifier.tiny import TinySize, build_processor, build_tiny_qwen
from edit_r1.world.words import vocabulary

NAN = float("nan")
CONFIG = EditorGrpoConfig(
    steps=4,
    prompts_per_step=2,
    group_size=3,
    sample_steps=4,
    kernel="flow_sde",
    sde_steps=(1, 2),
    noise_level=0.9,
    shared_noise=False,
    micro_batch=4,  # does not divide the 6 edits of a step
    lora_rank=4,
    lora_alpha=8,
    learning_rate=1e-2,
    probe_every=2,
    probe_tasks=4,
    probe_steps=2,
    checkpoint_every=2,
    groups_every=2,
)


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("editor")
    return tiny_editor(folder)


@pytest.fixture
def editor(pipeline_folder: Path) -> KontextEditor:
    loaded = load_editor(pipeline_folder)
    assert isinstance(loaded, KontextEditor)
    return loaded


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Tasks:
    return open_tasks(tmp_path_factory.mktemp("no-data"), 0, CONFIG.probe_tasks)


def redness(edits: Sequence[Edit]) -> list[Reward]:
    """A reward that a policy can raise: how red the images are, stretched; every seventh verdict is unreadable."""
    means = [np.asarray(edit.image, np.float64)[..., 0].mean() / 25.5 for edit in edits]
    unreadable = Reward(None, failures={"bad_answer": 1})
    return [unreadable if len(edits) > 4 and index % 7 == 5 else Reward(float(m)) for index, m in enumerate(means)]


def wrap(editor: Editor, seed: int = 0, config: EditorGrpoConfig = CONFIG) -> EditorPolicy:
    return new_policy(editor, config, seed)


def shake(lora: EditorPolicy, size: float = 0.05) -> None:
    """Move the weights away from the start, where B is 0 and the editor equals its base; the running mean elsewhere."""
    drawn = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in lora.parameters.items():
            parameter.add_(size * torch.randn(parameter.shape, generator=drawn))
            lora.ema[name].add_(size * torch.randn(parameter.shape, generator=drawn))


def draw(editor: Editor, tasks: Tasks, config: EditorGrpoConfig = CONFIG, seed: int = 1, first: int = 0) -> list[Part]:
    batch = [tasks.train(index) for index in range(first, first + config.prompts_per_step)]
    return list(sample_groups(editor, batch, config, Draw(seed, 1, first)))


def update(
    editor: Editor, lora: EditorPolicy, parts: Sequence[Part], values: Tensor, config: EditorGrpoConfig = CONFIG
) -> dict[str, float]:
    return full_update(editor, lora, parts, values, torch.ones(len(values), dtype=torch.bool), config)


def velocity(editor: Editor, rollout: Sequence[Part]) -> Tensor:
    trajectory = rollout[0].trajectory
    with torch.no_grad():
        return velocity_fn(editor, rollout[0].conditioning, CONFIG)(trajectory.latents[1], trajectory.sigmas[1])


# --- metrics ---


def test_reward_metrics_leave_failures_out_and_count_them() -> None:
    """2, 4, 6 and one Failure: mean 4, std sqrt(8/3), a quarter failed."""
    found = reward_metrics(torch.tensor([[2.0, NAN], [4.0, 6.0]]))
    assert found == {"reward": 4.0, "reward_std": pytest.approx(math.sqrt(8 / 3)), "failure_rate": 0.25}


# --- LoRA, reference and running mean ---


def test_reference_is_the_base_and_mean_weights_come_and_go(editor: KontextEditor, tasks: Tasks) -> None:
    rollout = draw(editor, tasks)
    base = velocity(editor, rollout)
    lora = wrap(editor)
    assert torch.equal(velocity(editor, rollout), base)  # B = 0: the editor starts as its base
    shake(lora)
    trained = velocity(editor, rollout)
    assert (trained - base).abs().max() > 1e-3
    with lora.reference():
        torch.testing.assert_close(velocity(editor, rollout), base, rtol=0, atol=0)
    with lora.averaged():
        averaged = velocity(editor, rollout)
    assert not torch.equal(averaged, trained)
    assert torch.equal(velocity(editor, rollout), trained)


def test_running_mean_by_hand(editor: KontextEditor) -> None:
    """The first decay is 1/10, the second 2/11: start 0, weights 1 then 2 give 0.9 and 0.9 * 2/11 + 2 * 9/11 = 1.8."""
    lora = wrap(editor)
    name = next(name for name in lora.parameters if "lora_B" in name)
    for value, mean in ((1.0, 0.9), (2.0, 1.8)):
        with torch.no_grad():
            lora.parameters[name].fill_(value)
        lora.step()  # there are no gradients: the optimiser moves nothing
        torch.testing.assert_close(lora.ema[name], torch.full_like(lora.ema[name], mean))


def test_lora_and_merged_editor_load_with_stock_diffusers(
    editor: KontextEditor, tasks: Tasks, pipeline_folder: Path, tmp_path: Path
) -> None:
    rollout = draw(editor, tasks)
    lora = wrap(editor)
    shake(lora)
    lora.assign(lora.average())
    expected = velocity(editor, rollout)
    lora.save_lora(editor.pipeline, tmp_path / "lora")
    lora.merge()
    editor.save(tmp_path / "model")
    torch.testing.assert_close(velocity(load_editor(tmp_path / "model"), rollout), expected, rtol=1e-4, atol=1e-5)

    stock = FluxKontextPipeline.from_pretrained(pipeline_folder)
    untrained = picture(stock, tasks)
    stock.load_lora_weights(str(tmp_path / "lora"))
    torch.testing.assert_close(velocity(KontextEditor(stock), rollout), expected, rtol=1e-4, atol=1e-5)
    ours = edit(load_editor(tmp_path / "model"), [tasks.train(0)], 3, seed=5)
    torch.testing.assert_close(picture(stock, tasks), ours, rtol=0, atol=1e-4)
    assert (ours - untrained).abs().max() > 1e-2


def picture(stock: Any, tasks: Tasks) -> Tensor:
    """What the stock call makes of the first task, in three steps from the noise of seed 5: [1, 3, 64, 64]."""
    task, editor = tasks.train(0), KontextEditor(stock)
    return stock(
        image=task.source,
        prompt=task.instruction,
        generator=torch.Generator().manual_seed(5),
        num_inference_steps=3,
        height=64,
        width=64,
        max_area=64 * 64,
        _auto_resize=False,
        max_sequence_length=editor.text_tokens,
        output_type="pt",
        **editor.guidance_arguments(),
    ).images


# --- rollout and update ---


def test_rollout_groups_start_apart_or_together(editor: KontextEditor, tasks: Tasks) -> None:
    apart = draw(editor, tasks)[0].trajectory.latents
    together = draw(editor, tasks, CONFIG.model_copy(update={"shared_noise": True}))[0].trajectory.latents
    assert not torch.equal(apart[0, 0], apart[0, 1])
    assert torch.equal(together[0, 0], together[0, 2])
    assert not torch.equal(together[0, 0], together[0, 3])  # another task
    assert torch.equal(together[1, 0], together[1, 2])  # step 0 is deterministic
    assert not torch.equal(together[2, 0], together[2, 2])


def test_the_source_reaches_the_edit(editor: KontextEditor, tasks: Tasks) -> None:
    """The same instruction and noise on two sources give two pictures: the policy is no text-to-image model."""
    task = tasks.train(0)
    other = replace(task, source=Image.new("RGB", task.source.size, "white"))
    latents = [next(sample_groups(editor, [each], CONFIG, Draw(0, 1))).trajectory.latents[-1] for each in (task, other)]
    assert not torch.equal(latents[0], latents[1])


def test_first_update_has_ratio_exactly_one(editor: KontextEditor, tasks: Tasks) -> None:
    """Also away from the start, with a micro batch that is cut short, and in every stochastic step."""
    lora = wrap(editor)
    shake(lora)
    rollout = draw(editor, tasks)
    assert [len(part) for part in rollout] == [4, 2]
    metrics = update(editor, lora, rollout, torch.linspace(-1, 1, 6), CONFIG)
    assert metrics["ratio_shift"] == 0.0
    assert metrics["clip_share"] == 0.0
    assert metrics["kl"] > 0.0
    assert metrics["grad_norm"] > 0.0
    again = update(editor, lora, rollout, torch.linspace(-1, 1, 6), CONFIG)
    assert again["ratio_shift"] > 0.0


def test_ratio_is_near_one_in_other_micro_batches(editor: KontextEditor, tasks: Tasks) -> None:
    lora = wrap(editor)
    shake(lora)
    metrics = update(editor, lora, split(draw(editor, tasks), 1), torch.linspace(-1, 1, 6), CONFIG)
    assert metrics["ratio_shift"] < 1e-5


def test_loss_by_hand_on_the_first_update(editor: KontextEditor, tasks: Tasks) -> None:
    """At ratio 1 the objective is -A, so loss = -mean(A) + beta KL_mean = -0.5 + 0.3 KL_sum / D, with D = 64 * 16."""
    lora = wrap(editor)
    shake(lora)
    config = CONFIG.model_copy(update={"beta": 0.3})
    metrics = update(editor, lora, draw(editor, tasks), torch.full((6,), 0.5), config)
    assert metrics["loss"] == pytest.approx(-0.5 + 0.3 * metrics["kl"] / 1024, rel=1e-4)
    without = update(editor, lora, draw(editor, tasks), torch.full((6,), 0.5), CONFIG.model_copy(update={"beta": 0.0}))
    assert without["kl"] == 0.0


def test_loss_by_hand_of_the_velocity_penalty(editor: KontextEditor, tasks: Tasks) -> None:
    """The penalty is mean |v - v_base|^2 over latent numbers, edits and stochastic steps; at ratio 1 the rest is -A."""
    lora = wrap(editor)
    shake(lora)
    config = CONFIG.model_copy(update={"beta": 0.3, "kl": "velocity"})
    rollout = draw(editor, tasks)
    gaps: list[Tensor] = []
    for part in rollout:
        ask, whole = velocity_fn(editor, part.conditioning, config), part.trajectory
        for step in whole.steps:
            with torch.no_grad():
                trained = ask(whole.latents[step], whole.sigmas[step])
                with lora.reference():
                    gaps.append((trained - ask(whole.latents[step], whole.sigmas[step])).square().mean((1, 2)))
    expected = torch.cat(gaps).mean().item()
    metrics = update(editor, lora, rollout, torch.full((6,), 0.5), config)
    assert metrics["kl"] == pytest.approx(expected, rel=1e-4)
    assert metrics["loss"] == pytest.approx(-0.5 + 0.3 * expected, rel=1e-4)


def test_guard_divides_the_loss_by_the_length_of_the_step(editor: KontextEditor, tasks: Tasks) -> None:
    """At ratio 1 a step of length d gives -A / d: the loss is -0.5 mean(1 / d) over the two stochastic steps."""
    lora = wrap(editor)
    shake(lora)
    rollout = draw(editor, tasks)
    sigmas = rollout[0].trajectory.sigmas
    lengths = [float(sigmas[step] - sigmas[step + 1]) for step in CONFIG.sde_steps]
    config = CONFIG.model_copy(update={"objective": "guard", "beta": 0.0})
    metrics = update(editor, lora, rollout, torch.full((6,), 0.5), config)
    assert metrics["loss"] == pytest.approx(-0.5 * sum(1 / d for d in lengths) / 2, rel=1e-4)


def test_what_cannot_be_read_is_in_no_mean_of_an_update(pipeline_folder: Path, tasks: Tasks) -> None:
    """An unreadable row among six gives the loss, the KL and the gradient of the other five alone."""
    config, values = CONFIG.model_copy(update={"beta": 0.3}), torch.tensor([1.0, -0.5, 9.0, 0.5, -1.0, 0.25])
    readable = torch.tensor([True, True, False, True, True, True])
    found: list[dict[str, float]] = []
    for masked in (True, False):
        editor = load_editor(pipeline_folder)
        lora = wrap(editor)
        shake(lora)
        parts = split(draw(editor, tasks), 1)
        if masked:
            found.append(full_update(editor, lora, parts, values, readable, config))
        else:
            found.append(
                update(editor, lora, [p for p, r in zip(parts, readable, strict=True) if r], values[readable], config)
            )
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_every_edit_has_a_seed_of_its_own_however_tasks_are_shared(editor: KontextEditor, tasks: Tasks) -> None:
    """The verifier's sampling follows from the first edit's of a batch: no two batches may sample alike."""
    both = [edit.seed for part in draw(editor, tasks) for edit in part.edits]
    assert len(set(both)) == 6
    one = CONFIG.model_copy(update={"prompts_per_step": 1})
    assert [edit.seed for part in draw(editor, tasks, one, first=1) for edit in part.edits] == both[3:]


def split(rollout: Sequence[Part], size: int) -> list[Part]:
    """The same rows in other micro batches."""
    parts = []
    for part in rollout:
        for start in range(0, len(part), size):
            rows, whole = slice(start, start + size), part.trajectory
            cut = replace(
                whole, latents=whole.latents[:, rows], log_probs=whole.log_probs[:, rows], means=whole.means[:, rows]
            )
            parts.append(Part(cut, part.conditioning.select(rows), part.edits[rows]))
    return parts


def test_accumulated_gradients_equal_those_of_one_batch(pipeline_folder: Path, tasks: Tasks) -> None:
    """Adam hides the scale of a gradient, so gradients are compared by their norm and weights after two updates."""
    norms, weights = [], []
    for size in (1, 2, 4):
        editor = load_editor(pipeline_folder)
        lora = wrap(editor)
        shake(lora)
        rollout = split(draw(editor, tasks), size)
        norms.append([update(editor, lora, rollout, torch.linspace(-1, 1, 6), CONFIG)["grad_norm"] for _ in range(2)])
        weights.append(torch.cat([parameter.detach().flatten() for parameter in lora.parameters.values()]))
    for other, weight in zip(norms[1:], weights[1:], strict=True):
        assert other == pytest.approx(norms[0], rel=1e-3)
        torch.testing.assert_close(weight, weights[0], rtol=1e-2, atol=1e-4)


# --- the loop ---


def learn(
    folder: Path,
    pipeline_folder: Path,
    tasks: Tasks,
    *,
    reward: RewardFn = redness,
    config: EditorGrpoConfig = CONFIG,
    resume: bool = False,
) -> tuple[Run, EditorPolicy]:
    run = Run.open(folder, config, resume)
    return run, train(load_editor(pipeline_folder), tasks, Judges(reward), config, run, seed=3, resume=resume)


def test_interrupted_and_resumed_equals_uninterrupted_bitwise(
    pipeline_folder: Path, tasks: Tasks, tmp_path: Path
) -> None:
    whole, expected = learn(tmp_path / "whole", pipeline_folder, tasks)
    calls = 0

    def interrupt(edits: Sequence[Edit]) -> list[Reward]:
        nonlocal calls
        calls += 1
        if calls == 6:  # the probe at 0, steps 1 and 2, the probe at 2, step 3; then Ctrl-C in step 4
            raise KeyboardInterrupt
        return redness(edits)

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "cut", pipeline_folder, tasks, reward=interrupt)
    assert read_metrics(tmp_path / "cut")[-1]["step"] == 3  # one more than the checkpoint: it will be done again
    torch.manual_seed(99)
    resumed, lora = learn(tmp_path / "cut", pipeline_folder, tasks, resume=True)
    for name, parameter in expected.parameters.items():
        assert torch.equal(lora.parameters[name], parameter), name
        assert torch.equal(lora.ema[name], expected.ema[name]), name
    assert [timeless(line) for line in resumed.metrics()] == [timeless(line) for line in whole.metrics()]
    tensors, state = load_checkpoint(whole.checkpoint)
    again, state_again = load_checkpoint(resumed.checkpoint)
    assert state == state_again
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)


def test_overlap_changes_nothing_but_the_time(pipeline_folder: Path, tasks: Tasks, tmp_path: Path) -> None:
    """The reward of an edit is a function of it alone; `redness` counts its batch, so it is asked for four at most."""

    def reward(edits: Sequence[Edit]) -> list[Reward]:
        return [each for start in range(0, len(edits), 4) for each in redness(edits[start : start + 4])]

    _, apart = learn(tmp_path / "apart", pipeline_folder, tasks, reward=reward)
    overlapping = CONFIG.model_copy(update={"overlap": True})
    run, lora = learn(tmp_path / "together", pipeline_folder, tasks, reward=reward, config=overlapping)
    assert all(torch.equal(lora.parameters[name], parameter) for name, parameter in apart.parameters.items())
    assert run.metrics()[-1]["probe_reward"] > 0.0


def test_one_category_alone_teaches_what_a_score_of_it_does(
    pipeline_folder: Path, tasks: Tasks, tmp_path: Path
) -> None:
    """`keep` weighs nothing, and `quality` is never asked about: what is left is 10 * follow, the other run's score."""

    def checks(edits: Sequence[Edit]) -> list[Reward]:
        shares = [None if each.score is None else each.score / 10 for each in redness(edits)]
        unread = Reward(None, failures={"no_score": 1})
        return [unread if x is None else Reward(1.0, {"follow": x, "keep": 1 - x * x}) for x in shares]

    _, expected = learn(tmp_path / "score", pipeline_folder, tasks)
    config = EditorGrpoConfig.model_validate({**CONFIG.model_dump(), "categories": {"keep": 0.0}})
    _, lora = learn(tmp_path / "categories", pipeline_folder, tasks, reward=checks, config=config)
    moved = apart = 0.0
    for name, parameter in expected.parameters.items():
        moved += parameter.abs().sum().item()
        apart += (lora.parameters[name] - parameter).abs().sum().item()
    assert apart < 1e-3 * moved
    both = EditorGrpoConfig.model_validate({**CONFIG.model_dump(), "categories": {"keep": 1.0}})
    _, other = learn(tmp_path / "both", pipeline_folder, tasks, reward=checks, config=both)
    assert any(not torch.allclose(other.parameters[n], p, rtol=1e-2) for n, p in expected.parameters.items())


def test_a_refused_model_leaves_no_run_behind(pipeline_folder: Path, tmp_path: Path) -> None:
    """The mended command is then no other run; neither is one whose tasks cannot be shared."""
    (tmp_path / "verifier").mkdir()
    (tmp_path / "verifier/config.json").write_text("{}")
    arguments: dict[str, Any] = {"data": tmp_path, "seed": 0, "out": tmp_path / "run", "resume": False}
    with pytest.raises(UserError, match="perhaps a verifier"):
        editor_grpo.run(CONFIG, model=tmp_path / "verifier", verifier=tmp_path / "none", **arguments)
    with pytest.raises(UserError, match="none"):
        editor_grpo.run(CONFIG, model=pipeline_folder, verifier=tmp_path / "none", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_judge_says_that_nobody_looks_on(
    pipeline_folder: Path, tasks: Tasks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of real tasks no oracle knows the truth; in the built-in world it is the judge."""
    config = CONFIG.model_copy(update={"steps": 1})
    real = Tasks(lambda i: replace(tasks.train(i), meta=""), tuple(replace(task, meta="") for task in tasks.probe))
    for own, told in ((real, True), (tasks, False)):
        run, _ = learn(tmp_path / f"run{told}", pipeline_folder, own, config=config)
        assert ("no editor_grpo.judge looks on" in capsys.readouterr().err) == told
        assert (run.metrics()[-1]["alarm_gap"] is None) == told


def test_a_run_interrupted_before_its_first_step_begins_again(
    pipeline_folder: Path, tasks: Tasks, tmp_path: Path
) -> None:
    def interrupt(edits: Sequence[Edit]) -> list[Reward]:
        if len(edits) > CONFIG.probe_tasks:
            raise KeyboardInterrupt
        return redness(edits)

    config = CONFIG.model_copy(update={"steps": 1})
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "run", pipeline_folder, tasks, reward=interrupt, config=config)
    run, _ = learn(tmp_path / "run", pipeline_folder, tasks, config=config, resume=True)
    assert [line["step"] for line in run.metrics()] == [0, 1]


def timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.startswith(("seconds_", "share_"))}


def test_reward_rises_and_the_run_is_recorded(pipeline_folder: Path, tasks: Tasks, tmp_path: Path) -> None:
    """The threshold is met with room for pipelines of three seeds (gains 0.25, 0.43 and 0.14 in 40 steps)."""
    changes = {"steps": 40, "prompts_per_step": 1, "group_size": 32, "micro_batch": 32, "shared_noise": True}
    config = CONFIG.model_copy(update={**changes, "sde_steps": (2, 3), "learning_rate": 0.03, "beta": 0.0})
    run, _ = learn(tmp_path / "run", pipeline_folder, tasks, config=config)
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(41))
    assert lines[-1]["probe_reward"] > lines[0]["probe_reward"] + 0.1
    expected = {"reward", "reward_std", "failure_rate", "kl", "clip_share", "grad_norm", "signal_share", "noop_rate"}
    expected |= {"seconds_sample", "seconds_verify", "seconds_update", "oracle_success", "loss", "ratio_shift"}
    assert expected | {"trace_failure_rate", "seconds_step"} <= set(lines[1])
    assert lines[1]["seconds_step"] >= lines[1]["seconds_sample"] + lines[1]["seconds_update"]
    shares = [lines[1][f"share_{part}"] for part in ("sample", "verify", "update")]
    assert shares[2] == lines[1]["seconds_update"] / lines[1]["seconds_step"]
    assert 0.5 < sum(shares) <= 1  # what is left is the recording
    probed = {f"probe_{name}" for name in ("reward", "noop_rate", "oracle_success", "oracle_follow", "oracle_keep")}
    assert probed <= set(lines[0]) & set(lines[2])
    assert lines[1]["failure_rate"] == 4 / 32  # members 5, 12, 19 and 26
    group = json.loads((tmp_path / "run/groups/000002/best/group.json").read_text())
    assert len(group["rewards"]) == len(group["advantages"]) == 32
    assert group["rewards"][5] is None
    assert group["advantages"][5] == 0.0
    assert (tmp_path / "run/groups/000002/worst/31.png").is_file()
    with Image.open(tmp_path / "run/groups/000002/worst/source.png") as source:
        assert source.size == (64, 64)


def test_several_updates_leave_the_ratio_and_may_clip(pipeline_folder: Path, tasks: Tasks, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 2, "updates_per_rollout": 3, "clip": 1e-6})
    run, lora = learn(tmp_path / "run", pipeline_folder, tasks, config=config)
    assert lora.updates == 6
    assert run.metrics()[-1]["clip_share"] > 0.0


def test_a_loss_that_is_not_finite_stops_with_a_clear_line_and_a_checkpoint(
    pipeline_folder: Path, tasks: Tasks, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "checkpoint_every": 1})
    with pytest.raises(UserError, match=r"diverged at step 2 .*Lower learning_rate \(now 1e\+30\)"):
        learn(tmp_path / "run", pipeline_folder, tasks, config=config)
    _, state = load_checkpoint(tmp_path / "run/checkpoint/state.safetensors")
    assert state["step"] == 1


def test_a_verifier_that_cannot_be_read_stops_the_run_and_nothing_is_lost(
    pipeline_folder: Path, tasks: Tasks, tmp_path: Path
) -> None:
    silent = [Reward(None, failures={"no_score": 2, "truncated": 1})]

    def reward(edits: Sequence[Edit]) -> list[Reward]:
        return silent * len(edits)

    with pytest.raises(UserError, match=r"in step 1 could be read \(no_score 12, truncated 6\).*checkpoint is"):
        learn(tmp_path / "run", pipeline_folder, tasks, reward=reward)
    _, state = load_checkpoint(tmp_path / "run/checkpoint/state.safetensors")
    assert state["step"] == 0


def test_a_reward_of_checks_needs_checks(pipeline_folder: Path, tasks: Tasks, tmp_path: Path) -> None:
    """A verifier that writes the score alone can be read, but teaches nothing where the reward is its checks."""
    config = EditorGrpoConfig.model_validate({**CONFIG.model_dump(), "categories": {}})
    with pytest.raises(UserError, match=r"in step 1 could be read \(they have no checks, and `categories`"):
        learn(tmp_path / "run", pipeline_folder, tasks, reward=lambda e: [Reward(5.0)] * len(e), config=config)


def test_an_alarm_that_is_over_is_recorded_as_over(tmp_path: Path) -> None:
    """The reward is far above the judge at step 2 and at its base's height again at step 4."""
    run, base = Run.open(tmp_path / "run", CONFIG), {"probe_reward": 2.0, "probe_judge": 0.2, "guard_diversity": 0.1}
    run.log(0, **base)
    found: list[dict[str, float]] = [base | {"probe_reward": reward} for reward in (9.0, 2.0)]
    assert list(raise_alarms(run, 2, found[0], CONFIG)) == ["gap"]
    assert raise_alarms(run, 4, found[1], CONFIG) == {}
    assert [(line["alarm_gap"], line["alarms"]) for line in found] == [(1, 1), (0, 0)]
    assert math.isnan(found[0]["alarm_blur"])  # nobody measured fine detail: that is no 0


def test_diversity_is_compared_with_that_of_the_first_step(tmp_path: Path) -> None:
    """The probe has one edit a task and no diversity: 0.04 in the groups of step 4 is under half of 0.1 in step 1's."""
    run = Run.open(tmp_path / "run", CONFIG)
    run.log(0, probe_reward=2.0)
    run.log(1, guard_diversity=0.1)
    fell: dict[str, float] = {"probe_reward": 2.0, "guard_diversity": 0.04}
    assert list(raise_alarms(run, 4, fell, CONFIG)) == ["diversity"]
    assert (fell["alarm_diversity"], fell["alarms"]) == (1.0, 1.0)
    assert raise_alarms(run, 4, fell | {"guard_diversity": 0.06}, CONFIG) == {}


def test_editors_that_copy_raise_the_alarm_before_the_run_ends(
    pipeline_folder: Path, tasks: Tasks, tmp_path: Path
) -> None:
    """A reward that only rises and an oracle that never agrees: the gap is an alarm; with `stop` the run ends there."""
    asked = 0

    def rising(edits: Sequence[Edit]) -> list[Reward]:
        nonlocal asked
        asked += 1
        return [Reward(min(10.0, asked + 0.1 * k)) for k in range(len(edits))]

    config = CONFIG.model_copy(update={"guards": CONFIG.guards.model_copy(update={"stop": True})})
    with pytest.raises(UserError, match=r"stopped at step 2, .*gap: the reward went from 1.15 to 4.15 .*checkpoint"):
        learn(tmp_path / "run", pipeline_folder, tasks, reward=rising, config=config)
    last = read_metrics(tmp_path / "run")[-1]
    assert last["step"] == 2
    assert last["alarm_gap"] == 1.0
    assert last["alarms"] >= 1.0
    _, state = load_checkpoint(tmp_path / "run/checkpoint/state.safetensors")
    assert state["step"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "nft", "kernel": "ode", "kl": "velocity"},
        {"objective": "guard", "clip": 0.1},
        {"kernel": "dance_sde", "noise_level": 0.5, "kl": "velocity"},
        {"window": "random", "sde_steps": (0, 1, 2), "window_size": 1, "kernel": "cps", "noise_level": 0.7},
        {"lora_rank": 0, "learning_rate": 1e-3},
        {"gradient_checkpointing": True},
        {"bf16": True},
    ],
    ids=["clip", "nft", "guard", "dance", "random window", "all weights", "checkpointing", "bf16"],
)
def test_every_kind_of_update_makes_what_was_better_likelier(
    changes: dict[str, Any], pipeline_folder: Path, tasks: Tasks
) -> None:
    """Of one rollout: where the advantage is positive the likelihood rises by more than where it is negative.

    DiffusionNFT has no likelihood; there it is the velocity's error on the image that falls.
    """
    config = EditorGrpoConfig.model_validate({**CONFIG.model_dump(), "clip": 0.1, "learning_rate": 1e-3, **changes})
    editor = editor_grpo._open_editor(pipeline_folder, config, "cpu")
    policy = wrap(editor, config=config)
    assert {parameter.dtype for parameter in policy.parameters.values()} == {torch.float32}
    parts = draw(editor, tasks, config)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    before = liking(editor, parts, config)
    for _ in range(3):
        update(editor, policy, parts, advantages, config)
    gains = liking(editor, parts, config) - before
    assert gains[advantages > 0].mean() > gains[advantages < 0].mean() + 1e-6


def liking(editor: Editor, parts: Sequence[Part], config: EditorGrpoConfig) -> Tensor:
    """How likely a rollout's edits are now; for `nft` minus the error at the practised noise levels."""
    found: list[Tensor] = []
    for part in parts:
        predicted, trajectory = velocity_fn(editor, part.conditioning, config), part.trajectory
        with torch.no_grad():
            rows = [-(predicted(p.x, p.sigma) - p.target).square().flatten(1).mean(1) for p in part.practice]
            for index in trajectory.steps:
                now = predicted(trajectory.latents[index], trajectory.sigmas[index])
                rows.append(log_prob(trajectory.latents[index + 1], step_transition(now, trajectory, index, config)))
        found.append(torch.stack(rows).mean(0))
    return torch.cat(found)


# --- the stage ---


def test_run_stops_at_a_random_verifier_goes_on_with_a_readable_one_and_leaves_lora_and_model(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random verifier writes nothing readable; the resumed run, given another one, ends with LoRA and model."""
    processor = build_processor(vocabulary(), TinySize().patch)
    size = TinySize(hidden=32, layers=1, heads=2, vision_hidden=32, vision_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        verifier = build_tiny_qwen(size, processor.tokenizer)
    verifier.save_pretrained(tmp_path / "verifier")
    processor.save_pretrained(tmp_path / "verifier")
    config = CONFIG.model_copy(update={"steps": 1, "max_tokens": 8, "probe_tasks": 2})
    arguments: dict[str, Any] = {"data": tmp_path, "model": pipeline_folder, "seed": 0, "out": tmp_path / "run"}
    with pytest.raises(UserError, match="none of the verifier's answers in step 1 could be read"):
        editor_grpo.run(config, **arguments, verifier=tmp_path / "verifier", resume=False)

    monkeypatch.setattr(editor_grpo, "reward_function", lambda *_: redness)
    editor_grpo.run(config, **arguments, verifier=tmp_path / "verifier", resume=True)
    done = json.loads((tmp_path / "run/done.json").read_text())
    assert done["failure_rate"] == pytest.approx(1 / 6)
    assert done["edits"] == 6
    assert load_editor(tmp_path / "run/model").width == 64
    assert (tmp_path / "run/lora/pytorch_lora_weights.safetensors").is_file()
    editor_grpo.run(config, **arguments, verifier=tmp_path / "verifier", resume=True)  # finished: returns at once
