"""Best of N: several edits of one image, of which the verifier chooses one. The use of a verifier without training.

Candidate k of seed s is the edit that seed s + k makes, whatever N is: candidates are made one at a time, because the
same row of another batch may be rounded differently. So any of them can be made again alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from edit_r1 import assets
from edit_r1.editors.base import Editor, edit, to_pil
from edit_r1.editors.loading import load_editor
from edit_r1.evaluation.answers import judgement_to_json
from edit_r1.evaluation.score import demo_verifier, grammar_task
from edit_r1.evaluation.subsets import best
from edit_r1.files import atomic_path, atomic_write, disk_errors
from edit_r1.records import Edit, EditTask
from edit_r1.runs.progress import track
from edit_r1.verifier.local import load_verifier
from edit_r1.verifier.verifier import Judgement


@dataclass(frozen=True)
class BestOf:
    """Candidates in the order of their seeds.

    Attributes:
        edits: the candidates, at least one; their seeds say how to make each again.
        judgements: what the verifier made of each; empty when none was asked.
        chosen: index of the best; None when no candidate could be judged.
    """

    edits: tuple[Edit, ...]
    judgements: tuple[Judgement, ...]
    chosen: int | None

    @property
    def failures(self) -> int:
        """Candidates without one readable trace."""
        return sum(judgement.score is None for judgement in self.judgements)

    @property
    def scores(self) -> list[float | None]:
        """Score of each candidate in [0, 10]; None for one that cannot be read, or when no verifier was asked."""
        return [judgement.score for judgement in self.judgements] or [None] * len(self.edits)


def make_candidates(editor: Editor, task: EditTask, count: int, steps: int, seed: int) -> list[Edit]:
    """Edits of one task with the seeds `seed`, `seed + 1`, ..., sampled deterministically (ODE) in `steps` steps."""
    edits: list[Edit] = []
    with track("Editing", total=count) as bar:
        for number in range(seed, seed + count):
            edits.append(Edit(task, to_pil(edit(editor, [task], steps, number))[0], editor.name, number))
            bar.advance()
    return edits


def edit_best_of(
    source: Image,
    instruction: str,
    *,
    editor: Path | None,
    verifier: Path | None,
    count: int,
    steps: int,
    traces: int,
    seed: int,
) -> BestOf:
    """Make `count` edits of an image and choose the one that the verifier scores highest; the first of equals.

    Args:
        source: what is edited; of the built-in world where a verifier is asked, for its grammar gives the principles.
        instruction: what is asked for.
        editor: its folder; the shipped tiny base by default.
        verifier: its folder; the one that the demo trained by default. A single candidate is judged only where a
            verifier is given.
        count: how many candidates, N.
        steps: sampling steps of the editor.
        traces: traces of the verifier per candidate: one is greedy, with the aggregation `confident`, under which edits
            hardly tie; several are sampled.
        seed: of the first candidate and of the traces.

    Raises:
        UserError: the instruction is outside the world's grammar, or a folder holds no editor or no verifier.
    """
    judged = count > 1 or verifier is not None
    task = grammar_task(source, instruction) if judged else EditTask(source, instruction, category="")
    folder = demo_verifier(verifier, "--verifier") if judged else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_editor(editor or assets.EDITOR).to(device)
    greedy: dict[str, Any] = {"temperature": 0.0, "aggregate": "confident"} if traces == 1 else {}
    judge = load_verifier(folder, **greedy) if folder is not None else None
    edits = make_candidates(model, task, count, steps, seed)
    if judge is None:
        return BestOf(tuple(edits), (), 0)
    judgements = judge.score(edits, traces, seed)
    return BestOf(tuple(edits), tuple(judgements), best([judgement.score for judgement in judgements]))


def save_image(image: Image, path: Path) -> None:
    """Write a PNG, whole or not at all; an older one is replaced."""
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG")


def save_all(result: BestOf, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write every candidate as `seed<number>.png`, and then `candidates.json` with scores, traces and `settings`."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    said: Sequence[dict[str, Any]] = [judgement_to_json(j) for j in result.judgements] or [{"score": None}] * len(
        result.edits
    )
    rows: list[dict[str, Any]] = []
    for candidate, judgement in zip(result.edits, said, strict=True):
        name = f"seed{candidate.seed}.png"
        save_image(candidate.image, folder / name)
        rows.append({"seed": candidate.seed, "image": name, **judgement})
    document = {"schema": 1, **settings, "chosen": result.chosen, "failures": result.failures, "candidates": rows}
    atomic_write(folder / "candidates.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
