"""`edit-r1 editor sample`: edits of one's own tasks by an editor, as images and a manifest that other commands read.

The manifest, `edits.jsonl`, is what `edit-r1 evaluate edits` compares editors by, and on what `edit-r1 verifier traces`
has teachers write.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edit_r1 import assets
from edit_r1.data.manifest import TaskLine, read_lines
from edit_r1.editors.base import edit, to_pil
from edit_r1.editors.loading import load_editor
from edit_r1.editors.pipeline import PipelineEditor
from edit_r1.files import atomic_path, atomic_write, disk_errors
from edit_r1.images import open_image
from edit_r1.records import EditTask
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run
from edit_r1.stages import SampleConfig


@dataclass(frozen=True)
class Source:
    """Whose edits, and what it is called in the manifest: by default as its folder is."""

    folder: Path | None = None
    name: str | None = None


def run(config: SampleConfig, *, manifest: Path, editor: Source, out: Path, seed: int, resume: bool) -> int:
    """Make `config.per_task` edits of every task, and write `out/images` and then `out/edits.jsonl`.

    Edit k of a task has the seed `seed + k`, as in `edit-r1 edit`, which makes it again alone.

    Returns:
        How many edits there are.

    Raises:
        UserError: a bad line or image; the folder holds no editor; the disk is full. The images until then stay, and
            `resume` makes those that are missing.
    """
    lines = read_lines(manifest, TaskLine, option="--tasks", what="tasks")
    tasks = [(place, line, manifest.parent / line.source) for place, line in lines]
    inputs = {"seed": seed, "tasks": str(manifest), "editor": str(editor.folder), "name": editor.name}
    folder = Run.open(out, config, resume, inputs=inputs)
    if folder.done is not None:
        return folder.done["edits"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if config.bf16 else None
    model = load_editor(editor.folder or assets.EDITOR, height=config.height, width=config.width, dtype=dtype)
    model = model.to(device)
    images = out / "images"
    with disk_errors(images):
        images.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    with track("Editing", total=len(tasks) * config.per_task) as bar:
        for index, (place, line, path) in enumerate(tasks):
            source = open_image(path, name=f"{path} ({place})")
            task = EditTask(source, line.instruction, line.category, line.given())
            before = images / f"{index:05d}.png"
            if not before.exists():
                with atomic_path(before) as temporary:
                    source.save(temporary, "PNG")
            for number in range(seed, seed + config.per_task):
                after = images / f"{index:05d}_{number}.png"
                if not after.exists():
                    _edit(model, task, config, number, after)
                said = line.model_dump(mode="json", exclude_none=True)
                shown = {"source": f"images/{before.name}", "edited": f"images/{after.name}"}
                rows.append(said | shown | {"editor": editor.name or model.name})
                bar.advance()
    atomic_write(out / "edits.jsonl", "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    folder.finish({"edits": len(rows)})
    return len(rows)


def _edit(model: PipelineEditor, task: EditTask, config: SampleConfig, seed: int, path: Path) -> None:
    """One edit alone: the same row of another batch may be rounded differently."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
        image = to_pil(edit(model, [task], config.steps, seed))[0]
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG")
