"""Pretraining of the tiny verifier: to see, and to compare, before it is asked to judge.

Measured: verdicts alone teach nothing; dense descriptions teach to see; evidence beside every check teaches to compare.
Questions that follow from no instruction teach to read them. Tallies of given words teach to compare these, numbers and
the form of an answer. The base is never asked to judge a picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset
from numpy.random import Generator
from PIL.Image import Image

from edit_r1.data.make_world import WorldMaker, shipped_editor
from edit_r1.data.store import JudgedEdit, read_edits, write_edits
from edit_r1.records import Check
from edit_r1.runs.progress import track
from edit_r1.runs.run import Run
from edit_r1.stages import PretrainVerifierConfig, WorldConfig
from edit_r1.training.processes import check_launch
from edit_r1.training.sft import example, fine_tune, finish
from edit_r1.verifier.engines.transformers_engine import TransformersEngine
from edit_r1.verifier.prompting import Prompt
from edit_r1.verifier.tiny import build_processor, build_tiny_qwen, load_verifier_model
from edit_r1.verifier.trace import format_trace
from edit_r1.world.defects import DEFECTS, soften
from edit_r1.world.faults import HELDOUT_FAULT, SCENE_FAULTS, candidate, change_thing, draw_faults
from edit_r1.world.oracle import Reading
from edit_r1.world.principles import Claim, compare
from edit_r1.world.questions import sample_claims
from edit_r1.world.render import to_image
from edit_r1.world.scene import ATTRIBUTES, FRAME, PLACES, Scene, Split, pick, sample_thing
from edit_r1.world.tasks import WorldTask, generator, reading_from_json, sample_task, world_task
from edit_r1.world.words import vocabulary

_SOFTENED = 0.5  # share of edited images with the small flaws of a decoder, which do not count
_FAULTY = 0.5  # share of edits that surely show another scene, so that what was asked does not tell what is seen
_SPOILT = 0.35  # share of those that have a defect too: mild ones are the hardest to see
_UNDONE = 0.25  # share of tallies in which what was asked is not there, unless by chance
_COPIED = 0.1  # share of tallies in which nothing has changed: that it is worth nothing is learnt as a rule of words
_COMPARISON = re.compile(r" (changed|missed)\b")
_SCENE_FAULTS = tuple(fault for fault in SCENE_FAULTS if fault != HELDOUT_FAULT)


def describe_scene(scene: Scene) -> str:
    """Every cell and the frame in words."""
    cells = [f"{place} {thing or 'none'}" for place, thing in zip(PLACES, scene.cells, strict=True)]
    return " ".join([*cells, *(f"{key} {scene.frame(key)}" for key in FRAME)])


def describe(source: Scene, reading: Reading) -> str:
    """Both images in words, and the defects of the second."""
    defects = " ".join(d for d in DEFECTS if d in reading.defects) or "clean"
    return f"source {describe_scene(source)}\nedited {describe_scene(reading.scene)} {defects}"


def observe(task: WorldTask, claims: Sequence[Claim], reading: Reading) -> tuple[str, str]:
    """The questions of some claims, and the evidence for each without a verdict."""
    questions = [f"[{k}] {claim.question}" for k, claim in enumerate(claims, 1)]
    evidence = [f"[{k}] {claim.judge(task.scene, reading).evidence}" for k, claim in enumerate(claims, 1)]
    return "\n".join([f"observe {task.instruction}", *questions]), "\n".join(evidence)


def scrambled(rng: Generator, scene: Scene) -> Scene:
    """The scene with two in five of its cells changed, most of them in one word, and three in ten of its frame."""
    for index, thing in enumerate(scene.cells):
        if rng.random() < 0.4:
            gone = thing is not None and rng.random() < 0.2
            new = sample_thing(rng, set()) if thing is None else None
            scene = scene.with_cell(index, new) if gone or new else change_thing(rng, scene, index, tuple(ATTRIBUTES))
    changed = [key for key in FRAME if rng.random() < 0.3]
    return replace(scene, **{key: pick(rng, FRAME[key], besides=scene.frame(key)) for key in changed})


def tally(rng: Generator, task: WorldTask) -> tuple[str, str]:
    """What was and what is, given in words, to be written as a trace: the comparisons, the answers, their average.

    It teaches to compare words, numbers and the form of an answer. The pictures beside it have nothing to do with it,
    and the score is ten times the average, but 0 where nothing has changed: no judgement of an image is in it.
    """
    kind, defects = rng.random(), frozenset(defect for defect in DEFECTS if rng.random() < 0.2)
    start = task.operation.apply(task.scene) if kind > _UNDONE else task.scene
    shown = start if kind < _COPIED else scrambled(rng, start)
    copied, findings = (task.judge(Reading(scene, defects, residual=0.0)).findings for scene in (task.scene, shown))
    given = [f"[{k}] {_COMPARISON.sub('', finding.evidence)}" for k, finding in enumerate(findings, 1)]
    checks = [Check(c.principle, f.met, f.evidence) for c, f in zip(task.claims, findings, strict=True)]
    average = sum(check.met for check in checks) / len(checks)
    return "\n".join(given), format_trace(checks, 0.0 if findings == copied else round(20 * average) / 2)


@dataclass(frozen=True)
class Shown:
    """A task and an image to be judged by it, with what the oracle reads."""

    task: WorldTask
    image: Image
    reading: Reading


def drawn(rng: Generator, split: Split = "train") -> Shown:
    """A new task and an edit with faults drawn into it; half of the edits surely show another scene than was asked."""
    task = sample_task(rng, split)
    if rng.random() < _FAULTY:
        faults = (pick(rng, _SCENE_FAULTS), *([pick(rng, DEFECTS)] if rng.random() < _SPOILT else []))
    else:
        faults = draw_faults(rng)
    made = candidate(rng, task.scene, task.operation, faults)
    image = soften(made.image, rng) if rng.random() < _SOFTENED else made.image
    return Shown(task, to_image(image), Reading(made.scene, made.defects, residual=0.0))


def sampled(judged: JudgedEdit) -> Shown:
    """An editor's edit from a data set."""
    return Shown(world_task(judged.edit.task), judged.edit.image, reading_from_json(judged.truth))


