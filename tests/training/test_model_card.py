"""Model cards and exports: from a tiny run through the real command line, loaded again by what the card says."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline  # pyright: ignore[reportPrivateImportUsage]
from PIL import Image
from safetensors.torch import load_file
from tests.training.tiny_editor import tiny_editor
from tests.training.tiny_run import tiny_verifier
from typer.testing import CliRunner, Result

from edit_r1 import assets
from edit_r1.cli.main import app
from edit_r1.config import Config
from edit_r1.records import Edit
from edit_r1.runs.run import Run
from edit_r1.training import editor_grpo
from edit_r1.training.editor_rewards import Reward
from edit_r1.training.model_card import model_card


class Settings(Config):
    objective: str = "nft"
    steps: int = 2
    probe_steps: int = 2
    lora_rank: int = 16
    height: int | None = None
    width: int | None = None
    guidance: float | None = None


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the real command; rewards are scripted, for a random verifier writes nothing readable."""
    folder = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng():
        verifier = tiny_verifier(folder)
    places = {"model": tiny_editor(folder / "base"), "verifier": verifier, "data": folder, "out": folder / "run"}
    given = [part for name, place in places.items() for part in (f"--{name}", place)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editor_grpo, "reward_function", lambda *_: rising)
        result = command("editor", "grpo", "--preset", "smoke", *given, "--set", "steps=1", "--set", "probe_tasks=2")
    assert result.exit_code == 0, result.output
    return folder / "run"


def rising(edits: Sequence[Edit]) -> list[Reward]:
    return [Reward(float(index % 10)) for index in range(len(edits))]


def invented(folder: Path, *lines: dict[str, float], model: str = "None", done: bool = True, **settings: Any) -> Run:
    """A run directory with the given metrics; `model/` has the index of a pipeline and nothing else."""
    inputs = {"seed": 3, "data": "/home/alice/secret/world", "model": model, "verifier": "runs/gcpo/model"}
    run = Run.open(folder, Settings(**settings), inputs=inputs)
    for line in lines:
        run.log(int(line["step"]), **{name: value for name, value in line.items() if name != "step"})
    facts = json.loads((folder / "environment.json").read_text())
    facts |= {"command": ["edit-r1", "editor", "grpo", "--data", "/home/alice/secret/world", "--out=/home/alice/out"]}
    facts |= {"commit": "abc123", "changed": True}
    (folder / "environment.json").write_text(json.dumps(facts))
    (folder / "model").mkdir()
    (folder / "model/model_index.json").write_text('{"_class_name": "QwenImageEditPipeline"}')
    if done:
        run.finish({"steps": 2})
    return run


