"""A trained editor as a folder to publish: the LoRA or the merged pipeline of a finished run, with its model card."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from edit_r1.errors import UserError
from edit_r1.files import TEMPORARY_SUFFIX, disk_errors
from edit_r1.runs.run import Run
from edit_r1.training.model_card import Kind, write_model_card

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PARTS: dict[Kind, tuple[str, str]] = {
    "lora": ("lora", "pytorch_lora_weights.safetensors"),
    "merged": ("model", "model_index.json"),
}
"""Where a run keeps what is exported, and the file without which it is not there."""


def export(run: Path, out: Path, kind: Kind, base_model: str | None = None) -> None:
    """Copy the weights of a finished run of editor GRPO to `out`, with README.md; whole or not at all.

    Args:
        run: the run directory.
        out: a new or an empty folder.
        kind: `lora`, for diffusers' `load_lora_weights`, or `merged`, a pipeline for `from_pretrained`.
        base_model: the trained editor's id on Hugging Face, for the card.

    Raises:
        UserError: `run` is no finished run of editor GRPO, `out` holds something or cannot be written, or
            `base_model` is no id.
    """
    if base_model is not None and not _ID.fullmatch(base_model):
        raise UserError(f"--base-model {base_model} is no id on Hugging Face; write it as owner/name")
    source = _finished(run, kind)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is not an empty folder; give another one")
    half = out.with_name(f".{out.name}{TEMPORARY_SUFFIX}")
    with disk_errors(out):
        shutil.rmtree(half, ignore_errors=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copytree(source, half)
            write_model_card(half, Run(run), kind, base_model)
            if out.exists():
                out.rmdir()
            half.replace(out)
        finally:
            shutil.rmtree(half, ignore_errors=True)


def _finished(run: Path, kind: Kind) -> Path:
    """The folder of the run that is to be copied."""
    if not (run / "config.json").is_file() or not (run / "environment.json").is_file():
        raise UserError(f"--run {run} is no run directory; give the --out of `edit-r1 editor grpo`")
    if Run(run).done is None:
        raise UserError(f"--run {run} is not finished; go on with it by `edit-r1 editor grpo --resume`")
    if kind == "lora" and Run(run).config.get("lora_rank") == 0:
        raise UserError(f"--run {run} trained all weights and has no LoRA; use --kind merged")
    name, needed = _PARTS[kind]
    if not (run / name / needed).is_file():
        raise UserError(f"--run {run} has no {name}/{needed}; give the --out of `edit-r1 editor grpo`")
    return run / name