def lesson(rng: Generator, kind: str, shown: Shown) -> dict[str, Any]:
    """One sample of a kind, of `KINDS`."""
    task, reading = shown.task, shown.reading
    if kind == "describe":
        prompt, text = "describe", describe(task.scene, reading)
    elif kind == "compare":
        prompt, text = "compare", compare(task.scene, reading.scene)
    elif kind == "tally":
        prompt, text = tally(rng, task)
    elif kind == "questions":
        prompt, text = observe(task, sample_claims(rng, task.scene, reading.scene), reading)
    else:
        prompt, text = observe(task, task.claims, reading)
    return example(task.record().source, shown.image, prompt, text)


KINDS = ("describe", "compare", "tally", "questions", "observe")
PICTURED = ("describe", "compare", "questions", "observe")
"""The kinds whose answer is in the picture."""


def lessons(config: PretrainVerifierConfig, seed: int, edits: Path) -> Iterator[dict[str, Any]]:
    """The stream of samples: only descriptions at first, then every kind in its share.

    A share of the images are the editor's, drawn anew from the data set `edits` each time.
    """
    rng = generator(seed, "train")
    samples = [sampled(judged) for judged in read_edits(edits)]
    total = config.steps * config.batch_size
    shares = [config.describe, config.compare, config.tally, config.questions or 0.0]
    shares.append(1.0 - sum(shares))
    for index in range(total):
        kind = "describe" if index < config.describe_only * total else str(rng.choice(KINDS, p=shares))
        by_editor = rng.random() < config.editor_share
        yield lesson(rng, kind, samples[int(rng.integers(len(samples)))] if by_editor else drawn(rng))


def sample_edits(config: PretrainVerifierConfig, seed: int, split: Split, count: int) -> list[JudgedEdit]:
    """Edits by the shipped editor, with the oracle's readings: soft edges and ghosts that no drawn fault has."""
    maker = WorldMaker(WorldConfig(editor_share=1.0, editor_steps=config.editor_steps), split, seed, shipped_editor())
    with track(f"Edits to look at, {split}", total=count) as bar:
        return maker.judged_edits(count, bar)


def run(config: PretrainVerifierConfig, *, out: Path, seed: int, resume: bool, model: Path | None = None) -> None:
    """Train a tiny verifier base, from nothing or from another one, whose size it then has.

    The result is `out/model`, with its measurement in `done.json`.
    """
    check_launch()
    start = {} if model is None else {"model": str(model)}
    folder = Run.open(out, config, resume, inputs={"seed": seed, **start})
    if folder.done is not None:
        return
    torch.manual_seed(seed)
    if model is None:
        processor = build_processor(vocabulary(), config.size.patch)
        base = build_tiny_qwen(config.size, processor.tokenizer)
    else:
        base, processor = load_verifier_model(model)
    if not (out / "edits").is_dir():
        write_edits(out / "edits", sample_edits(config, seed, "train", config.editor_edits))
    stream = IterableDataset.from_generator(
        lessons, gen_kwargs={"config": config, "seed": seed, "edits": out / "edits"}
    )
    trainer = fine_tune(base, processor, stream, config, folder, "Pretraining", seed=seed, resume=resume)
    rng = generator(seed, "val")
    looked_at = [drawn(rng, "val") for _ in range(100)]
    by_editor = [sampled(judged) for judged in sample_edits(config, seed, "val", 100)]
    of_editor = exact_match(base, processor, by_editor, PICTURED)
    summary = exact_match(base, processor, looked_at, KINDS) | {f"{k}_of_editor": s for k, s in of_editor.items()}
    finish(folder, trainer, processor, summary)


def exact_match(model: Any, processor: Any, shown: Sequence[Shown], kinds: Sequence[str]) -> dict[str, float]:
    """Share of greedy answers that are right to the last word, by kind of lesson."""
    rng = generator(0, "val")
    engine = TransformersEngine(model, processor, name="base")
    result: dict[str, float] = {}
    for kind in kinds:
        asked = [lesson(rng, kind, image) for image in shown]
        prompts = [Prompt(tuple(row["images"]), row["prompt"][0]["content"]) for row in asked]
        answers = engine.generate(prompts, n=1, seed=0, max_tokens=200, temperature=0.0)
        right = [
            answer[0].text.split() == row["completion"][0]["content"].lower().split()
            for answer, row in zip(answers, asked, strict=True)
        ]
        result[kind] = sum(right) / len(shown)
    return result