def python_of(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_table_has_the_first_and_the_last_probe(tmp_path: Path) -> None:
    """Steps 0 and 2 were probed and step 1 was not; what is not finite was recorded as null and is a dash."""
    run = invented(
        tmp_path / "run",
        {"step": 0, "probe_reward": float("nan"), "probe_noop_rate": 0.25},
        {"step": 1, "reward": 5.0},
        {"step": 2, "reward": 6.0, "probe_reward": 6.5, "probe_noop_rate": 0.125},
    )
    card = model_card(run, "lora")
    table = card[card.index("| metric") : card.index("## Training")].split("\n")
    assert table[:4] == [
        "| metric | step 0 | step 2 |",
        "|---|---|---|",
        "| `reward` | – | 6.500 |",
        "| `noop_rate` | 0.250 | 0.125 |",
    ]
    assert "recorded no probe" in model_card(invented(tmp_path / "other", {"step": 1, "reward": 5.0}), "lora")


def test_simulated_preferences_are_said_where_the_oracle_spoke(tmp_path: Path) -> None:
    world = invented(tmp_path / "world", {"step": 0, "probe_oracle_success": 0.4})
    photographs = invented(tmp_path / "photographs", {"step": 0, "probe_reward": 4.0})
    assert "**simulated**" in model_card(world, "merged")
    assert "simulated" not in model_card(photographs, "merged")


def test_a_card_tells_the_making_and_no_persons_paths(tmp_path: Path) -> None:
    card = model_card(invented(tmp_path / "run", model="/home/alice/flux"), "merged")
    assert "alice" not in card
    assert "| data | `world` |" in card
    assert "| model | `flux` |" in card
    assert "| verifier | `runs/gcpo/model` |" in card
    assert "| command | `edit-r1 editor grpo --data world --out=out` |" in card
    assert "| commit of edit-r1 | `abc123 with uncommitted changes` |" in card
    settings = re.search(r"```json\n(.*?)```", card, re.DOTALL)
    assert settings is not None
    assert json.loads(settings[1]) == Settings().model_dump()
    assert "DiffusionNFT with the score of a reasoning verifier" in card
    assert "\n- diffusionnft\n" in card


@pytest.mark.parametrize(("kind", "relation"), [("lora", "adapter"), ("merged", "finetune")])
def test_the_header_names_the_base_only_when_it_is_known(tmp_path: Path, kind: Any, relation: str) -> None:
    run = invented(tmp_path / "run")
    head = model_card(run, kind, "black-forest-labs/FLUX.1-Kontext-dev").split("---\n")[1].splitlines()
    assert "base_model: black-forest-labs/FLUX.1-Kontext-dev" in head
    assert f"base_model_relation: {relation}" in head
    assert {"license: other", "library_name: diffusers"} <= set(head)
    assert ("- lora" in head) == (kind == "lora")
    assert "base_model" not in model_card(run, kind)


def test_the_class_is_the_pipelines_own_and_the_shipped_base_has_a_name(tmp_path: Path) -> None:
    """A Qwen pipeline has no distilled guidance; a LoRA of the shipped base says where that is."""
    run = invented(tmp_path / "run")
    code = python_of(model_card(run, "merged"))
    assert 'QwenImageEditPipeline.from_pretrained("PATH/OF/THIS/FOLDER")' in code
    assert "guidance_scale" not in code
    assert "height" not in code
    assert "from edit_r1.assets import EDITOR" in python_of(model_card(run, "lora"))
    other = python_of(model_card(run, "lora", "owner/name"))
    assert "from_pretrained('owner/name')" in other
    assert "edit_r1" not in other


@pytest.mark.parametrize(("given", "told"), [(None, 4.0), (2.5, 2.5)])
def test_a_qwen_pipeline_is_guided_as_in_training(tmp_path: Path, given: float | None, told: float) -> None:
    """Without a negative prompt the pipelines leave guidance out; the adapter's own is 4 against a space."""
    code = python_of(model_card(invented(tmp_path / "run", guidance=given, height=512, width=768), "merged"))
    (call,) = re.findall(r"pipeline\((.*)\)\.images", code, re.DOTALL)
    parsed: Any = ast.parse(f"f({call})", mode="eval").body
    arguments = {argument.arg: argument.value for argument in parsed.keywords}
    named = ("negative_prompt", "true_cfg_scale", "height", "width", "num_inference_steps")
    assert [ast.literal_eval(arguments[name]) for name in named] == [" ", told, 512, 768, 2]
    assert set(arguments) == {"image", "prompt", *named}


def test_a_card_edits_at_the_size_of_the_training(trained: Path, tmp_path: Path) -> None:
    """A run at 32 x 48 of an editor that was made for 64 x 64, and a source of a third size."""
    run = shutil.copytree(trained, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "height": 32, "width": 48}))
    Image.effect_noise((200, 72), 80).convert("RGB").save(tmp_path / "before.png")
    code = python_of(model_card(Run(run), "merged")).replace("PATH/OF/THIS/FOLDER", str(run / "model"))
    names: dict[str, Any] = {}
    seen: list[tuple[int, int]] = []
    exec(compile(code.split("edited =")[0], "card", "exec"), names)  # what a reader does with it
    encode = names["pipeline"].vae.encode

    def watched(images: torch.Tensor, *more: Any, **options: Any) -> Any:
        seen.append((images.shape[2], images.shape[3]))
        return encode(images, *more, **options)

    names["pipeline"].vae.encode = watched
    call = "edited =" + code.split("edited =")[1]
    for name in ("before.png", "after.png"):
        call = call.replace(name, str(tmp_path / name))
    exec(compile(call, "card", "exec"), names)
    assert seen == [(32, 48)]  # the source, as large as in training
    with Image.open(tmp_path / "after.png") as edited:
        assert edited.size == (48, 32)


