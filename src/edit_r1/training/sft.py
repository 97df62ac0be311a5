"""Supervised fine-tuning of a verifier by TRL's `SFTTrainer`: two images and a prompt in, loss on the answer alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from PIL.Image import Image
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from edit_r1.files import disk_errors
from edit_r1.runs.progress import Tracker, track
from edit_r1.runs.run import Run
from edit_r1.stages import SftConfig


def example(source: Image, edited: Image, prompt: str, completion: str) -> dict[str, Any]:
    """One training row in TRL's conversational prompt-completion form with two images."""
    return {
        "images": [source, edited],
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
    }


class RunLog(TrainerCallback):
    """Writes the trainer's metrics into the run and shows them on the progress bar."""

    def __init__(self, run: Run, bar: Tracker) -> None:
        self._run, self._bar = run, bar

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One step further."""
        self._bar.advance()

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Record what is a number; the summary at the end of training is not a step."""
        if logs and "loss" in logs:
            metrics = {key: float(value) for key, value in logs.items() if key != "epoch"}
            self._run.log(state.global_step, **metrics)
            self._bar.advance(0, loss=metrics["loss"])


def last_checkpoint(out: Path) -> Path | None:
    """The newest complete checkpoint of a transformers trainer in `out`; the trainer writes its state file last."""
    complete = [c for c in out.glob("checkpoint-*") if (c / "trainer_state.json").is_file()]
    return max(complete, key=lambda c: int(c.name.split("-")[1]), default=None)


def fine_tune(
    model: PreTrainedModel,
    processor: Any,
    dataset: Dataset | IterableDataset,
    config: SftConfig,
    run: Run,
    title: str,
    *,
    seed: int,
    resume: bool,
) -> None:
    """Train `model` in place; checkpoints go to `run/trainer`, and `resume` continues from the last one.

    The checkpoints stay until `finish`, so that nothing is lost before the result is on disk.
    """
    checkpoints = run.path / "trainer"
    last = last_checkpoint(checkpoints) if resume else None
    done = int(last.name.split("-")[1]) if last else 0
    run.rewind(done)
    with track(title, total=config.steps, start=done) as bar:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(config, checkpoints, seed),
            train_dataset=dataset,
            processing_class=processor,
            callbacks=[RunLog(run, bar)],
        )
        trainer.remove_callback(PrinterCallback)
        with disk_errors(checkpoints):
            trainer.train(resume_from_checkpoint=str(last) if last else None)


def finish(run: Run, model: PreTrainedModel, processor: Any, summary: dict[str, Any]) -> None:
    """Write `run/model` and the summary; only then the checkpoints go."""
    with disk_errors(run.path):
        model.save_pretrained(run.path / "model")
        processor.save_pretrained(run.path / "model")
    run.finish(summary)
    shutil.rmtree(run.path / "trainer", ignore_errors=True)


def _arguments(config: SftConfig, out: Path, seed: int) -> SFTConfig:
    return SFTConfig(
        output_dir=str(out),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(config.warmup_share * config.steps)),
        weight_decay=config.weight_decay,
        adam_beta2=0.99,  # runs of a few thousand steps are short for the usual 0.999
        max_grad_norm=config.max_grad_norm,
        save_steps=config.checkpoint_every,
        save_total_limit=1,
        logging_steps=10,
        seed=seed,
        data_seed=seed,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        completion_only_loss=True,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
