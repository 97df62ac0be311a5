"""One step of editor GRPO on FLUX.1-Kontext's full-size architecture with random weights, on one GPU, beside its floor.

    python -m benchmarks.kontext_step --group 8 --verifier-config src/edit_r1/recipes/qwen_vl/qwen3_vl_4b.json
    python -m benchmarks.kontext_step --scale tiny      # the same code in seconds on a CPU

Time and memory depend on sizes, not on what the weights say: so nothing is downloaded. The transformer is made on the
device in bfloat16 (in float32 on a CPU), with LoRA in float32. Text encoders and VAE are not there: conditioning is
random numbers of the right shapes, images are grey; what encoding and decoding cost (once per task, once per edit) is
not in the numbers. Rollout and update are the project's own, advantages are fixed. The verifier, where its
configuration is given, is a random Qwen-VL which reads two random pictures and a prompt as long as the template
`verify`, and writes `--max-tokens` tokens of each trace, greedily, by transformers' `generate`.

The *floor* of a part is the larger of operations / peak and bytes / bandwidth, both counted, not measured:

- operations of the transformer by torch's counter on the meta device: one pass for each sampling step, and for each
  trained step one of the base (where beta is not 0) and one forward and backward, in which the frozen weights get no
  gradients. What checkpointing computes again is not in it;
- bytes: the weights once for each pass of a micro batch, and what AdamW and the running mean read and write;
- the verifier: two operations per weight and token, and the weights once per written token of a batch.

MFU (model FLOPs utilisation) is these operations / (seconds * peak); HFU counts what is computed again too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.kontext_floor import CARDS, Work, count_passes, step_work, verifier_work
from benchmarks.kontext_random import SCALES, RandomKontext, RandomVerifier, Scale, plain_task

from edit_r1.errors import UserError
from edit_r1.files import atomic_write
from edit_r1.runs.environment import environment
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.editor_grpo import new_policy
from edit_r1.training.editor_policy import EditorPolicy
from edit_r1.training.editor_rollout import Draw, Part, sample_groups
from edit_r1.training.editor_update import update
from edit_r1.training.processes import device

PARTS = ("sample", "verify", "update")


def run_step(
    editor: RandomKontext,
    policy: EditorPolicy,
    verifier: RandomVerifier | None,
    config: EditorGrpoConfig,
    prompts: int,
    number: int,
) -> dict[str, dict[str, float]]:
    """Seconds and peak bytes of each part of one step. Advantages are fixed: evenly from -1 to 1 in every group."""
    tasks = [plain_task(editor.width) for _ in range(prompts)]
    advantages = torch.linspace(-1, 1, config.group_size).repeat(prompts)
    made: list[Part] = []
    work: dict[str, Callable[[], Any]] = {
        "sample": lambda: made.extend(sample_groups(editor, tasks, config, Draw(0, number))),
        "verify": lambda: verifier(len(advantages)) if verifier else None,
        "update": lambda: update(editor, policy, made, advantages, torch.ones(len(advantages)).bool(), config),
    }
    return {part: _measured(work[part], editor.device) for part in PARTS}


def summary(
    turns: Sequence[dict[str, dict[str, float]]], work: dict[str, Work], card: tuple[float, float] | None
) -> dict[str, Any]:
    """Medians, shares, and how far they are from the floor; what needs the card's speed is None where it is unknown."""
    parts: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        seconds = median(turn[part]["seconds"] for turn in turns)
        parts[part] = {"seconds": seconds, "peak_bytes": max(turn[part]["bytes"] for turn in turns) or None}
    total = sum(part["seconds"] for part in parts.values())
    for name, part in [*parts.items(), ("step", {"seconds": total})]:
        some = [work[name]] if name in work else list(work.values())
        operations, again = sum(w.operations for w in some), sum(w.again for w in some)
        spent = part["seconds"] * card[0] if card and part["seconds"] else None
        parts[name] = part | {
            "share": part["seconds"] / total,
            "operations": operations,
            "floor_seconds": sum(w.floor(*card) for w in some) if card else None,
            "mfu": operations / spent if spent else None,
            "hfu": (operations + again) / spent if spent else None,
        }
    parts["step"]["peak_bytes"] = max(parts[part]["peak_bytes"] or 0 for part in PARTS) or None
    return parts


def main(argv: Sequence[str] | None = None) -> None:
    """Count, measure, print the table and write the JSON."""
    arguments = _arguments(argv)
    try:
        report = measure(arguments)
    except torch.OutOfMemoryError as error:
        raise SystemExit(f"error: it does not fit ({str(error).splitlines()[0]}); lower --micro-batch") from None
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    sys.stdout.write(_table(report))
    if arguments.out:
        atomic_write(arguments.out, json.dumps(report, indent=2) + "\n")


