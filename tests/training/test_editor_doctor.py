"""The doctor for editors: that every shipped recipe is sound, what it counts, and what it refuses with which mend."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edit_r1 import assets
from edit_r1.cli.main import app
from edit_r1.config import load_recipe, presets, sections
from edit_r1.errors import UserError
from edit_r1.stages import EditorGrpoConfig, RewardConfig
from edit_r1.training.editor_architecture import read_description
from edit_r1.training.editor_doctor import (
    EditorReport,
    check_editor_fit,
    editor_work,
    examine_editor,
    verifiers_beside,
)
from edit_r1.training.editor_memory import Beside, EditorWork

GIB = 2**30
GPUS = {"gpus_1": 1, "gpus_8": 8, "gpus_4x8": 32}
REAL = [name for name in presets() if name.partition("/")[0] in ("flux_kontext", "qwen_image_edit")]
QWEN_7B = 8_292_166_656


@cache
def report(recipe: str) -> EditorReport:
    return examine_editor(recipe, None, GPUS[recipe.partition("/")[2]])


@pytest.mark.parametrize("recipe", REAL)
def test_recipes_of_real_editors_parse(recipe: str) -> None:
    """Eight edits of a task on one GPU and the paper's 24 on more, whose number divides the tasks."""
    assert sections(recipe) == (("editor_grpo", "sample") if recipe.endswith("gpus_1") else ("editor_grpo",))
    config = load_recipe(EditorGrpoConfig, recipe, (), "editor_grpo")
    gpus = GPUS[recipe.partition("/")[2]]
    assert (config.lora_rank, config.lora_alpha, config.height, config.width) == (64, 128, 512, 512)
    assert config.bf16
    assert config.gradient_checkpointing
    assert config.shard == (gpus > 1)
    assert config.group_size == (8 if gpus == 1 else 24)
    assert editor_work(config, gpus).edits % config.micro_batch == 0
    assert len(REAL) == 2 * len(GPUS)


@pytest.mark.parametrize(
    ("recipe", "transformer", "frozen", "adapted"),
    [
        # Frozen: T5-XXL's encoder, CLIP-L and the VAE; adapted: 19 blocks of two streams, 38 of one, the last layer.
        (
            "flux_kontext/gpus_1",
            11_901_408_320,
            4_762_310_656 + 123_060_480 + 83_819_683,
            19 * (8 * (3072 + 3072) + 4 * (3072 + 12288))
            + 38 * (3 * (3072 + 3072) + (3072 + 12288) + (3072 + 12288 + 3072))
            + (3072 + 64),
        ),
        # Frozen: Qwen2.5-VL-7B and the VAE; 60 blocks of two streams.
        (
            "qwen_image_edit/gpus_8",
            20_430_401_088,
            QWEN_7B + 126_892_531,
            60 * (8 * (3072 + 3072) + 4 * (3072 + 12288)),
        ),
    ],
)
def test_the_editors_are_the_published_ones_and_fit(recipe: str, transformer: int, frozen: int, adapted: int) -> None:
    """Adapters of rank 64 have 64 numbers for each input and output of an adapted layer."""
    found = report(recipe)
    assert (found.size.transformer, found.size.frozen) == (transformer, frozen)
    assert found.size.trained == 64 * adapted
    check_editor_fit(found, 80 * GIB)


def test_disk_and_verifier_by_hand() -> None:
    """A checkpoint has weights, mean and two states (16 bytes a number), and two lie there; results are in bfloat16."""
    found = report("flux_kontext/gpus_1")
    numbers = found.size.transformer + found.size.frozen
    assert found.disk.checkpoints == 2 * 16 * found.size.trained
    assert (found.disk.model, found.disk.result) == (2 * numbers, 2 * numbers + 4 * found.size.trained)
    assert found.memory.beside.weights == 2 * QWEN_7B
    assert found.assumed == ("runs/gcpo_7b/model",)


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen-Image-Edit and verifiers of the Qwen-VL kind need torchvision; Kontext with a server needs nothing."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [line.split()[0] for line in report("qwen_image_edit/gpus_8").missing] == ["torchvision"]
    assert [line.split()[0] for line in report("flux_kontext/gpus_1").missing] == ["torchvision"]
    assert report("flux_kontext/gpus_8").missing == ()
    assert examine_editor("world/default", None, gpus=1).missing == ()


def test_the_settings_of_a_reward_are_counted(tmp_path: Path) -> None:
    """The cache grows with the tokens of a trace, and with traces until `verify_batch` are written together."""
    (tmp_path / "config.json").write_text((assets.VERIFIER / "config.json").read_text())

    def cache(**own: Any) -> int:
        config = EditorGrpoConfig(
            rewards=(RewardConfig(folder=str(tmp_path), **own),), height=64, width=64, verify_batch=16, temperature=1.0
        )
        return verifiers_beside(config, EditorWork(tasks=1, edits=8, rows=4))[0].cache

    assert cache() < cache(max_tokens=1000) < cache(max_tokens=1000, traces=2) == cache(max_tokens=1000, traces=4)


