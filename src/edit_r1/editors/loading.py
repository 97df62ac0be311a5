"""An editor from a folder: which adapter it needs is said by the pipeline's own index."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]

from edit_r1.attention import without_cudnn
from edit_r1.editors.kontext import KontextEditor
from edit_r1.editors.pipeline import PipelineEditor, quiet
from edit_r1.editors.qwen_image import QwenImageEditor
from edit_r1.errors import UserError

ADAPTERS: dict[str, type[KontextEditor] | type[QwenImageEditor]] = {
    "FluxKontextPipeline": KontextEditor,
    "QwenImageEditPipeline": QwenImageEditor,
    "QwenImageEditPlusPipeline": QwenImageEditor,
}
"""By the class of the pipeline."""
_KINDS = " or ".join(", ".join(ADAPTERS).rsplit(", ", 1))


def load_editor(
    path: str | Path,
    *,
    height: int | None = None,
    width: int | None = None,
    guidance: float | None = None,
    dtype: torch.dtype | None = None,
) -> PipelineEditor:
    """Load an editor from a folder of a saved pipeline (safetensors only), tiny or real.

    Args:
        path: the folder; its name becomes the editor's.
        height: of the edited images in pixels; by default the size that the model was made for.
        width: likewise.
        guidance: how strongly it follows the instruction; by default the adapter's own.
        dtype: of the weights, float32 by default; a large model needs twice the memory of bfloat16 in it.

    Raises:
        UserError: the folder is missing, holds no pipeline, a pipeline of another kind, or lacks a part; the size does
            not divide; or the processor of a Qwen-Image-Edit lacks torchvision.
    """
    without_cudnn()
    folder = Path(path)
    adapter = ADAPTERS[_kind(folder)]
    quiet()
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=dtype or torch.float32
        )
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # a broken torchvision is a RuntimeError
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        torchvision = "torchvision" in line.lower()
        mend = "install the torchvision that goes with your torch" if torchvision else "copy the folder anew"
        raise UserError(f"{folder} cannot be loaded as an editor: {line}; {mend}") from error
    try:
        return adapter(pipeline, height=height, width=width, guidance=guidance, name=folder.name)
    except ValueError as error:
        raise UserError(str(error)) from None


def _kind(folder: Path) -> str:
    """The class of the pipeline in a folder; `UserError` unless it is one of ours."""
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise UserError(f"no editor at {folder}; give the folder of a saved {_KINDS}")
    if not index.is_file():
        hint = " (this looks like a single model, perhaps a verifier)" if (folder / "config.json").is_file() else ""
        raise UserError(f"{folder} is no editor: it has no model_index.json{hint}; give the folder of a {_KINDS}")
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError):
        raise UserError(f"{index} is damaged; copy the editor's folder anew") from None
    if kind not in ADAPTERS:
        raise UserError(f"{folder} holds a {kind}; an editor is a {_KINDS}")
    return kind
