"""The benchmarks of editor GRPO: what they compare is equal where it should be, and what they count is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import kontext_step, update_time, verifier_step
from benchmarks.kontext_floor import Passes, Work, count_passes, step_work, verifier_work
from benchmarks.kontext_random import SCALES
from benchmarks.update_forms import (
    Cell,
    EachEdit,
    Objective,
    forms,
    gradient_difference,
    one_step,
    open_editor,
    open_policy,
    sample_tasks,
)
from tests.training.tiny_editor import tiny_editor
from tests.training.tiny_run import tiny_verifier

from edit_r1 import assets
from edit_r1.editors.base import Conditioning
from edit_r1.editors.kontext import KontextEditor
from edit_r1.records import Edit, EditTask
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.architecture import read_architecture
from edit_r1.training.contrast import contrast
from edit_r1.training.doctor import examine, prompt_tokens
from edit_r1.training.editor_rewards import Reward
from edit_r1.training.editor_rollout import Draw
from edit_r1.verifier.prompting import chat_message

VERIFIER_CONFIG = assets.VERIFIER / "config.json"


@pytest.fixture(scope="module")
def editor_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_editor(tmp_path_factory.mktemp("benchmark") / "editor")


@pytest.mark.parametrize(("objective", "window"), [("clip", (0,)), ("clip", (0, 1)), ("nft", (0,))])
def test_both_forms_give_the_same_gradient(editor_folder: Path, objective: Objective, window: tuple[int, ...]) -> None:
    """The same tasks, noise, advantages and window: they differ by the size of the encoders' batches alone.

    Float32 has a relative precision of 6e-8; some hundred additions in a row leave far less than 1e-4.
    """
    cell = Cell(2, 3, 64, objective)
    assert gradient_difference(editor_folder, cell, window, sample_tasks(2, 0)) < 1e-4


def test_a_wrong_gradient_is_seen(editor_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the update of the naive form sees the conditioning of another task, the gradients are far apart."""
    right = EachEdit.encode_each

    def exchanged(self: EachEdit, tasks: Sequence[EditTask]) -> Conditioning:
        return right(self, tasks[::-1])

    monkeypatch.setattr(EachEdit, "encode_each", exchanged)
    assert gradient_difference(editor_folder, Cell(2, 3, 64), (0,), sample_tasks(2, 0)) > update_time.TOLERANCE


