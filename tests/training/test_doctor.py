"""The doctor: what it reads of a recipe, what it refuses, and that every shipped recipe is sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from typer.testing import CliRunner

from edit_r1.cli.main import app
from edit_r1.config import load_recipe, presets, sections
from edit_r1.errors import UserError
from edit_r1.stages import BackboneConfig, ColdStartConfig, EvaluateConfig, GcpoConfig
from edit_r1.training import doctor
from edit_r1.training.architecture import read_architecture
from edit_r1.training.doctor import Stage, check_fit, disk, examine, missing_packages, prompt_tokens
from edit_r1.verifier.prompting import load_template

GIB = 2**30
RECIPES = Path(doctor.__file__).parents[1] / "recipes"
REAL = [name for name in presets() if name.startswith("qwen_vl/qwen")]
# As the models' own cards state them.
PARAMETERS = {
    "qwen2_5_vl_3b": 3_754_622_976,
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen3_vl_4b": 4_437_815_808,
    "qwen3_vl_8b": 8_767_123_696,
}
ALL_WEIGHTS = ("cold_start.backbone.lora_rank=0", "gcpo.backbone.lora_rank=0")


def stages(recipe: str, gpus: int = 1, overrides: tuple[str, ...] = ()) -> dict[str, Stage]:
    return {stage.name: stage for stage in examine(recipe, None, gpus, 80 * GIB, overrides).stages}


@pytest.mark.parametrize("recipe", REAL)
def test_recipes_of_real_models_parse_and_fit_their_gpus(recipe: str) -> None:
    """With adapters on one GPU of 80 GiB; with all weights on eight, as the recipe's head says.

    A verifier is measured as it was trained: by the same prompt, with traces as long.
    """
    assert sections(recipe) == ("cold_start", "gcpo", "evaluate")
    trained = load_recipe(GcpoConfig, recipe, (), "gcpo")
    measured = load_recipe(EvaluateConfig, recipe, (), "evaluate")
    assert (measured.template, measured.max_tokens) == (trained.backbone.template, trained.max_tokens)
    for config in (load_recipe(ColdStartConfig, recipe, (), "cold_start"), trained):
        assert config.backbone.template == "verify"
        assert config.backbone.bf16
        assert config.backbone.gradient_checkpointing
    for found in (stages(recipe), stages(recipe, 8, ALL_WEIGHTS)):
        for stage in found.values():
            check_fit(stage, 80 * GIB)


def test_the_architectures_are_those_of_the_published_models() -> None:
    found = {path.stem: read_architecture(path).parameters for path in sorted((RECIPES / "qwen_vl").glob("*.json"))}
    assert found == PARAMETERS
    assert {name.removeprefix("qwen_vl/") for name in REAL} == set(PARAMETERS)


@pytest.mark.parametrize(("name", "processes"), [("gpus_1", 1), ("gpus_8", 8), ("gpus_4x8", 32)])
def test_accelerate_reads_its_configurations(name: str, processes: int) -> None:
    """Unknown keys are errors there; the wrapped layers are left to the model, and checkpointing to the recipe."""
    path = RECIPES / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.num_processes == processes
    assert config.mixed_precision == "bf16"
    sharding = yaml.safe_load(path.read_text()).get("fsdp_config", {})
    assert bool(sharding) == (processes > 1)
    if sharding:
        assert sharding["fsdp_version"] == 2
        assert sharding["fsdp_activation_checkpointing"] is False
        assert "fsdp_transformer_layer_cls_to_wrap" not in sharding


def test_the_step_of_a_recipe_by_hand() -> None:
    """401408 pixels are 2048 patches of 14 x 14 and 512 tokens; a prompt has two images, so 4096 and 1024.

    Of 2 x 8 x 8 = 128 traces, 8 are learnt from at once. vLLM takes 30% of 80 GiB and nothing is cached by us.
    """
    stage = stages("qwen_vl/qwen2_5_vl_3b")["gcpo"]
    letters = len(load_template("verify")) + 200 + 10 * 100
    assert (stage.work.rows, stage.work.patches, stage.work.answer) == (8, 4096, 1024)
    assert stage.work.prompt == prompt_tokens("verify", 1024) == 1024 + letters // 4
    assert (stage.memory.reserved, stage.memory.cache) == (24 * GIB, 0)
    plain = stages("qwen_vl/qwen2_5_vl_3b", overrides=("gcpo.vllm=off",))["gcpo"]
    assert (plain.work.written, plain.memory.reserved) == (128, 0)
    probed = stages("qwen_vl/qwen2_5_vl_3b", overrides=("gcpo.probe=runs/traces",))["gcpo"]
    assert (probed.work.written, probed.memory.reserved) == (128, 24 * GIB)
    assert plain.memory.cache > 0


def test_twice_the_pixels_need_more() -> None:
    """Twice the patches, and 1024 more tokens for each row; states do not change."""
    before = stages("qwen_vl/qwen2_5_vl_3b")["cold_start"]
    after = stages("qwen_vl/qwen2_5_vl_3b", overrides=("cold_start.backbone.max_pixels=802816",))["cold_start"]
    assert after.work.patches == 2 * before.work.patches
    assert after.work.prompt == before.work.prompt + 1024
    assert after.memory.activations > 1.25 * before.memory.activations
    assert after.memory.weights == before.memory.weights


def test_disk_by_hand() -> None:
    """A checkpoint has what is trained (4 bytes) and two states (8 bytes), and two of them lie there for a moment."""
    size = read_architecture(RECIPES / "qwen_vl" / "qwen2_5_vl_3b.json")
    full = disk(size, BackboneConfig(bf16=True), size.parameters)
    assert (full.model, full.checkpoints, full.result) == tuple(k * size.parameters for k in (2, 24, 4))
    adapters = 16 * size.adapted_width
    lora = disk(size, BackboneConfig(bf16=True, lora_rank=16), adapters)
    assert (lora.checkpoints, lora.result) == (24 * adapters, 2 * size.parameters + 4 * adapters)


@pytest.mark.parametrize(
    ("overrides", "mend"),
    [
        (
            ALL_WEIGHTS,
            r"\[cold_start\] needs 13\d\.\d GiB .* set cold_start\.backbone\.lora_rank=64, or shard over more",
        ),
        (
            ("cold_start.micro_batch=16", "cold_start.backbone.gradient_checkpointing=false"),
            "gradient_checkpointing=true",
        ),
        (("gcpo.backbone.max_pixels=100000000",), r"lower gcpo\.micro_batch or gcpo\.backbone\.max_pixels"),
        (("gcpo.vllm=off", "gcpo.pairs_per_step=64"), r"lower gcpo\.pairs_per_step, gcpo\.traces or gcpo\.max_tokens"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_mend(overrides: tuple[str, ...], mend: str) -> None:
    """The line names the settings that the largest part depends on."""
    name = overrides[0].partition(".")[0]
    found = stages("qwen_vl/qwen2_5_vl_7b", overrides=overrides)[name]
    with pytest.raises(UserError, match=mend):
        check_fit(found, 80 * GIB)


def test_vllm_must_hold_the_model_in_its_share() -> None:
    """30% of 40 GiB are 12, and 8.29 billion numbers in bfloat16 are 15.4."""
    found = examine("qwen_vl/qwen2_5_vl_7b", None, 8, 40 * GIB).stages[1]
    with pytest.raises(UserError, match=r'vLLM takes 30% of a GPU, 12\.0 GiB.*15\.4: set gcpo\.vllm="server"'):
        check_fit(found, 40 * GIB)


def test_the_world_needs_no_extras_and_a_stock_processor_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert examine("smoke", None, 1, 8 * GIB).missing == ()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [line.split()[0] for line in missing_packages(vllm=True, stock_processor=True)] == ["vllm", "torchvision"]


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    """The model's folder comes first, then the JSON file beside the recipe; images need a limit from somewhere."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[cold_start]\nsteps = 3\n")
    assert examine(str(recipe), None, 1, GIB).size.parameters == 2_388_640
    described = (RECIPES / "qwen_vl" / "qwen3_vl_4b.json").read_text()
    recipe.with_suffix(".json").write_text(described)
    with pytest.raises(UserError, match=r"how large images may be is not known: set cold_start\.backbone\.max_pixels"):
        examine(str(recipe), None, 1, GIB)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(described)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"longest_edge": 32 * 32 * 100}}))
    report = examine(str(recipe), folder, 1, GIB)
    assert report.size.parameters == PARAMETERS["qwen3_vl_4b"]
    assert report.stages[0].work.patches == 2 * 400
    recipe.write_text("[world]\n")
    with pytest.raises(UserError, match=r"neither a section \[cold_start\] nor \[gcpo\]"):
        examine(str(recipe), None, 1, GIB)


def test_the_command() -> None:
    """The report on standard output; one line and exit code 2 where it does not fit."""
    fits = CliRunner().invoke(app, ["doctor", "qwen_vl/qwen2_5_vl_3b"])
    assert fits.exit_code == 0, fits.output
    assert "3,754,622,976 parameters" in fits.stdout
    assert fits.stdout.count("peak on each GPU") == 2
    small = CliRunner().invoke(app, ["doctor", "qwen_vl/qwen2_5_vl_3b", "--gpu-memory", "16", "--set", "gcpo.vllm=off"])
    assert small.exit_code == 2
    [line] = small.stderr.splitlines()
    assert line.startswith("error: [cold_start] needs ")
