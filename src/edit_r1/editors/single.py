"""One edit alone, with the settings of a recipe: what `edit-r1 edit` and `edit-r1 editor sample` make."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL.Image import Image

from edit_r1 import assets
from edit_r1.editors.base import edit, to_pil
from edit_r1.editors.loading import load_editor
from edit_r1.editors.pipeline import PipelineEditor
from edit_r1.records import EditTask
from edit_r1.stages import SamplingConfig


def sampling_editor(folder: Path | None, config: SamplingConfig) -> PipelineEditor:
    """The editor in a folder, the shipped tiny base by default, on the GPU where there is one.

    Raises:
        UserError: see `load_editor`.
    """
    editor = load_editor(
        folder or assets.EDITOR,
        height=config.height,
        width=config.width,
        guidance=config.guidance,
        dtype=torch.bfloat16 if config.bf16 else None,
    )
    return editor.to("cuda" if torch.cuda.is_available() else "cpu")


def edit_one(editor: PipelineEditor, task: EditTask, config: SamplingConfig, seed: int) -> Image:
    """A deterministic (ODE) edit in the shape of its source.

    It is made alone, because the same row of another batch may be rounded differently: so it can be made again.
    """
    fitted = editor.fitted(task.source.width, task.source.height)
    with torch.autocast(editor.device.type, torch.bfloat16, enabled=config.bf16):
        return to_pil(edit(fitted, [task], config.steps, seed))[0]