def test_what_the_naive_form_does_more(editor_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks, groups of 2, 4 steps. Ours: one call of the encoder for both tasks, one of the verifier, one step.

    Naive: the encoder once per edit for the rollout and once for the update, 8 calls; 4 calls of the verifier; steps
    0 to 2, for the last of the kernel CPS is deterministic. Trained steps are seen in the transformer's passes: 4 to
    sample, and 2 (of the base and of the trained weights) for each.
    """
    encoded: list[int] = []
    encode = KontextEditor.encode

    def counted(self: KontextEditor, tasks: Sequence[EditTask]) -> Conditioning:
        encoded.append(len(tasks))
        return encode(self, tasks)

    monkeypatch.setattr(KontextEditor, "encode", counted)
    editor = open_editor(editor_folder)
    policy = open_policy(editor, 1e-3)
    passes: list[int] = []
    editor.transformer.register_forward_hook(lambda module, inputs, output: passes.append(1))
    seen: dict[str, tuple[list[int], list[int], int]] = {}
    for name, form in forms(editor, Cell(2, 4, 64)).items():
        asked: list[int] = []

        def reward(edits: Sequence[Edit], asked: list[int] = asked) -> list[Reward]:
            asked.append(len(edits))
            return [Reward(None, {}, {"format": 1})] * len(edits)

        encoded.clear()
        passes.clear()
        seconds, unreadable = one_step(form, policy, reward, sample_tasks(2, 1), Draw(0, 1))
        assert unreadable == 1.0
        assert seconds.keys() == {*update_time.PARTS, "processor"}
        seen[name] = (list(encoded), asked, len(passes))
    assert seen == {"ours": ([2], [4], 4 + 2), "naive": ([1] * 8, [1] * 4, 4 + 2 * 3)}


def test_one_thing_is_varied_at_a_time() -> None:
    assert update_time.cells([8, 4, 16], [4, 8], [64], ["clip", "nft"]) == [
        Cell(8, 4, 64),
        Cell(8, 4, 64, "nft"),
        Cell(4, 4, 64),
        Cell(16, 4, 64),
        Cell(8, 8, 64),
    ]


def test_update_time_writes_what_it_measured(
    editor_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shares of a form add up to 1, and the ratio is that of the two medians (here of one step each)."""
    judge, out = tiny_verifier(tmp_path / "verifier"), tmp_path / "times.json"
    sizes = ["--groups", "2", "--steps", "2", "--sides", "64", "--prompts", "1", "--repeats", "1"]
    sizes += ["--threads", str(torch.get_num_threads())]
    update_time.main(["--editor", str(editor_folder), "--verifier", str(judge), *sizes, "--out", str(out)])
    document = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert [cell["objective"] for cell in document["cells"]] == ["clip", "nft"]
    for cell in document["cells"]:
        assert cell["ratio"] == pytest.approx(cell["naive"]["seconds"] / cell["ours"]["seconds"])
        for form in ("ours", "naive"):
            assert sum(cell[form]["shares"].values()) == pytest.approx(1)
            assert sum(cell[form]["parts"].values()) == pytest.approx(cell[form]["seconds"])
        assert f"{cell['ratio']:.1f}" in printed
    assert max(document["gradient_difference"].values()) < update_time.TOLERANCE


def test_operations_of_the_transformer_by_hand() -> None:
    """A product of [m, k] and [k, n] is 2 m k n operations; nothing else counts.

    For one row, with

        L latent and reference tokens, T of text, S = L + T, width w, channels c, text width j, pooled width p, rank r

        ends         embedders 2 L c w + 2 T j w, time and guidance 2 * 2 (256 w + w^2), pooled 2 (p w + w^2);
                     the last modulation 2 w 2w, the last layer 2 L w c
        double       two modulations 2 * 2 w 6w; q, k, v, out and an MLP of 4w: 2 S (4 + 8) w^2; attention 2 * 2 S^2 w
        single       a modulation 2 w 3w; q, k, v (3 w^2), MLP (4 w^2), out from both (5 w^2): 2 S 12 w^2; attention
        LoRA         2 r (in + out) per token and layer: double 4 * 2w + 2 * 5w = 18w; single 3 * 2w + 5w + 6w = 17w;
                     the last layer w + c for L tokens

    The tiny scale: 64 pixels are (64 / 16)^2 = 16 tokens, twice.
    """
    scale, r = SCALES["tiny"], 8
    c, j, p, w = 16, 24, 12, 32
    latent, text = 2 * 16, 8
    every = latent + text
    ends = 2 * latent * c * w + 2 * text * j * w + 4 * (256 * w + w**2) + 2 * (p * w + w**2)
    ends += 2 * w * 2 * w + 2 * latent * w * c
    double = 2 * 2 * w * 6 * w + 2 * every * 12 * w**2 + 4 * every**2 * w
    single = 2 * w * 3 * w + 2 * every * 12 * w**2 + 4 * every**2 * w
    lora = 2 * r * (every * (18 * w + 2 * 17 * w) + latent * (w + c))
    passes = count_passes(scale, 64, EditorGrpoConfig(lora_rank=r, gradient_checkpointing=True))
    assert passes.base == ends + double + 2 * single
    assert passes.forward == passes.base + lora
    # Backward: LoRA needs two products for each of the forward pass; a frozen layer one, if anything before it learns.
    assert passes.forward + passes.base / 2 + 2 * lora < passes.training < 3 * passes.forward


def test_the_work_of_a_step_by_hand() -> None:
    """Six rows in micro batches of 4 are 2 batches; 5 sampling steps, 2 of them trained; weights of 100 bytes.

    Sampling: 6 * 5 * 10 operations, and 2 * 5 readings of the weights. Update: 6 * 2 * (8 + 25) operations, 2 * 2 * 3
    readings and 10 float32 numbers for each of 3 trained ones; without a KL 6 * 2 * 25, and two readings for three.
    """
    settings: dict[str, Any] = {"sample_steps": 5, "sde_steps": (0, 1), "micro_batch": 4}
    passes = Passes(forward=10, base=8, training=25)
    work = step_work(passes, 6, EditorGrpoConfig(**settings, gradient_checkpointing=True), 100, 3)
    assert work == {"sample": Work(300, 1000), "update": Work(396, 1200 + 120, 120)}
    work = step_work(passes, 6, EditorGrpoConfig(**settings, beta=0.0), 100, 3)
    assert work["update"] == Work(300, 800 + 120)
    assert Work(300, 1000).floor(peak=100, bandwidth=500) == 3
    assert Work(300, 1000).floor(peak=300, bandwidth=500) == 2


def test_kontext_step_runs_on_the_tiny_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MFU is operations / (seconds * peak), of each part and of the step; the step's floor is the sum of the parts'.

    The pictures of 64 pixels are 2 * 8^2 patches of 8 pixels for the verifier, and 2 * 16 tokens.
    """
    out, peak = tmp_path / "step.json", 1e9
    arguments = ["--scale", "tiny", "--group", "3", "--micro-batch", "2", "--rank", "4", "--sample-steps", "3"]
    arguments += ["--trained-steps", "2", "--repeats", "1", "--max-tokens", "2", "--verify-batch", "2", "--no-bf16"]
    arguments += ["--verifier-config", str(VERIFIER_CONFIG), "--peak-tflops", "0.001", "--bandwidth", "1"]
    kontext_step.main([*arguments, "--out", str(out)])
    document = json.loads(out.read_text())
    parts = document["parts"]
    config = EditorGrpoConfig(lora_rank=4, lora_alpha=4)
    passes = count_passes(SCALES["tiny"], 64, config)
    assert parts["sample"]["operations"] == 3 * 3 * passes.forward
    assert parts["update"]["operations"] == 3 * 2 * (passes.base + passes.training)
    size = read_architecture(VERIFIER_CONFIG)
    prompt = prompt_tokens("verify", 32)
    assert parts["verify"]["operations"] == verifier_work(size, 3, prompt, 128, 2, 2).operations
    for part in parts.values():
        assert part["mfu"] == pytest.approx(part["operations"] / (part["seconds"] * peak))
    again = 3 * 2 * passes.forward
    assert parts["update"]["hfu"] / parts["update"]["mfu"] == pytest.approx(1 + again / parts["update"]["operations"])
    assert sum(parts[name]["floor_seconds"] for name in kontext_step.PARTS) == pytest.approx(
        parts["step"]["floor_seconds"]
    )
    assert sum(parts[name]["share"] for name in kontext_step.PARTS) == pytest.approx(1)
    # LoRA of rank 4: the double block's layers twice (of text and image), two single blocks, the last layer.
    assert document["trained_parameters"] == 4 * (2 * 18 * 32 + 2 * 17 * 32 + 32 + 16)
    assert f"{parts['step']['seconds']:.3f}" in capsys.readouterr().out


def test_the_summary_of_two_steps_by_hand() -> None:
    """Medians of 1 and 3, 2 and 4, 5 and 5 seconds are 2, 3 and 5: shares 20%, 30% and 50%.

    A card of 100 operations and 10 bytes per second: sampling needs max(80 / 100, 4 / 10) = 0.8 s and has an MFU of
    80 / (2 * 100), with 40 more computed again an HFU of 120 / 200; verifying needs 20 / 10 = 2 s. Of an unknown card
    nothing is said.
    """
    turns = [
        {
            name: {"seconds": seconds, "bytes": size}
            for name, seconds, size in zip(kontext_step.PARTS, row, (7, 0, 9), strict=True)
        }
        for row in ((1.0, 2.0, 5.0), (3.0, 4.0, 5.0))
    ]
    work = {"sample": Work(80, 4, 40), "verify": Work(10, 20), "update": Work()}
    parts = kontext_step.summary(turns, work, (100, 10))
    assert [parts[name]["seconds"] for name in parts] == [2, 3, 5, 10]
    assert [parts[name]["share"] for name in parts] == [0.2, 0.3, 0.5, 1]
    assert [parts[name]["floor_seconds"] for name in parts] == [0.8, 2, 0, 2.8]
    assert [parts[name]["peak_bytes"] for name in parts] == [7, None, 9, 9]
    assert (parts["sample"]["mfu"], parts["sample"]["hfu"]) == (0.4, 0.6)
    assert parts["step"]["mfu"] == 90 / 1000
    unknown = kontext_step.summary(turns, work, None)
    assert {part[key] for part in unknown.values() for key in ("mfu", "hfu", "floor_seconds")} == {None}


@pytest.mark.parametrize("recipe", ["smoke", "qwen_vl/qwen2_5_vl_7b", "qwen_vl/qwen3_vl_8b"])
def test_rows_of_the_verifiers_steps_are_as_long_as_the_doctor_counts(recipe: str) -> None:
    """The chat's own words included; two pictures have all of the patches."""
    report = examine(recipe, None, 1, 80 << 30)
    bench = verifier_step.Bench(report.size, VERIFIER_CONFIG, steps=1)
    for stage in report.stages:
        row = bench.row(stage.work)
        chat = [chat_message(row["prompt"][0]["content"], 2)]
        text = bench.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        read = bench.processor(text=[text], images=[row["images"]], return_tensors="pt")
        assert read["input_ids"].shape[1] == stage.work.prompt
        assert len(read["pixel_values"]) == stage.work.patches


def test_every_trace_of_the_verifiers_steps_is_learnt_from() -> None:
    """Winner's trace k of 4 is above k + 1 losers', 4 - k winners' are above loser's trace k: the mean is 2.5."""
    scores = torch.tensor(verifier_step.scores_of(4)([None] * 8)).view(1, 2, 4)
    rewards = contrast(scores)
    assert (4 * rewards).tolist() == [[[1, 2, 3, 4], [4, 3, 2, 1]]]
    assert (rewards - rewards.mean(2, keepdim=True)).all()


def test_verifier_step_runs_on_the_tiny_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two pairs of 4 traces each make 16 rows; a row has the doctor's tokens, of which `max_tokens` are written."""
    out = tmp_path / "step.json"
    settings = ["gcpo.max_tokens=3", "cold_start.batch_size=2"]
    chosen = [part for setting in settings for part in ("--set", setting)]
    verifier_step.main(["--recipe", "smoke", "--steps", "2", *chosen, "--out", str(out)])
    document = json.loads(out.read_text())
    stages = {stage.name: stage for stage in examine("smoke", None, 1, 80 << 30, settings).stages}
    for name, rows, steps in (("cold_start", 2, 2), ("gcpo", 16, 1)):
        work, found = stages[name].work, document[name]
        assert (found["rows"], found["steps"]) == (rows, steps)
        assert found["tokens"] == rows * (work.prompt + 3)
        assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])
    assert document["gcpo"]["written_per_second"] == pytest.approx(16 * 3 / document["gcpo"]["writing"])
    assert document["gcpo"]["writing"] < document["gcpo"]["seconds"]
    assert "tokens/s" in capsys.readouterr().out
