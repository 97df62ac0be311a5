"""The model card of a trained editor: the README.md that Hugging Face shows, from what the run recorded.

What a person or a machine could be known by stays out: of an absolute path only the last name is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from edit_r1 import assets
from edit_r1.editors.loading import ADAPTERS
from edit_r1.errors import UserError
from edit_r1.files import atomic_write
from edit_r1.runs.run import Run

Kind = Literal["lora", "merged"]

_PROBE = "probe_"
_PAPER = "https://arxiv.org/abs/2604.27505"
_OBJECTIVES = {"clip": "Flow-GRPO", "guard": "GRPO-Guard", "nft": "DiffusionNFT"}
_DEFAULT_STEPS = 28  # FLUX.1-Kontext's own, where a run tells nothing
_DEFAULT_SIDE = 1024  # what FLUX.1-Kontext and Qwen-Image-Edit were made for


def write_model_card(folder: Path, run: Run, kind: Kind, base_model: str | None = None) -> None:
    """Write README.md into the folder of a LoRA or of a merged pipeline.

    Args:
        folder: what is published; it exists.
        run: the finished run of editor GRPO that it came from.
        kind: what is in the folder.
        base_model: id on Hugging Face of the editor that was trained, where it has one; nothing is guessed.

    Raises:
        UserError: the run's pipeline cannot be told, or the place cannot be written.
    """
    atomic_write(folder / "README.md", model_card(run, kind, base_model))


def model_card(run: Run, kind: Kind, base_model: str | None = None) -> str:
    """The text of the card; see `write_model_card`."""
    config = run.config
    inputs: dict[str, Any] = config.pop("inputs", {})
    facts: dict[str, Any] = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    metrics = run.metrics()
    merged = "a whole pipeline, LoRA merged" if config["lora_rank"] else "a whole pipeline"
    what = "LoRA weights of an image editor" if kind == "lora" else f"An image editor ({merged})"
    sections = [
        _header(kind, base_model, _OBJECTIVES[config["objective"]].lower()),
        "# Image editor trained with a verifier's reward",
        f"{what}, trained by [Edit-R1]({_PAPER}): {_OBJECTIVES[config['objective']]} with the score of a reasoning "
        "verifier as the only reward. The weights are the running mean (EMA) at the end of training.",
        "## Use",
        _usage(run, kind, base_model, config),
        *_warnings(metrics),
        "## Probe",
        "Fixed held-out tasks with fixed noise, sampled deterministically with the mean weights. `reward` is the "
        "verifier's score from 0 to 10, which training raises; it is not the truth.",
        _probe_table(metrics),
        "## Training",
        _facts(inputs, facts, base_model),
        "Configuration:",
        f"```json\n{json.dumps(_public(config), indent=2, ensure_ascii=False)}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def pipeline_class(run: Run) -> str:
    """The diffusers class of the run's editor, such as `FluxKontextPipeline`.

    Raises:
        UserError: neither the run nor its base holds a pipeline.
    """
    for folder in (run.path / "model", _base_folder(run)):
        if (folder / "model_index.json").is_file():
            return str(json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"])
    raise UserError(f"{run.path} holds no editor (no model/model_index.json); give the run of `edit-r1 editor grpo`")


def _base_folder(run: Run) -> Path:
    """The editor that training began with: a run without one has the shipped base."""
    given = run.config.get("inputs", {}).get("model")
    return assets.EDITOR if given in (None, "None") else Path(given)


def _header(kind: Kind, base_model: str | None, objective: str) -> str:
    """The YAML block. The license is the owner's to choose: that of the base and of the data both bear on it."""
    lines = ["---", "license: other", "library_name: diffusers", "pipeline_tag: image-to-image"]
    if base_model is not None:
        lines += [f"base_model: {base_model}", f"base_model_relation: {'adapter' if kind == 'lora' else 'finetune'}"]
    tags = ["image-editing", "reinforcement-learning", objective, "edit-r1", *(["lora"] if kind == "lora" else [])]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _usage(run: Run, kind: Kind, base_model: str | None, config: Mapping[str, Any]) -> str:
    """Python that loads the weights and edits one picture with the size and the guidance of the training."""
    name = pipeline_class(run)
    shipped = kind == "lora" and base_model is None and _base_folder(run) == assets.EDITOR
    base = "EDITOR" if shipped else repr(base_model or "PATH/OF/THE/BASE/EDITOR")
    load = f'pipeline = {name}.from_pretrained("PATH/OF/THIS/FOLDER")'
    if kind == "lora":
        load = f'pipeline = {name}.from_pretrained({base})\npipeline.load_lora_weights("PATH/OF/THIS/FOLDER")'
    return (
        "```python\n"
        f"from diffusers import {name}\nfrom diffusers.utils import load_image\n"
        + ("from edit_r1.assets import EDITOR  # the tiny base that comes with edit-r1\n" if shipped else "")
        + f"\n{load}\n"
        'edited = pipeline(\n    prompt="make the red circle blue",\n'
        + "".join(f"    {key}={value},\n" for key, value in _arguments(run, name, config).items())
        + ').images[0]\nedited.save("after.png")\n```'
    )