def measure(arguments: Any) -> dict[str, Any]:
    """Everything that is printed and written."""
    scale: Scale = SCALES[arguments.scale]
    side, rows = arguments.side or scale.side, arguments.prompts * arguments.group
    config = EditorGrpoConfig(
        group_size=arguments.group,
        prompts_per_step=arguments.prompts,
        sample_steps=arguments.sample_steps,
        sde_steps=tuple(range(arguments.trained_steps)),
        micro_batch=arguments.micro_batch,
        lora_rank=arguments.rank,
        lora_alpha=arguments.rank,
        beta=arguments.beta,
        bf16=arguments.bf16,
        gradient_checkpointing=arguments.gradient_checkpointing,
    )
    passes = count_passes(scale, side, config)
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    with device(), _default(dtype):
        editor = RandomKontext(scale, side)
    with device():
        policy = new_policy(editor, config, 0)
    frozen = [p for p in editor.transformer.parameters() if not p.requires_grad]
    trained = sum(parameter.numel() for parameter in policy.parameters.values())
    weights = sum(p.numel() * p.element_size() for p in editor.transformer.parameters())
    work = step_work(passes, rows, config, weights, trained) | {"verify": Work()}
    verifier = None
    if arguments.verifier_config:
        batch, written = arguments.verify_batch, arguments.max_tokens
        verifier = RandomVerifier(arguments.verifier_config, side, written, batch, device(), dtype)
        work["verify"] = verifier_work(verifier.size, rows, verifier.prompt, verifier.patches, written, batch)
    turns = [
        run_step(editor, policy, verifier, config, arguments.prompts, number) for number in range(arguments.repeats + 1)
    ]
    card = _card(arguments)
    return {
        "environment": environment(),
        "scale": arguments.scale,
        "side": side,
        "edits": rows,
        "config": config.model_dump(mode="json"),
        "frozen_parameters": sum(parameter.numel() for parameter in frozen),
        "trained_parameters": trained,
        "verifier_parameters": verifier.size.parameters if verifier else 0,
        "repeats": arguments.repeats,
        "card": {"operations_per_second": card[0], "bytes_per_second": card[1]} if card else None,
        "parts": summary(turns[1:], work, card),  # the first step also pays for workspaces and kernels
    }


def _measured(work: Callable[[], Any], where: torch.device) -> dict[str, float]:
    gpu = where.type == "cuda"
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    if gpu:
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "bytes": torch.cuda.max_memory_allocated() if gpu else 0}


def _card(arguments: Any) -> tuple[float, float] | None:
    """Operations and bytes per second: those given, else by the card's name; None where one is not known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak, bandwidth = next((speeds for part, speeds in CARDS.items() if part in name), (0.0, 0.0))
    peak = 1e12 * arguments.peak_tflops if arguments.peak_tflops else peak
    bandwidth = 1e9 * arguments.bandwidth if arguments.bandwidth else bandwidth
    return (peak, bandwidth) if peak and bandwidth else None


@contextmanager
def _default(dtype: torch.dtype) -> Generator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _table(report: dict[str, Any]) -> str:
    def cell(value: float | None, form: str, scale: float = 1.0) -> str:
        return "-" if value is None else format(value / scale, form)

    lines = [
        f"{report['frozen_parameters']:,} frozen and {report['trained_parameters']:,} trained parameters, "
        f"{report['edits']} edits of {report['side']} pixels; median of {report['repeats']} steps",
        f"{'':8s}{'seconds':>9s}{'share':>7s}{'peak GiB':>10s}{'TFLOP':>11s}{'floor s':>9s}{'MFU':>7s}{'HFU':>7s}",
    ]
    for name, part in report["parts"].items():
        lines.append(
            f"{name:8s}{part['seconds']:9.3f}{part['share']:7.0%}{cell(part['peak_bytes'], '.1f', 2**30):>10s}"
            f"{part['operations'] / 1e12:11.3g}{cell(part['floor_seconds'], '.3f'):>9s}"
            f"{cell(part['mfu'], '.1%'):>7s}{cell(part['hfu'], '.1%'):>7s}"
        )
    if report["card"] is None:
        lines.append("the card's speed is not known: give --peak-tflops and --bandwidth for floor and utilisation")
    return "\n".join(lines) + "\n"


def _arguments(argv: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description="one step of editor GRPO on Kontext's architecture, and its floor")
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--side", type=int, help="pixels of an image (default: 512, tiny 64)")
    parser.add_argument("--prompts", type=int, default=1, help="tasks of a step")
    parser.add_argument("--group", type=int, default=8, help="edits of a task")
    parser.add_argument("--sample-steps", type=int, default=6)
    parser.add_argument("--trained-steps", type=int, default=1, help="the first so many of them")
    parser.add_argument("--micro-batch", type=int, default=4, help="edits that pass the transformer together")
    parser.add_argument("--rank", type=int, default=64, help="of LoRA")
    parser.add_argument("--beta", type=float, default=0.04, help="weight of the KL; 0 saves the pass of the base")
    parser.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--verifier-config", type=Path, help="config.json of a Qwen-VL; without it nothing is verified")
    parser.add_argument("--max-tokens", type=int, default=512, help="of each trace")
    parser.add_argument("--verify-batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, help="of the card in dense bfloat16 (known: H200, H100, A100)")
    parser.add_argument("--bandwidth", type=float, help="of the card's memory in GB/s (likewise)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