def test_only_verifiers_on_the_same_gpu_count(tmp_path: Path) -> None:
    """The tiny one has 2,388,640 numbers in float32; one on another GPU or a server has none here, a judge counts."""
    (tmp_path / "config.json").write_text((assets.VERIFIER / "config.json").read_text())
    work = EditorWork(tasks=1, edits=8, rows=4)

    def weights(*rewards: dict[str, Any], **more: Any) -> int:
        config = EditorGrpoConfig.model_validate_json(
            json.dumps({"rewards": rewards, "height": 64, "width": 64, **more})
        )
        return verifiers_beside(config, work)[0].weights

    here = {"folder": str(tmp_path)}
    server = {"endpoint": {"base_url": "http://x/v1", "model": "m"}}
    assert weights(here) == 4 * 2_388_640
    assert weights({**here, "device": "cuda:1"}, server) == 0
    assert weights(server, judge=here) == 4 * 2_388_640
    assert weights() == 2 * QWEN_7B  # that of the command line


@pytest.mark.parametrize(
    ("changes", "card", "mend"),
    [
        ({}, 60, r"needs 58\.\d GiB on each GPU, and 54\.0 of 60\.0 are usable: give the verifier a GPU of its own"),
        ({"activations": 90 * GIB}, 80, r"lower editor_grpo\.micro_batch, editor_grpo\.height or editor_grpo\.width$"),
        ({"optimiser": 90 * GIB}, 80, r"set editor_grpo\.shard=true and take more GPUs$"),
        ({"loading": 90 * GIB}, 80, r"every process loads the whole editor before it is sharded; take larger cards$"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_mend(changes: dict[str, int], card: int, mend: str) -> None:
    found = report("flux_kontext/gpus_1")
    found = replace(found, memory=replace(found.memory, **changes))
    with pytest.raises(UserError, match=mend):
        check_editor_fit(found, card * GIB)


def test_all_weights_are_advised_against_where_they_do_not_fit() -> None:
    found = report("flux_kontext/gpus_1")
    config = found.config.model_copy(update={"lora_rank": 0, "gradient_checkpointing": False})
    memory = replace(found.memory, beside=Beside(), transformer=200 * GIB)
    with pytest.raises(UserError, match=r"take more GPUs, or set editor_grpo\.lora_rank=64"):
        check_editor_fit(replace(found, config=config, memory=memory), 80 * GIB)
    memory = replace(memory, transformer=0, activations=200 * GIB)
    with pytest.raises(UserError, match=r"set editor_grpo\.gradient_checkpointing=true, or lower"):
        check_editor_fit(replace(found, config=config, memory=memory), 80 * GIB)


def test_mistakes_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prompts_per_step 4 cannot be shared by 3 GPUs"):
        examine_editor("flux_kontext/gpus_1", None, 3)
    with pytest.raises(UserError, match=r"multiples of 16, got 500x512"):
        examine_editor("flux_kontext/gpus_1", None, 1, ["editor_grpo.height=500"])
    with pytest.raises(UserError, match=r"--set gcpo\.steps=3: start with a section, as in editor_grpo\.key=value"):
        examine_editor("flux_kontext/gpus_1", None, 1, ["gcpo.steps=3"])
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match="describes no editor but a FluxPipeline; known are FluxKontextPipeline"):
        read_description(tmp_path)
    with pytest.raises(UserError, match=r"none/model_index\.json cannot be read"):
        read_description(tmp_path / "none")


def test_the_command(tmp_path: Path) -> None:
    """An editor's folder; a recipe of the world has verifier and editor; one line and exit code 2 where it is too much.

    2,345,744 numbers of the transformer and 379,963 of text encoders and VAE.
    """
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[editor_grpo]\nlora_rank = 4\n")
    own = CliRunner().invoke(app, ["doctor", str(recipe), "--model", str(assets.EDITOR)])
    assert own.exit_code == 0, own.output
    assert "FluxKontextPipeline, 2,725,707 parameters (2,345,744 in the transformer); 1 GPU of 80.0 GiB" in own.stdout
    assert "verifier counted as a Qwen2.5-VL-7B, for it is not there: the one of --verifier" in own.stdout
    small = CliRunner().invoke(app, ["doctor", "smoke", "--gpu-memory", "0.1", "--set", "editor_grpo.micro_batch=6"])
    assert small.exit_code == 2
    assert small.stdout.count("peak on each GPU") == 3
    [line] = small.stderr.splitlines()
    assert line.startswith("error: [")
    recipe.write_text("[world]\n")
    none = CliRunner().invoke(app, ["doctor", str(recipe)])
    assert "has none of the sections cold_start, gcpo, editor_grpo" in none.stderr
