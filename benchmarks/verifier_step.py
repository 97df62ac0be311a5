"""Steps of the cold start and of GCPO on a Qwen-VL's full-size architecture with random weights, on one GPU.

    python -m benchmarks.verifier_step --recipe qwen_vl/qwen2_5_vl_7b --set gcpo.vllm=off --set gcpo.pairs_per_step=4
    python -m benchmarks.verifier_step --recipe smoke       # the same code in seconds on a CPU, with the tiny verifier

Time and memory depend on sizes, not on what the weights say: so nothing is downloaded. The sizes are those that
`edit-r1 doctor` counts with (the largest pictures that are let through, ten principles, traces as long as they may be),
and beside the measured peak stands the doctor's. The trainers are the project's own, with the settings of the recipe.
Nobody can read what random weights write: the traces run to their last token, and get scores that are fixed and all
differ, so that every one of them is learnt from.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from math import isqrt
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from benchmarks.kontext_random import random_qwen
from datasets import Dataset
from PIL import Image
from transformers import Qwen2VLImageProcessorPil, TrainerCallback

from edit_r1 import assets
from edit_r1.config import beside, load_recipe, overrides_by_section
from edit_r1.errors import UserError
from edit_r1.files import atomic_write
from edit_r1.runs.environment import environment
from edit_r1.runs.run import Run
from edit_r1.stages import BackboneConfig, ColdStartConfig, GcpoConfig
from edit_r1.training import gcpo
from edit_r1.training.architecture import Architecture
from edit_r1.training.backbone import freeze, held_in
from edit_r1.training.doctor import STAGES, Report, Stage, examine
from edit_r1.training.memory import Work
from edit_r1.training.processes import device
from edit_r1.training.sft import example, fine_tune
from edit_r1.verifier.prompting import chat_message
from edit_r1.verifier.tiny import SPECIAL, TinyQwenProcessor, build_tokenizer

GIB = 2**30
WORD = "word"


class Steps(TrainerCallback):
    """Seconds and peak bytes of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.bytes: list[int] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Data are there already."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._start = _now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The optimiser has stepped."""
        self.seconds.append(_now() - self._start)
        self.bytes.append(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


class Bench:
    """Random models of one architecture, and rows of the sizes that the doctor counts with."""

    def __init__(self, size: Architecture, config: Path, steps: int) -> None:
        self.size, self.config, self.steps = size, config, steps
        image_processor = Qwen2VLImageProcessorPil(
            patch_size=size.patch, merge_size=size.merge, temporal_patch_size=2, min_pixels=1, max_pixels=1 << 30
        )
        self.processor = TinyQwenProcessor(image_processor, build_tokenizer([WORD]))

    def model(self, backbone: BackboneConfig) -> Any:
        """Held as `load_backbone` holds it; the tokens of pictures are our tokenizer's."""
        token = self.processor.tokenizer.convert_tokens_to_ids
        ids = {f"{name}_token_id": token(f"<|{name}|>") for name in ("vision_start", "vision_end")}
        ids |= {f"{name}_token_id": token(f"<|{name}_pad|>") for name in ("image", "video")}
        model = random_qwen(self.config, device(), held_in(backbone), **ids)
        if backbone.lora_rank:
            freeze(model.model.visual)
        return model

    def row(self, work: Work) -> dict[str, Any]:
        """Two random pictures, and a prompt and an answer that make as many tokens as `work` says."""
        tokens, side = work.patches // 2 // self.size.merge**2, self.size.patch * self.size.merge
        across = next(k for k in range(isqrt(tokens), 0, -1) if tokens % k == 0)
        pixels = np.random.default_rng(0).integers(0, 256, (across * side, tokens // across * side, 3), dtype=np.uint8)
        pictures = [Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())]
        text = self.processor.apply_chat_template([chat_message("", 2)], add_generation_prompt=True, tokenize=False)
        around = self.processor(text=[text], images=[pictures], return_tensors="pt")["input_ids"].shape[1]
        return example(pictures[0], pictures[1], _words(work.prompt - around), _words(work.answer - 1))

    def cold_start(self, config: ColdStartConfig, stage: Stage) -> dict[str, Any]:
        """Steps of supervised fine-tuning; the tokens of a step are all that pass through the model."""
        steps = Steps()
        rows = Dataset.from_list([self.row(stage.work)] * config.batch_size)
        config = config.model_copy(update={"steps": self.steps, "checkpoint_every": self.steps + 1})
        with tempfile.TemporaryDirectory() as folder:
            run = Run.open(Path(folder) / "run", config)
            model = self.model(config.backbone)
            fine_tune(model, self.processor, rows, config, run, "Cold start", seed=0, resume=False, callbacks=[steps])
        tokens = config.batch_size * (stage.work.prompt + stage.work.answer)
        return _measured(stage, steps, tokens) | {"rows": config.batch_size}

    def gcpo(self, config: GcpoConfig, stage: Stage) -> dict[str, Any]:
        """One step of GCPO, for it takes a minute; the tokens of a step are those of all its rows, prompts included."""
        steps, writing = Steps(), list[float]()
        config = config.model_copy(update={"steps": 1, "checkpoint_every": 1})
        made = self.row(stage.work)
        asked = {"images": made["images"], "prompt": made["prompt"]}
        rows = Dataset.from_list([asked] * (2 * config.pairs_per_step))
        with tempfile.TemporaryDirectory() as folder:
            policy = self.model(config.backbone)
            trainer = gcpo.new_trainer(
                policy, self.processor, rows, [scores_of(config.traces)], config, Path(folder), 0, [steps]
            )
            # No trace may end early, and none may have a picture's token, which no picture would stand behind.
            trainer.generation_config.suppress_tokens = list(range(len(SPECIAL)))
            _time(trainer, "_generate_single_turn", writing)
            trainer.train()
        count = config.rows_per_step
        found = _measured(stage, steps, count * (stage.work.prompt + stage.work.answer))
        return found | {
            "rows": count,
            "writing": writing[0],
            "written_per_second": count * stage.work.answer / writing[0],
        }


def measure(arguments: Any) -> dict[str, Any]:
    """Everything that is printed; written stage by stage."""
    chosen = overrides_by_section(arguments.set, STAGES)
    report: Report = examine(arguments.recipe, None, 1, card=0, overrides=arguments.set)
    bench = Bench(report.size, beside(arguments.recipe, ".json") or assets.VERIFIER / "config.json", arguments.steps)
    stages = {stage.name: stage for stage in report.stages}
    sft = load_recipe(ColdStartConfig, arguments.recipe, chosen["cold_start"], "cold_start")
    policy = load_recipe(GcpoConfig, arguments.recipe, chosen["gcpo"], "gcpo")
    if policy.vllm != "off":
        raise UserError("what transformers writes is measured: add --set gcpo.vllm=off")
    found = {"environment": environment(), "recipe": arguments.recipe, "parameters": report.size.parameters}
    for name, work in (
        ("cold_start", lambda: bench.cold_start(sft, stages["cold_start"])),
        ("gcpo", lambda: bench.gcpo(policy, stages["gcpo"])),
    ):
        found[name] = work()
        gc.collect()  # a trainer holds itself in circles, and its model with it
        if arguments.out:  # a stage takes minutes: what is measured is kept
            atomic_write(arguments.out, json.dumps(found, indent=2) + "\n")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the JSON and print the table."""
    try:
        report = measure(_arguments(argv))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    sys.stdout.write(_table(report))


def _words(count: int) -> str:
    return " ".join([WORD] * count)


def scores_of(traces: int) -> Callable[..., list[float]]:
    """A reward function: no two scores of a pair are alike, and with an even `traces` no trace is at the mean."""

    def scores(completions: list[Any], **_: Any) -> list[float]:
        places = (divmod(index % (2 * traces), traces) for index in range(len(completions)))
        return [float(2 * place + (1 - loser)) for loser, place in places]

    return scores


def _time(owner: Any, name: str, seconds: list[float]) -> None:
    """From now on note what each call of a method takes."""
    method = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = _now()
        result = method(*args, **kwargs)
        seconds.append(_now() - start)
        return result

    setattr(owner, name, timed)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _measured(stage: Stage, steps: Steps, tokens: int) -> dict[str, Any]:
    seconds = median(steps.seconds[1:] or steps.seconds)  # the first also pays for workspaces and kernels
    return {
        "steps": len(steps.seconds),
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "peak_bytes": max(steps.bytes) or None,
        "doctor_peak_bytes": stage.memory.peak,
        "trained_parameters": stage.trained,
        "micro_batch": stage.work.rows,
        "prompt": stage.work.prompt,
        "answer": stage.work.answer,
    }


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['recipe']}: {report['parameters']:,} parameters",
        f"{'':11s}{'rows':>6s}{'tokens':>9s}{'seconds':>9s}{'tokens/s':>10s}{'peak GiB':>10s}{'doctor GiB':>12s}",
    ]
    for name in STAGES:
        part = report[name]
        peak = f"{part['peak_bytes'] / GIB:.1f}" if part["peak_bytes"] else "-"
        lines.append(
            f"{name:11s}{part['rows']:6d}{part['tokens']:9d}{part['seconds']:9.2f}{part['tokens_per_second']:10.0f}"
            f"{peak:>10s}{part['doctor_peak_bytes'] / GIB:12.1f}"
        )
    writing = report["gcpo"]
    lines.append(f"of GCPO's step writing: {writing['writing']:.2f} s, {writing['written_per_second']:.0f} tokens/s")
    return "\n".join(lines) + "\n"


def _arguments(argv: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description="steps of the cold start and GCPO on a Qwen-VL's architecture")
    parser.add_argument("--recipe", default="qwen_vl/qwen2_5_vl_7b")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, as in `edit-r1 doctor`")
    parser.add_argument("--steps", type=int, default=3, help="of the cold start; of several the first is left out")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