@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_an_export_is_loaded_by_its_own_card(trained: Path, tmp_path: Path, kind: str) -> None:
    """The card's Python, run as it stands but for the places of base, export and pictures, edits a picture."""
    out = tmp_path / "out"
    result = command("editor", "export", "--run", trained, "--out", out, "--kind", kind)
    assert result.exit_code == 0, result.output
    card = (out / "README.md").read_text()
    assert "alice" not in card
    assert str(trained.parent) not in card
    assert "| metric | step 0 | step 1 |" in card
    assert "**simulated**" in card
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "before.png")
    code = python_of(card)
    for place, path in (
        ("PATH/OF/THIS/FOLDER", out),
        ("PATH/OF/THE/BASE/EDITOR", trained.parent / "base"),
        ("before.png", tmp_path / "before.png"),
        ("after.png", tmp_path / "after.png"),
    ):
        code = code.replace(place, str(path))
    exec(compile(code, "card", "exec"), {})  # what a reader does with it
    with Image.open(tmp_path / "after.png") as edited:
        assert edited.size == (64, 64)
        assert np.asarray(edited).std() > 0


def test_exports_hold_the_weights_of_the_run(trained: Path, tmp_path: Path) -> None:
    for kind, source in (("lora", trained / "lora"), ("merged", trained / "model")):
        assert command("editor", "export", "--run", trained, "--out", tmp_path / kind, "--kind", kind).exit_code == 0
        names = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
        copied = {str(path.relative_to(tmp_path / kind)) for path in (tmp_path / kind).rglob("*") if path.is_file()}
        assert copied == names | {"README.md"}
        assert all((tmp_path / kind / name).read_bytes() == (source / name).read_bytes() for name in names)
    lora = load_file(tmp_path / "lora/pytorch_lora_weights.safetensors")
    assert any(tensor.any() for name, tensor in lora.items() if "lora_B" in name)  # something was learnt
    merged: Any = FluxKontextPipeline.from_pretrained(tmp_path / "merged")
    base: Any = FluxKontextPipeline.from_pretrained(trained.parent / "base")
    base.load_lora_weights(str(tmp_path / "lora"))
    base.fuse_lora()
    base.unload_lora_weights()
    state = base.transformer.state_dict()
    for name, tensor in merged.transformer.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-5, atol=1e-6)


def refusal(*arguments: object) -> str:
    result = command("editor", "export", *arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def test_what_cannot_be_exported_is_one_clear_line(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert refusal("--run", tmp_path / "none", "--out", out).startswith(f"--run {tmp_path}/none does not exist;")
    assert "is no run directory" in refusal("--run", assets.EDITOR, "--out", out)
    half = invented(tmp_path / "half", done=False).path
    assert "is not finished; go on with it by `edit-r1 editor grpo --resume`" in refusal("--run", half, "--out", out)
    other = invented(tmp_path / "other").path
    assert "has no lora/pytorch_lora_weights.safetensors" in refusal("--run", other, "--out", out)
    whole = invented(tmp_path / "whole", lora_rank=0).path
    assert (
        refusal("--run", whole, "--out", out) == f"--run {whole} trained all weights and has no LoRA; use --kind merged"
    )
    assert "no id on Hugging Face" in refusal("--run", trained, "--out", out, "--base-model", "x: y")
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "is not an empty folder" in refusal("--run", trained, "--out", out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert "is not an empty folder" in refusal("--run", trained, "--out", out / "mine.txt")


def test_a_failed_export_leaves_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edit_r1.training.export.write_model_card", full)
    assert "the disk is full" in refusal("--run", trained, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
