"""Editors on disk: the stock pipeline loads what we write, and a wrong folder is named in one line."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    DiffusionPipeline,  # pyright: ignore[reportPrivateImportUsage]
    FluxKontextPipeline,  # pyright: ignore[reportPrivateImportUsage]
)

from edit_r1.editors.base import edit
from edit_r1.editors.kontext import KontextEditor
from edit_r1.editors.loading import load_editor
from edit_r1.errors import UserError
from edit_r1.records import EditTask


@pytest.fixture(scope="module")
def folder(editor: KontextEditor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("editors") / "saved"
    editor.save(path)
    return path


def test_a_saved_editor_loads_as_a_stock_pipeline_and_paints_the_same(
    editor: KontextEditor, tasks: list[EditTask], folder: Path
) -> None:
    stock = KontextEditor(FluxKontextPipeline.from_pretrained(folder, use_safetensors=True))
    assert torch.equal(edit(stock, tasks, 2, seed=0), edit(editor, tasks, 2, seed=0))
    loaded = load_editor(folder)
    assert loaded.name == "saved"
    assert torch.equal(edit(loaded, tasks, 2, seed=0), edit(editor, tasks, 2, seed=0))


def test_size_and_dtype_are_the_callers(folder: Path) -> None:
    """Weights are rounded to bfloat16; a token is 8 pixels, so that 36 do not divide."""
    half, full = load_editor(folder, height=32, width=16, dtype=torch.bfloat16), load_editor(folder)
    assert (half.height, half.width, full.height) == (32, 16, 64)
    assert (full.guidance, load_editor(folder, guidance=1.5).guidance) == (2.5, 1.5)
    for name, weight in full.transformer.state_dict().items():
        assert torch.equal(half.transformer.state_dict()[name], weight.to(torch.bfloat16))
    assert {p.dtype for p in half.pipeline.text_encoder_2.parameters()} == {torch.bfloat16}
    with pytest.raises(UserError, match="height and width must be multiples of 8, got 36x64"):
        load_editor(folder, height=36)


def test_nothing_is_pickled_and_no_temporary_folder_stays(folder: Path) -> None:
    suffixes = {file.suffix for file in folder.rglob("*") if file.is_file()}
    assert suffixes == {".json", ".safetensors"}
    assert [entry.name for entry in folder.parent.iterdir()] == ["saved"]


def test_saving_again_replaces_the_old_editor(editor: KontextEditor, tmp_path: Path) -> None:
    target = tmp_path / "editor"
    target.mkdir()
    (target / "stale.txt").write_text("old")
    editor.save(target)
    assert not (target / "stale.txt").exists()
    assert (target / "model_index.json").is_file()


def test_a_failed_save_leaves_the_old_editor(
    editor: KontextEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "editor"
    target.mkdir()
    (target / "model_index.json").write_text("{}")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(editor.pipeline, "save_pretrained", full_disk)
    with pytest.raises(UserError, match="disk is full"):
        editor.save(target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["editor"]
    assert (target / "model_index.json").read_text() == "{}"


def _missing(path: Path) -> None:
    del path


def _empty(path: Path) -> None:
    path.mkdir()


def _single_model(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))


def _other_pipeline(path: Path) -> None:
    path.mkdir()
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


def _damaged_index(path: Path) -> None:
    path.mkdir()
    (path / "model_index.json").write_text('{"_class')


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "no editor at"),
        (_empty, "no model_index.json"),
        (_single_model, "perhaps a verifier"),
        (_other_pipeline, "StableDiffusionPipeline; an editor is a FluxKontextPipeline, QwenImageEditPipeline or"),
        (_damaged_index, "damaged"),
    ],
)
def test_a_folder_of_another_kind_is_named(make, message: str, tmp_path: Path) -> None:
    path = tmp_path / "given"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        load_editor(path)
    assert "given" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_lacks_a_part_is_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.mkdir()
    (path / "model_index.json").write_bytes((folder / "model_index.json").read_bytes())
    with pytest.raises(UserError, match=r"given cannot be loaded") as caught:
        load_editor(path)
    assert "\n" not in str(caught.value)


def test_a_missing_torchvision_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock processor of Qwen-Image-Edit has a part for films that needs it; transformers says so over lines."""
    path = tmp_path / "given"
    path.mkdir()
    (path / "model_index.json").write_text(json.dumps({"_class_name": "QwenImageEditPipeline"}))

    def no_torchvision(*_: object, **__: object) -> None:
        raise ImportError("\nQwen2VLVideoProcessor requires the Torchvision library but it was not found.\nSee there.")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", no_torchvision)
    with pytest.raises(UserError, match=r"given cannot .* Torchvision .*; install the torchvision that goes") as caught:
        load_editor(path)
    assert "\n" not in str(caught.value)
