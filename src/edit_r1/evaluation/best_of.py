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

from PIL.Image import Image

from edit_r1.editors.pipeline import PipelineEditor
from edit_r1.editors.single import edit_one, sampling_editor
from edit_r1.evaluation.answers import judgement_to_json
from edit_r1.evaluation.score import named_task, verifier_at, verifier_place
from edit_r1.evaluation.subsets import best
from edit_r1.files import atomic_path, atomic_write, disk_errors
from edit_r1.records import Edit, EditTask, Failure
from edit_r1.runs.progress import track
from edit_r1.stages import EditConfig, SamplingConfig
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

    @property
    def trouble(self) -> str:
        """What the verifier's engine said in place of a trace; empty where it wrote them all."""
        failures = [v for judgement in self.judgements for v in judgement.verdicts if isinstance(v, Failure)]
        return next((failure.text for failure in failures if failure.kind in ("engine", "unreachable")), "")


def make_candidates(
    editor: PipelineEditor, task: EditTask, config: SamplingConfig, count: int, seed: int
) -> list[Edit]:
    """Edits of one task with the seeds `seed`, `seed + 1`, ..., each made alone."""
    edits: list[Edit] = []
    with track("Editing", total=count) as bar:
        for number in range(seed, seed + count):
            edits.append(Edit(task, edit_one(editor, task, config, number), editor.name, number))
            bar.advance()
    return edits


def edit_best_of(
    source: Image,
    instruction: str,
    config: EditConfig,
    *,
    editor: Path | None,
    verifier: Path | None,
    count: int,
    seed: int,
) -> BestOf:
    """Make `count` edits of an image and choose the one that the verifier scores highest; the first of equals.

    Args:
        source: what is edited.
        instruction: what is asked for.
        config: how edits are made, and who names the principles and judges. Several traces are sampled; one is greedy.
            One of a fixed form (the template `compact`) counts by the aggregation `confident`, under which edits hardly
            tie.
        editor: its folder; the shipped tiny base by default.
        verifier: its folder; by default the recipe's server, or the verifier that the demo trained. A single candidate
            is judged only where a folder is given.
        count: how many candidates, N.
        seed: of the first candidate, of the traces and of the chat model that names principles.

    Raises:
        UserError: nobody can name the principles, a folder holds no editor, or there is no verifier.
    """
    task = EditTask(source, instruction, category="")
    if count == 1 and verifier is None:
        return BestOf(tuple(make_candidates(sampling_editor(editor, config), task, config, 1, seed)), (), 0)
    place = verifier_place(config, verifier, "--verifier")
    model = sampling_editor(editor, config)
    task = named_task(task, config.decomposer, seed)
    greedy = config.traces == 1
    aggregate = "confident" if greedy and config.template == "compact" else "model"
    judge = verifier_at(place, config, temperature=0.0 if greedy else 1.0, aggregate=aggregate)
    edits = make_candidates(model, task, config, count, seed)
    judgements = judge.score(edits, config.traces, seed)
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
