"""A Bradley-Terry head on a verifier's backbone: one number per edit and no words, trained on the same pairs.

The baseline that most reward models are. P(winner preferred) = sigmoid(s_winner - s_loser); the loss is its negative
logarithm (Bradley and Terry 1952). Shapes: P pairs, B edits, D hidden size.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from edit_r1.data.store import read_pairs
from edit_r1.errors import UserError
from edit_r1.files import disk_errors
from edit_r1.records import Edit
from edit_r1.runs.progress import track
from edit_r1.runs.run import made_from, weights_of
from edit_r1.stages import TRAIN_PAIRS, BradleyTerryConfig
from edit_r1.training.backbone import load_backbone, trainer_arguments
from edit_r1.training.gcpo import pair_rows
from edit_r1.training.processes import check_alone, console, open_run
from edit_r1.training.sft import RunLog, resume_point
from edit_r1.verifier.prompting import build_prompt, chat_message
from edit_r1.verifier.tiny import load_verifier_model

HEAD = "head.safetensors"
"""The head's file, beside the backbone's in a model folder."""


class ScalarJudge(nn.Module):
    """The hidden state at the end of a prompt, times a vector."""

    def __init__(self, backbone: nn.Module, hidden: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, **inputs: Any) -> Tensor:
        """Scores [B], on the scale of log-odds, of left-padded prompts."""
        return self.head(self.backbone(**inputs).last_hidden_state[:, -1])[:, 0]


def preference_loss(scores: Tensor) -> Tensor:
    """-log sigmoid(s_winner - s_loser), mean over pairs; scores [2P], every winner before its loser."""
    return -F.logsigmoid(scores[0::2] - scores[1::2]).mean()


def encoded(processor: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Rows with `prompt` and `images` as left-padded inputs of a model."""
    texts = [
        processor.apply_chat_template(
            [chat_message(row["prompt"][0]["content"], len(row["images"]))],
            add_generation_prompt=True,
            tokenize=False,
        )
        for row in rows
    ]
    images = [list(row["images"]) for row in rows]
    return dict(processor(text=texts, images=images, return_tensors="pt", padding=True))


class _PairTrainer(Trainer):
    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        return preference_loss(model(**inputs))


def run(config: BradleyTerryConfig, *, data: Path, model: Path, out: Path, seed: int, resume: bool) -> None:
    """Train the backbone in `model` and a new head on the pairs in `data`; the result is `out/model`.

    Raises:
        UserError: the settings ask for adapters or for checkpointing, which this baseline has not.
    """
    if config.backbone.lora_rank or config.backbone.gradient_checkpointing:
        raise UserError(
            "the Bradley-Terry head is trained with all weights and all activations: leave backbone.lora_rank at 0 and "
            "backbone.gradient_checkpointing at false"
        )
    check_alone("the Bradley-Terry head")
    inputs = {"seed": seed, **made_from(data), "model": str(model), **weights_of(model)}
    folder = open_run(out, config, resume, inputs)
    if folder.done is not None:
        return
    torch.manual_seed(seed)
    with folder.unless_refused():
        whole, processor = load_backbone(model, config.backbone)
        rows = list(pair_rows(read_pairs(data / TRAIN_PAIRS), 0, config.backbone.template, gold=False))
    judge = ScalarJudge(whole.model, whole.config.text_config.hidden_size)
    pairs = Dataset.from_list([{"pair": index} for index in range(len(rows) // 2)])
    last, done = resume_point(folder, resume)

    def collate(batch: list[dict[str, int]]) -> dict[str, Tensor]:
        return encoded(processor, [rows[2 * row["pair"] + side] for row in batch for side in (0, 1)])

    with track("Bradley-Terry", total=config.steps, start=done, console=console()) as bar:
        trainer = _PairTrainer(
            model=judge,
            args=_arguments(config, out / "trainer", seed),
            train_dataset=pairs,  # pyright: ignore[reportArgumentType]
            data_collator=collate,
            callbacks=[RunLog(folder, bar)],
        )
        trainer.remove_callback(PrinterCallback)
        with disk_errors(out):
            trainer.train(resume_from_checkpoint=last)
            whole.save_pretrained(out / "model")
            processor.save_pretrained(out / "model")
            save_file({"weight": judge.head.weight.detach().cpu()}, out / "model" / HEAD)
    folder.finish({"pairs": len(pairs), "steps": config.steps})
    shutil.rmtree(out / "trainer", ignore_errors=True)


def _arguments(config: BradleyTerryConfig, out: Path, seed: int) -> TrainingArguments:
    return TrainingArguments(
        max_steps=config.steps,
        per_device_train_batch_size=config.pairs_per_step,
        learning_rate=config.learning_rate,
        warmup_steps=max(1, config.steps // 20),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        save_steps=config.checkpoint_every,
        logging_steps=10,
        **trainer_arguments(config.backbone, out, seed),
    )


def score(folder: Path, edits: Sequence[Edit], template: str = "compact", batch_size: int = 64) -> list[float]:
    """The judge's score of every edit, on the scale of log-odds."""
    whole, processor = load_verifier_model(folder)
    judge = ScalarJudge(whole.model, whole.config.text_config.hidden_size)
    judge.head.load_state_dict(load_file(folder / HEAD))
    judge.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    scores: list[float] = []
    with torch.no_grad():
        for start in range(0, len(edits), batch_size):
            prompts = [
                build_prompt(e.task, e.image, e.task.principles, template) for e in edits[start : start + batch_size]
            ]
            rows = [{"images": p.images, "prompt": [{"content": p.text}]} for p in prompts]
            inputs = {key: value.to(whole.device) for key, value in encoded(processor, rows).items()}
            scores += judge(**inputs).tolist()
    return scores
