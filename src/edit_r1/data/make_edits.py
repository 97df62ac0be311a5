"""`edit-r1 editor sample`: edits of one's own tasks by an editor, as images and a manifest that other commands read.

The manifest, `edits.jsonl`, is what `edit-r1 evaluate edits` compares editors by, and on what `edit-r1 verifier traces`
has teachers write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL.Image import Image

from edit_r1 import assets
from edit_r1.data.manifest import TaskLine, open_task, read_lines
from edit_r1.data.store import Records
from edit_r1.editors.single import edit_one, sampling_editor
from edit_r1.files import atomic_path, atomic_write, disk_errors
from edit_r1.images import image_hash
from edit_r1.records import EditTask
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run, content_hash, weights_of
from edit_r1.stages import SampleConfig


def run(
    config: SampleConfig, *, manifest: Path, editor: Path | None, name: str, out: Path, seed: int, resume: bool
) -> int:
    """Make `config.per_task` edits of every task, and write `out/images` and then `out/edits.jsonl`.

    An edit has the shape of its source. Edit k of a task has the seed `seed + k`, as in `edit-r1 edit`, which makes it
    again alone.

    Args:
        config: how many edits, and how they are sampled.
        manifest: a `TaskLine` a line.
        editor: the editor's folder; the shipped tiny base by default.
        name: what the manifest calls it.
        out: the run directory.
        seed: of the first edit of each task.
        resume: go on with what is in `out`.

    Returns:
        How many edits there are.

    Raises:
        UserError: a bad line or image; the folder holds no editor; the disk is full. The images until then stay, and
            `resume` makes those that are missing.
    """
    lines = read_lines(manifest, TaskLine, option="--tasks", what="tasks")
    tasks = Records(len(lines), lambda index: open_task(*lines[index], manifest.parent))
    inputs = {
        "seed": seed, "tasks": str(manifest), "content": content_hash(lines, _pictures(tasks)),
        "editor": str(editor), "name": name, **weights_of(editor or assets.EDITOR),
    }  # fmt: skip
    folder = Run.open(out, config, resume, inputs=inputs)
    if folder.done is not None:
        return folder.done["edits"]
    model = sampling_editor(editor, config)
    images = out / "images"
    with disk_errors(images):
        images.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    with track("Editing", total=len(tasks) * config.per_task) as bar:
        for index, task in enumerate(tasks):
            before = images / f"{index:05d}.png"
            if not before.exists():
                _save(task.source, before)
            for number in range(seed, seed + config.per_task):
                after = images / f"{index:05d}_{number}.png"
                if not after.exists():
                    _save(edit_one(model, task, config, number), after)
                said = lines[index][1].model_dump(mode="json", exclude_none=True)
                shown = {"source": f"images/{before.name}", "edited": f"images/{after.name}", "editor": name}
                rows.append(said | shown)
                bar.advance()
    atomic_write(out / "edits.jsonl", "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    folder.finish({"edits": len(rows)})
    return len(rows)


def _pictures(tasks: Records[EditTask]) -> list[str]:
    """The hash of every image: a bad one is told before the editor is loaded."""
    hashes: list[str] = []
    with track("Reading tasks", total=len(tasks)) as bar:
        for task in tasks:
            hashes.append(image_hash(task.source))
            bar.advance()
    return hashes


def _save(image: Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG")
