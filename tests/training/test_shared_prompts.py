"""Batches of TRL that are put together and cut, and log-probabilities in parts."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny_run import tiny_verifier, tiny_world
from trl.trainer.grpo_trainer import GRPOTrainer

from edit_r1.records import Provenance, Verdict
from edit_r1.stages import GcpoConfig
from edit_r1.training import gcpo, gcpo_trainer
from edit_r1.training.shared_prompts import joined

PAD = 99


def batch(start: int, prompt: int, answer: int, ratios: int) -> dict[str, Any]:
    """Two rows of numbers from `start` on, with one picture of two patches each, and so many ratios for each row."""
    sizes = {"prompt": prompt, "completion": answer}
    texts = {f"{part}_ids": torch.full((2, size), start) + torch.tensor([[0], [1]]) for part, size in sizes.items()}
    masks = {f"{part}_mask": torch.ones(2, size, dtype=torch.long) for part, size in sizes.items()}
    return (
        texts
        | masks
        | {
            "advantages": torch.tensor([start, start + 1.0]),
            "importance_sampling_ratio": torch.full((2, ratios), float(start)),
            "mm_token_type_ids": torch.ones(2, prompt + answer),
            "num_items_in_batch": torch.tensor(7),
            "pixel_values": torch.arange(4.0)[:, None] + start,
            "image_grid_thw": torch.tensor([[1, 1, 2]] * 2),
            "num_images": [1, 1],
        }
    )


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("answers", [(1, 3), (3, 1)])
def test_batches_are_joined(by_token: bool, answers: tuple[int, int]) -> None:
    """Row 1 of the first and row 0 of the second: prompts are padded on the left, answers on the right, by hand.

    vLLM's ratio is one number for each token, or as by TRL's default for each trace: that one stays as it is.
    """
    first = batch(10, 2, answers[0], answers[0] if by_token else 1)
    second = batch(20, 3, answers[1], answers[1] if by_token else 1)
    found = joined(first, second, [1, 2], PAD)
    texts = [[11] * answers[0], [20] * answers[1]]
    assert found["prompt_ids"].tolist() == [[PAD, 11, 11], [20, 20, 20]]
    assert found["prompt_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert found["completion_ids"].tolist() == [text + [PAD] * (3 - len(text)) for text in texts]
    assert found["completion_mask"].tolist() == [[1] * len(text) + [0] * (3 - len(text)) for text in texts]
    types = [[0, 1, 1, *found["completion_mask"][0]], [1, 1, 1, *found["completion_mask"][1]]]
    assert found["mm_token_type_ids"].tolist() == types
    ratios = [[value] * len(text) + [0.0] * (3 - len(text)) for value, text in zip((10.0, 20.0), texts, strict=True)]
    assert found["importance_sampling_ratio"].tolist() == (ratios if by_token else [[10.0], [20.0]])
    assert found["advantages"].tolist() == [11, 20]
    assert found["pixel_values"].flatten().tolist() == [12, 13, 20, 21]
    assert found["num_images"] == [1, 1]


def test_log_probabilities_before_updates_are_made_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further updates need the first's log-probabilities of all 16 rows; they too are computed 4 rows at a time.

    They are those of TRL, which computes them in one part here.
    """
    script = cycle([7.0, 3, 5, 9, 6, 2, 8, 4])
    monkeypatch.setattr(
        gcpo, "trace_verdict", lambda c, asked: Verdict((), next(script), c.text, Provenance("", "", "", "", 0))
    )
    rows: list[int] = []
    ours, read = gcpo.GcpoTrainer._get_per_token_logps_and_entropies, gcpo_trainer.answer_logits

    def compare(
        self: gcpo.GcpoTrainer, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, **rest: Any
    ) -> Any:
        found = ours(self, model, ids, mask, keep, **rest)
        plain = GRPOTrainer._get_per_token_logps_and_entropies(
            self, model, ids, mask, keep, **rest | {"batch_size": None}
        )
        told = mask[:, -keep:].bool()
        torch.testing.assert_close(found[0][told], plain[0][told], atol=2e-5, rtol=0)
        assert (found[1] is None) == (plain[1] is None)
        return found

    def counted(model: Any, prompts: Any, answers: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows.append(len(answers))
        return read(model, prompts, answers, mask)

    monkeypatch.setattr(gcpo.GcpoTrainer, "_get_per_token_logps_and_entropies", compare)
    monkeypatch.setattr(gcpo_trainer, "answer_logits", counted)
    config = GcpoConfig(
        steps=2, updates_per_batch=2, checkpoint_every=2, pairs_per_step=2, traces=4, micro_batch=4, max_tokens=8
    )
    out = tmp_path / "gcpo"
    gcpo.run(config, data=tiny_world(tmp_path), model=tiny_verifier(tmp_path), out=out, seed=0, resume=False)
    assert rows[:4] == [4] * 4
    assert max(rows) == 4
