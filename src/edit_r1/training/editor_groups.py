"""What a person may look at: the best and the worst group of a step, with pictures and rewards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from edit_r1.files import atomic_write, disk_errors
from edit_r1.records import Edit


def best_and_worst(rewards_PG: Tensor) -> dict[str, int]:
    """The groups with the highest and the lowest mean over readable rewards (NaN: unreadable)."""
    means = rewards_PG.nanmean(1)
    known = torch.nonzero(~means.isnan()).flatten()
    if not len(known):
        return {}
    return {"best": int(known[means[known].argmax()]), "worst": int(known[means[known].argmin()])}


def record_groups(folder: Path, edits: Sequence[Edit], rewards_PG: Tensor, advantages_PG: Tensor) -> None:
    """Write `best/` and `worst/` into `folder`: source.png, 00.png, 01.png, ... and group.json.

    group.json: `instruction`, `category`, `rewards` (null where the verifier could not be read), `advantages`.
    """
    size = rewards_PG.shape[1]
    for name, group in best_and_worst(rewards_PG).items():
        members = edits[group * size : (group + 1) * size]
        place = folder / name
        with disk_errors(place):
            place.mkdir(parents=True, exist_ok=True)
        _save(members[0].task.source, place / "source.png")
        for index, member in enumerate(members):
            _save(member.image, place / f"{index:02d}.png")
        rewards: list[float] = rewards_PG[group].tolist()
        document = {
            "instruction": members[0].task.instruction,
            "category": members[0].task.category,
            "rewards": [None if reward != reward else reward for reward in rewards],
            "advantages": advantages_PG[group].tolist(),
        }
        atomic_write(place / "group.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _save(image: Image.Image, path: Path) -> None:
    with disk_errors(path):
        image.save(path)
