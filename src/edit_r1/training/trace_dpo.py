"""DPO on pairs of traces (Rafailov et al. 2023, arXiv 2305.18290): a baseline for GCPO with the same rewards, offline.

N traces of either image of a preference pair are drawn once. Of each image the trace with the highest contrastive
reward is chosen and the one with the lowest rejected; an image whose traces all earn the same teaches nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from edit_r1.data.store import read_pairs
from edit_r1.errors import UserError
from edit_r1.files import append_line, disk_errors, drop_partial_line
from edit_r1.records import Failure
from edit_r1.runs.progress import track
from edit_r1.runs.run import made_from, weights_of
from edit_r1.stages import TRAIN_PAIRS, TraceDpoConfig
from edit_r1.training.backbone import adapter, load_backbone, trainer_arguments
from edit_r1.training.contrast import contrast
from edit_r1.training.gcpo import pair_rows, trace_verdict
from edit_r1.training.processes import check_alone, console, device, open_run
from edit_r1.training.sft import RunLog, finish, resume_point
from edit_r1.verifier.engines.transformers_engine import TransformersEngine
from edit_r1.verifier.prompting import Prompt
from edit_r1.verifier.verifier import Completion

_CHUNK = 64  # pairs whose traces are drawn and written down together; part of what a seed means
_Texts = tuple[str, str] | None
"""A chosen and a rejected trace of an image; None where all earn the same."""


def trace_pair(rewards: Sequence[float]) -> tuple[int, int] | None:
    """Places of the trace that earns most and of the one that earns least, first of equals; None if all are equal."""
    best, worst = max(range(len(rewards)), key=lambda i: rewards[i]), min(range(len(rewards)), key=lambda i: rewards[i])
    return None if rewards[best] == rewards[worst] else (best, worst)


def sampled_pairs(
    engine: TransformersEngine, rows: Sequence[dict[str, Any]], config: TraceDpoConfig, seed: int, file: Path
) -> list[dict[str, Any]]:
    """Preference rows of TRL's DPO (images, prompt, chosen, rejected) from the traces of winners and losers.

    `file` gets a line for every chunk of them, from which an interrupted drawing goes on with the same traces.
    """
    if file.exists():
        drop_partial_line(file)
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    drawn: list[_Texts] = [texts for line in lines for texts in json.loads(line)]
    with track("Traces", total=len(rows) // 2, start=len(drawn) // 2, console=console()) as bar:
        for start in range(len(drawn), len(rows), 2 * _CHUNK):
            chunk = _draw(engine, rows[start : start + 2 * _CHUNK], config, seed + start)
            append_line(file, json.dumps(chunk))
            drawn += chunk
            bar.advance(len(chunk) // 2)
    return [
        {"images": row["images"], "prompt": row["prompt"], "chosen": _said(texts[0]), "rejected": _said(texts[1])}
        for row, texts in zip(rows, drawn, strict=True)
        if texts is not None
    ]


def _draw(
    engine: TransformersEngine, rows: Sequence[dict[str, Any]], config: TraceDpoConfig, seed: int
) -> list[_Texts]:
    """For each row the texts of its chosen and of its rejected trace."""
    prompts = [Prompt(tuple(row["images"]), row["prompt"][0]["content"]) for row in rows]
    said = engine.generate(
        prompts, n=config.traces, seed=seed, max_tokens=config.max_tokens, temperature=config.temperature
    )
    scores = [[_score(c, row["questions"]) for c in several] for several, row in zip(said, rows, strict=True)]
    rewards = contrast(torch.tensor(scores).view(-1, 2, config.traces)).view(-1, config.traces).tolist()
    places = map(trace_pair, rewards)
    return [pair and (texts[pair[0]].text, texts[pair[1]].text) for texts, pair in zip(said, places, strict=True)]


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _score(completion: Completion, questions: list[str]) -> float:
    verdict = trace_verdict(completion, questions)
    return float("nan") if isinstance(verdict, Failure) else verdict.score


def run(config: TraceDpoConfig, *, data: Path, model: Path, out: Path, seed: int, resume: bool) -> None:
    """Train the verifier in `model` on traces of the pairs in `data`; the result is `out/model`."""
    check_alone("DPO on trace pairs")
    inputs = {"seed": seed, **made_from(data), "model": str(model), **weights_of(model)}
    folder = open_run(out, config, resume, inputs)
    if folder.done is not None:
        return
    torch.manual_seed(seed)
    with folder.unless_refused():
        policy, processor = load_backbone(model, config.backbone)
        rows = list(pair_rows(read_pairs(data / TRAIN_PAIRS), 0, config.backbone.template, gold=False))
    policy.to(device())
    engine = TransformersEngine(policy, processor, name=str(model), batch_size=128)
    made = sampled_pairs(engine, rows, config, seed, out / "trace_pairs.jsonl")
    with folder.unless_refused():
        if not made:
            raise UserError(f"no image has two traces of different reward: give --model {model} a cold start first")
    dataset = Dataset.from_list(made)
    last, done = resume_point(folder, resume)
    with track("DPO", total=config.steps, start=done, console=console()) as bar:
        trainer = DPOTrainer(
            model=policy,
            args=_arguments(config, out / "trainer", seed),
            train_dataset=dataset,  # pyright: ignore[reportArgumentType]
            processing_class=processor,
            callbacks=[RunLog(folder, bar)],
            peft_config=adapter(config.backbone),
        )
        trainer.remove_callback(PrinterCallback)
        with disk_errors(out):
            trainer.train(resume_from_checkpoint=last)
    finish(folder, trainer, processor, {"trace_pairs": len(dataset), "steps": config.steps})


def _arguments(config: TraceDpoConfig, out: Path, seed: int) -> DPOConfig:
    return DPOConfig(
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        beta=config.beta,
        max_length=None,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, config.steps // 20),
        weight_decay=0.0,
        max_grad_norm=config.max_grad_norm,
        save_steps=config.checkpoint_every,
        logging_steps=10,
        **trainer_arguments(config.backbone, out, seed),
    )
