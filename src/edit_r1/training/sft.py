"""Supervised fine-tuning of a verifier by TRL's `SFTTrainer`: two images and a prompt in, loss on the answer alone.

Also what every trainer of a verifier shares: its log, its checkpoints and its end.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from peft import PeftModel
from PIL.Image import Image
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from edit_r1.errors import UserError
from edit_r1.files import disk_errors
from edit_r1.runs.progress import Tracker, track
from edit_r1.runs.run import Run
from edit_r1.stages import SftConfig
from edit_r1.training.backbone import adapter, micro_batches, trainer_arguments
from edit_r1.training.processes import console, process
from edit_r1.verifier.tiny import load_verifier_model


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
        """Record what was measured; the summary at the end of training is not a step.

        Raises:
            UserError: the loss is no number; what was trained then is worth nothing.
        """
        if not logs or "loss" not in logs:
            return
        metrics = {key: float(value) for key, value in logs.items() if key != "epoch" and value is not None}
        if state.is_world_process_zero:
            self._run.log(state.global_step, **metrics)
            self._bar.advance(0, loss=metrics["loss"])
        if not math.isfinite(metrics["loss"]):
            raise UserError(
                f"the loss is {metrics['loss']} at step {state.global_step}: begin anew with a lower learning_rate"
            )


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
    callbacks: Iterable[TrainerCallback] = (),
) -> SFTTrainer:
    """Train `model`; checkpoints go to `run/trainer`, and `resume` continues from the last one.

    The checkpoints stay until `finish`, so that nothing is lost before the result is on disk.
    """
    checkpoints = run.path / "trainer"
    last, done = resume_point(run, resume)
    with track(title, total=config.steps, start=done, console=console()) as bar:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(config, checkpoints, seed),
            train_dataset=dataset,
            processing_class=processor,
            callbacks=[RunLog(run, bar), *callbacks],
            peft_config=adapter(config.backbone),  # pyright: ignore[reportArgumentType]
        )
        trainer.remove_callback(PrinterCallback)
        with disk_errors(checkpoints):
            trainer.train(resume_from_checkpoint=last)
    return trainer


def resume_point(run: Run, resume: bool) -> tuple[str | None, int]:
    """The checkpoint to go on from, if any, and its step; what was recorded after it is forgotten."""
    last = last_checkpoint(run.path / "trainer") if resume else None
    done = int(last.name.split("-")[1]) if last else 0
    if process().is_main_process:
        run.rewind(done)
    return (str(last) if last else None), done


def finish(run: Run, trainer: Trainer, processor: Any, summary: dict[str, Any]) -> None:
    """Write `run/model` and the summary; only then the checkpoints go. An adapter is merged into its model.

    Raises:
        RuntimeError: the trainer ended before its last step; transformers only warns when there is too little data.
    """
    done, steps = trainer.state.global_step, trainer.args.max_steps
    if done < steps:  # one that was resumed at its end may have made one more
        raise RuntimeError(f"the trainer of {run.path} stopped after {done} of {steps} steps")
    state = trainer.accelerator.get_state_dict(trainer.model)  # gathered, where processes hold parts of it
    if process().is_main_process:
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        # Servers sample by the file of a model folder; the policy is that of the bare temperature, as in this process.
        model.generation_config.update(do_sample=True, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
        with disk_errors(run.path):
            if is_peft_model(model):
                model.save_pretrained(run.path / "adapter", state_dict=state)
                base = model.get_base_model()
                fresh, _ = load_verifier_model(Path(base.name_or_path), dtype=base.dtype)
                fresh.generation_config = model.generation_config
                PeftModel.from_pretrained(fresh, run.path / "adapter").merge_and_unload().save_pretrained(
                    run.path / "model"
                )
            else:
                model.save_pretrained(run.path / "model", state_dict=state)
            processor.save_pretrained(run.path / "model")
        run.finish(summary)
        shutil.rmtree(run.path / "trainer", ignore_errors=True)
    process().wait_for_everyone()


def _arguments(config: SftConfig, out: Path, seed: int) -> SFTConfig:
    parts = micro_batches(config.batch_size, config.micro_batch or config.batch_size)
    return SFTConfig(
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size // parts,
        gradient_accumulation_steps=parts,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, round(config.warmup_share * config.steps)),
        weight_decay=config.weight_decay,
        adam_beta2=0.99,  # runs of a few thousand steps are short for the usual 0.999
        max_grad_norm=config.max_grad_norm,
        save_steps=config.checkpoint_every,
        logging_steps=10,
        max_length=None,
        completion_only_loss=True,
        **trainer_arguments(config.backbone, out, seed),
    )
