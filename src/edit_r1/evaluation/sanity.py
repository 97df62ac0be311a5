"""Is a verifier fit to be a reward? Every attack against the right edit, on tasks of the built-in world.

Each attack is asked about in one batch and kept in a journal of its own, from which an interrupted run goes on.

    sanity.json          `SanityResult`
    sanity.png           one task with all attacks: the one on which most of them succeed
    traces/NAME.jsonl    a line per task
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edit_r1 import assets
from edit_r1.data.store import read_pairs
from edit_r1.errors import UserError
from edit_r1.evaluation.answers import Answer, answer_from_json, judgement_to_json
from edit_r1.evaluation.attacks import edits_of
from edit_r1.evaluation.sanity_sheet import draw_sheet
from edit_r1.evaluation.sanity_verdict import SanityResult, as_text, conclude, succeeded
from edit_r1.files import atomic_path, atomic_write, disk_errors
from edit_r1.records import Edit
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run, made_from, weights_of
from edit_r1.stages import TEST_PAIRS, SanityConfig
from edit_r1.verifier.local import load_verifier
from edit_r1.world.tasks import WorldTask, world_task


def evaluate(
    config: SanityConfig, *, data: Path, model: Path | None, out: Path, seed: int, resume: bool
) -> SanityResult:
    """Attack the verifier in `model` (the shipped base by default) and write what is listed above into `out`.

    Args:
        config: how many tasks, and how the verifier is asked.
        data: a world; the tasks are the first of its test pairs.
        model: the verifier's folder.
        out: the run directory.
        seed: of the attacks, the traces and the intervals.
        resume: go on with what is in `out`.

    Raises:
        UserError: the folders hold no verifier or no world, or `out` cannot be used.
    """
    model = model or assets.VERIFIER
    inputs = {"seed": seed, **made_from(data), "model": str(model), **weights_of(model)}
    run = Run.open(out, config, resume, inputs=inputs)
    if run.done is not None:
        return SanityResult.model_validate(run.done)
    with run.unless_refused():
        tasks = first_tasks(data, config.tasks)
    made = [edits_of(task, np.random.default_rng([seed, index])) for index, task in enumerate(tasks)]
    said = ask(model, made, config, out / "traces", seed)
    result = conclude(said, made, seed=seed)
    scores = [{name: answers[row].score for name, answers in said.items()} for row in range(len(made))]
    shown = max(range(len(made)), key=lambda row: len(succeeded(scores[row])))
    with atomic_path(out / "sanity.png") as path:
        draw_sheet(made[shown], scores[shown], succeeded(scores[shown])).save(path, "PNG")
    atomic_write(out / "sanity.json", result.model_dump_json(indent=1) + "\n")
    run.finish(result.model_dump(mode="json"))
    return result


def run(config: SanityConfig, *, data: Path, model: Path | None, out: Path, seed: int, resume: bool) -> str:
    """`evaluate`, and its result as text for people."""
    result = evaluate(config, data=data, model=model, out=out, seed=seed, resume=resume)
    return f"{as_text(result)}\none task with all attacks: {out / 'sanity.png'}"


def first_tasks(data: Path, count: int) -> list[WorldTask]:
    """The first different tasks of a world's test pairs, at most `count`. `UserError` where edits are real."""
    found: dict[tuple[str, str], WorldTask] = {}
    for pair in read_pairs(data / TEST_PAIRS):
        if not pair.first_truth:
            raise UserError(f"{data} is no built-in world, of whose tasks the attacks are made: `edit-r1 world make`")
        task = pair.preference.task
        found.setdefault((task.meta, task.instruction), world_task(task))
        if len(found) == count:
            break
    return list(found.values())


def ask(
    model: Path, made: Sequence[Mapping[str, Edit]], config: SanityConfig, journals: Path, seed: int
) -> dict[str, list[Answer]]:
    """Complete the journals, one per control and attack, and read them."""
    with disk_errors(journals):
        journals.mkdir(exist_ok=True)
    files = {name: journals / f"{name}.jsonl" for name in made[0]}
    due = [name for name, file in files.items() if not file.exists()]
    total = len(files) * len(made)
    if due:
        with track("Attacking the verifier", total=total, start=total - len(due) * len(made)) as bar:
            verifier = load_verifier(
                model,
                template=config.template,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                batch_size=config.batch_size,
                aggregate=config.aggregate,
            )
            for name in due:
                judged = verifier.score([edits[name] for edits in made], config.traces, seed)
                atomic_write(files[name], "".join(f"{json.dumps(judgement_to_json(j))}\n" for j in judged))
                bar.advance(len(made))
    return {
        name: [
            answer_from_json(json.loads(line), edits[name].task.principles)
            for line, edits in zip(file.read_text().splitlines(), made, strict=True)
        ]
        for name, file in files.items()
    }