def _arguments(run: Run, pipeline: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Arguments of the pipeline's own call, as Python, with which it edits as the training did."""
    vae = run.path / "model" / "vae" / "config.json"
    native = json.loads(vae.read_text(encoding="utf-8")).get("sample_size") if vae.is_file() else None
    height, width = (config.get(side) or native or _DEFAULT_SIDE for side in ("height", "width"))
    guidance = ADAPTERS[pipeline].guidance_arguments(config.get("guidance"))
    arguments = {
        "image": 'load_image("before.png")',
        **{name: repr(value) for name, value in guidance.items()},
        "num_inference_steps": str(config.get("probe_steps", _DEFAULT_STEPS)),
    }
    if (height, width) == (_DEFAULT_SIDE, _DEFAULT_SIDE):
        return arguments
    arguments |= {"height": str(height), "width": str(width)}
    if pipeline == "FluxKontextPipeline":  # it takes an area, and the source as it is
        arguments["image"] = f'pipeline.image_processor.resize(load_image("before.png"), {height}, {width})'
        arguments |= {"max_area": str(height * width), "_auto_resize": "False"}
    return arguments


def _warnings(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before trusting a number; the oracle's metrics tell the built-in world."""
    if not any("oracle_" in name for line in metrics for name in line):
        return []
    return [
        "## Limits",
        "Trained on the built-in world of Edit-R1: small drawn pictures, and instructions from a fixed grammar. The "
        "preferences behind the verifier are **simulated**, and `oracle_` metrics are a program's reading of the "
        "pictures. Nothing here says how the model edits photographs.",
    ]


def _probe_table(metrics: Sequence[Mapping[str, Any]]) -> str:
    """First and last value of every probe metric."""
    probes = [line for line in metrics if any(name.startswith(_PROBE) for name in line)]
    if not probes:
        return "This run recorded no probe."
    first, last = probes[0], probes[-1]
    names = [name for name in last if name.startswith(_PROBE)]
    rows = [f"| `{name.removeprefix(_PROBE)}` | {_value(first.get(name))} | {_value(last[name])} |" for name in names]
    return "\n".join([f"| metric | step {first['step']} | step {last['step']} |", "|---|---|---|", *rows])


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _facts(inputs: Mapping[str, Any], facts: Mapping[str, Any], base_model: str | None) -> str:
    """Where the weights came from: inputs, command, commit and what it ran on."""
    began = "the tiny base of edit-r1" if inputs.get("model") in (None, "None") else inputs["model"]
    named = {**inputs, "model": base_model or began}
    libraries = facts.get("libraries", {})
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "diffusers", "peft") if libraries.get(name))
    rows = [
        *((name, _public(value)) for name, value in named.items()),
        ("command", " ".join(_public(facts.get("command", [])))),
        ("commit of edit-r1", f"{facts.get('commit')}{' with uncommitted changes' if facts.get('changed') else ''}"),
        ("begun", facts.get("time")),
        ("hardware", ", ".join(facts.get("gpus", [])) or f"{facts.get('cpus')} CPU cores"),
        ("libraries", versions),
    ]
    cells = [(name, str(value).replace("|", "\\|").replace("`", "'")) for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | `{value}` |" for name, value in cells)])


def _public(value: Any) -> Any:
    """JSON with every absolute path cut to its last name; the value of an option such as `--out=/a/b` too."""
    if isinstance(value, Mapping):
        return {key: _public(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_public(item) for item in cast("list[Any]", value)]
    if not isinstance(value, str):
        return value
    option, equals, path = value.rpartition("=")
    return f"{option}{equals}{Path(path).name}" if path.startswith(("/", "~")) else value
