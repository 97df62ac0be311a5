"""What a choice among N edits gains, against N: by verifiers, at random, and by the oracle, which bounds both.

Every task of the built-in world is edited `candidates` times, once and for all; `subsets` gives all N from that. All
choices see the same candidates, so that gains are paired. The oracle decides what is right, and never enters a score.

    candidates.jsonl     a line per task: which candidates are right, and every verifier's scores
    results.json         `Result`
    best_of.png          its curves
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edit_r1 import assets
from edit_r1.editors.base import Editor, edit, to_pil
from edit_r1.editors.loading import load_editor
from edit_r1.errors import UserError
from edit_r1.evaluation.best_of_plot import draw_curve
from edit_r1.evaluation.best_of_result import Chosen, Point, Result, Share
from edit_r1.evaluation.editor import held_out_tasks
from edit_r1.evaluation.metrics import ci95
from edit_r1.evaluation.subsets import any_success, chosen_success, no_choice
from edit_r1.files import append_line, atomic_path, atomic_write
from edit_r1.records import Edit
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run, weights_of
from edit_r1.stages import BestOfConfig
from edit_r1.verifier.local import load_verifier
from edit_r1.verifier.verifier import Verifier
from edit_r1.world.render import from_image
from edit_r1.world.tasks import WorldTask, judge_edits

_STREAM = 33  # keeps the noise of these edits apart from other randomness of the same seed


@dataclass(frozen=True)
class Judged:
    """The candidates of one task: whether each is right, and its score by the name of each verifier."""

    category: str
    successes: tuple[bool, ...]
    scores: Mapping[str, Sequence[float | None]]


def sizes(candidates: int) -> list[int]:
    """1, 2, 4, ... up to the number of candidates, and that number."""
    return sorted({2**power for power in range(candidates.bit_length())} | {candidates})


def verifier_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Verifiers by short name: a folder's own (its parent's where it is `model`), or the whole path if two are alike.

    Raises:
        UserError: the same folder twice.
    """
    short = [folder.parent.name if folder.name == "model" else folder.name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise UserError("--verifier: the same folder is given twice; leave one out")
    return dict(zip(names, folders, strict=True))


def sample_task(
    editor: Editor, task: WorldTask, config: BestOfConfig, seed: int, index: int
) -> tuple[list[Edit], list[bool]]:
    """The candidates of the task at position `index`, and whether each is right. Noise follows from seed and index."""
    record = task.record()
    own = int(np.random.SeedSequence([seed, _STREAM, index]).generate_state(1)[0])
    images = to_pil(edit(editor, [record] * config.candidates, config.steps, own, batch=config.batch))
    truths = judge_edits([task] * len(images), np.stack([from_image(image) for image in images]))
    return [Edit(record, image, editor.name, own) for image in images], [truth.success for truth in truths]


def complete(
    journal: Path,
    tasks: Sequence[WorldTask],
    model: Path,
    verifiers: Mapping[str, Path],
    config: BestOfConfig,
    seed: int,
) -> None:
    """Add to the journal the tasks that it lacks; whole chunks of them, so that resumed equals uninterrupted."""
    chunk = max(1, config.batch // config.candidates)
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    done = len(whole) if len(whole) == len(tasks) else len(whole) // chunk * chunk
    atomic_write(journal, "".join(whole[:done]))
    if done == len(tasks):
        return
    editor = load_editor(model).to("cuda" if torch.cuda.is_available() else "cpu")
    judges = {name: _judge(folder, config) for name, folder in verifiers.items()}
    with track("Best of N", total=len(tasks), start=done) as bar:
        for start in range(done, len(tasks), chunk):
            part = range(start, min(start + chunk, len(tasks)))
            sampled = [sample_task(editor, tasks[index], config, seed, index) for index in part]
            edits = [candidate for candidates, _ in sampled for candidate in candidates]
            scores = {
                name: [judgement.score for judgement in judge.score(edits, config.traces, seed + start)]
                for name, judge in judges.items()
            }
            for position, index in enumerate(part):
                rows = slice(position * config.candidates, (position + 1) * config.candidates)
                line = {
                    "instruction": tasks[index].instruction,
                    "category": tasks[index].operation.category,
                    "successes": sampled[position][1],
                    "scores": {name: values[rows] for name, values in scores.items()},
                }
                append_line(journal, json.dumps(line))
            bar.advance(len(part))


def read_journal(journal: Path) -> list[Judged]:
    """What `complete` wrote."""
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    return [Judged(row["category"], tuple(row["successes"]), row["scores"]) for row in rows]


def curve(tasks: Sequence[Judged], *, seed: int = 0) -> Result:
    """Success of every choice at every N: means over tasks, each with its exact mean over all subsets of size N.

    All tasks have as many candidates and the same verifiers; there is at least one task. Intervals: bootstrap over
    tasks. `gain` is that over a random candidate, paired by task.
    """
    candidates = len(tasks[0].successes)
    groups = [str(index) for index in range(len(tasks))]
    base = np.array([np.mean(task.successes) for task in tasks])

    def share(values: NDArray[np.floating]) -> Share:
        return Share(float(values.mean()), ci95(values, groups, seed=seed))

    def chosen(name: str, size: int) -> Chosen:
        values = np.array([chosen_success(task.scores[name], task.successes, size) for task in tasks])
        unread = float(np.mean([no_choice(task.scores[name], size) for task in tasks]))
        return Chosen(share(values), share(values - base), unread)

    names = list(tasks[0].scores)
    points = [
        Point(
            n=size,
            random=share(base),
            oracle=share(np.array([any_success(task.successes, size) for task in tasks])),
            verifiers={name: chosen(name, size) for name in names},
        )
        for size in sizes(candidates)
    ]
    failures = {name: float(np.mean([s is None for task in tasks for s in task.scores[name]])) for name in names}
    return Result(len(tasks), candidates, failures, tuple(points))


def run(
    config: BestOfConfig, *, editor: Path | None, verifiers: Sequence[Path], out: Path, seed: int, resume: bool
) -> Result:
    """Measure an editor (the shipped base by default) with one or more verifiers and write what is listed above.

    Raises:
        UserError: a folder holds no editor or no verifier, one is given twice, or `out` cannot be used.
    """
    judges = verifier_names(verifiers)
    places = {name: str(folder) for name, folder in judges.items()}
    used = weights_of(editor or assets.EDITOR, *verifiers)
    folder = Run.open(out, config, resume, inputs={"seed": seed, "editor": str(editor), "verifiers": places, **used})
    tasks = held_out_tasks(config.tasks, seed, config.split)
    complete(out / "candidates.jsonl", tasks, editor or assets.EDITOR, judges, config, seed)
    result = curve(read_journal(out / "candidates.jsonl"), seed=seed)
    atomic_write(out / "results.json", json.dumps({"schema": 1, **asdict(result)}, indent=1) + "\n")
    with atomic_path(out / "best_of.png") as path:
        draw_curve(result).save(path, "PNG")
    folder.finish(asdict(result.points[-1]))
    return result


def _judge(folder: Path, config: BestOfConfig) -> Verifier:
    return load_verifier(
        folder,
        template=config.template,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        batch_size=config.batch,
        aggregate=config.aggregate,
    )
