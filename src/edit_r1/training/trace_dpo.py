"""DPO on pairs of traces (Rafailov et al. 2023, arXiv 2305.18290): a baseline for GCPO with the same rewards, offline.

N traces of either image of a preference pair are drawn once. Of each image the trace with the highest contrastive
reward is chosen and the one with the lowest rejected; an image whose traces all earn the same teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from edit_r1.data.store import read_pairs
from edit_r1.errors import UserError
from edit_r1.files import disk_errors
from edit_r1.records import Failure
from edit_r1.runs.progress import track
from edit_r1.stages import TRAIN_PAIRS, TraceDpoConfig
from edit_r1.training.backbone import adapter, load_backbone, trainer_arguments
from edit_r1.training.contrast import contrast
from edit_r1.training.gcpo import pair_rows, trace_verdict
from edit_r1.training.processes import console, open_run
from edit_r1.training.sft import RunLog, finish, resume_point
from edit_r1.verifier.engines.transformers_engine import TransformersEngine
from edit_r1.verifier.prompting import Prompt
from edit_r1.verifier.verifier import Completion

_CHUNK = 64  # pairs between two steps of the progress bar


def trace_pair(rewards: Sequence[float]) -> tuple[int, int] | None:
    """Places of the trace that earns most and of the one that earns least, first of equals; None if all are equal."""
    best, worst = max(range(len(rewards)), key=lambda i: rewards[i]), min(range(len(rewards)), key=lambda i: rewards[i])
    return None if rewards[best] == rewards[worst] else (best, worst)


def sampled_pairs(
    engine: TransformersEngine, rows: Sequence[dict[str, Any]], config: TraceDpoConfig, seed: int
) -> list[dict[str, Any]]:
    """Preference rows of TRL's DPO (images, prompt, chosen, rejected) from the traces of winners and losers."""
    made: list[dict[str, Any]] = []
    with track("Traces", total=len(rows) // 2, console=console()) as bar:
        for start in range(0, len(rows), 2 * _CHUNK):
            chunk = rows[start : start + 2 * _CHUNK]
            prompts = [Prompt(tuple(row["images"]), row["prompt"][0]["content"]) for row in chunk]
            said = engine.generate(
                prompts,
                n=config.traces,
                seed=seed + start,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
            )
            scores = [[_score(c, row["questions"]) for c in several] for several, row in zip(said, chunk, strict=True)]
            rewards = contrast(torch.tensor(scores).view(-1, 2, config.traces)).view(-1, config.traces).tolist()
            for row, several, earned in zip(chunk, said, rewards, strict=True):
                places = trace_pair(earned)
                if places is not None:
                    chosen, rejected = ([{"role": "assistant", "content": several[p].text}] for p in places)
                    made.append(
                        {"images": row["images"], "prompt": row["prompt"], "chosen": chosen, "rejected": rejected}
                    )
            bar.advance(len(chunk) // 2)
    return made


def _score(completion: Completion, questions: list[str]) -> float:
    verdict = trace_verdict(completion, questions)
    return float("nan") if isinstance(verdict, Failure) else verdict.score


def run(config: TraceDpoConfig, *, data: Path, model: Path, out: Path, seed: int, resume: bool) -> None:
    """Train the verifier in `model` on traces of the pairs in `data`; the result is `out/model`."""
    folder = open_run(out, config, resume, {"seed": seed, "data": str(data), "model": str(model)})
    if folder.done is not None:
        return
    torch.manual_seed(seed)
    policy, processor = load_backbone(model, config.backbone)
    if not (out / "traces").is_dir():
        rows = list(pair_rows(read_pairs(data / TRAIN_PAIRS), 0, config.backbone.template, gold=False))
        engine = TransformersEngine(policy, processor, name=str(model), batch_size=128)
        with disk_errors(out):
            made = sampled_pairs(engine, rows, config, seed)
            if not made:
                raise UserError(f"no image has two traces of different reward: give --model {model} a cold start first")
            Dataset.from_list(made).save_to_disk(out / "traces.partial")
            (out / "traces.partial").rename(out / "traces")
    dataset = load_from_disk(str(out / "traces"))
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
