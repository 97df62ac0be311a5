"""The data of the demo: candidate edits with the oracle's readings, and simulated preferences, as `datasets` folders.

Candidates are edits with faults drawn into them, and samples of the tiny editor: such images the verifier will judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator

from edit_r1 import assets
from edit_r1.data.store import JudgedEdit, JudgedPair, write_edits, write_pairs
from edit_r1.records import Edit, EditTask, Preference
from edit_r1.runs.progress import Tracker, track
from edit_r1.runs.run import Run, content_hash
from edit_r1.stages import EDITS, HELDOUT_PAIRS, PROBE, SAMPLED, TEST_PAIRS, TRAIN_PAIRS, WorldConfig
from edit_r1.world.annotators import prefer, utility
from edit_r1.world.faults import candidate, draw_faults
from edit_r1.world.oracle import Reading, read_images
from edit_r1.world.render import Array, to_image
from edit_r1.world.scene import Split
from edit_r1.world.tasks import WorldTask, generator, reading_to_json, sample_task

Sampler = Callable[[Sequence[EditTask], int, int], Array]
"""(tasks, sampling steps, seed) -> images [B, 64, 64, 3] in [0, 1]: an editor."""

_CHUNK = 200


class WorldMaker:
    """Draws tasks and candidate edits of one split from one stream of randomness."""

    def __init__(self, config: WorldConfig, split: Split, seed: int, sampler: Sampler | None) -> None:
        self.config = config
        self.split: Split = split
        self.rng: Generator = generator(seed, split)
        self.sampler = sampler

    def tasks(self, count: int) -> list[tuple[WorldTask, EditTask]]:
        """World tasks beside their records."""
        drawn = [sample_task(self.rng, self.split) for _ in range(count)]
        return [(task, task.record()) for task in drawn]

    def edits(self, tasks: Sequence[tuple[WorldTask, EditTask]]) -> list[tuple[Edit, Reading]]:
        """One candidate edit per task: by the editor or with faults drawn in, as the editor's share says."""
        by_editor = self.rng.random(len(tasks)) < (self.config.editor_share if self.sampler else 0.0)
        edits: list[tuple[Edit, Reading] | None] = [
            None if sampled else self._drawn(*pair) for pair, sampled in zip(tasks, by_editor, strict=True)
        ]
        chosen = [i for i, sampled in enumerate(by_editor) if sampled]
        for number, steps in enumerate(self.config.editor_steps):
            part = chosen[number :: len(self.config.editor_steps)]
            for index, found in zip(part, self._sampled([tasks[i][1] for i in part], steps), strict=True):
                edits[index] = found
        return [edit for edit in edits if edit is not None]

    def _drawn(self, task: WorldTask, record: EditTask) -> tuple[Edit, Reading]:
        drawn = candidate(self.rng, task.scene, task.operation, draw_faults(self.rng, heldout=self.split == "heldout"))
        edit = Edit(record, to_image(drawn.image), "+".join(drawn.faults) or "right", 0)
        return edit, Reading(drawn.scene, drawn.defects, residual=0.0)

    def _sampled(self, tasks: Sequence[EditTask], steps: int) -> list[tuple[Edit, Reading]]:
        if not tasks or self.sampler is None:
            return []
        seed = int(self.rng.integers(2**31))
        images = self.sampler(tasks, steps, seed)
        readings = read_images(images)
        return [
            (Edit(task, to_image(image), f"{SAMPLED}{steps}", seed), reading)
            for task, image, reading in zip(tasks, images, readings, strict=True)
        ]

    def judged_edits(self, count: int, bar: Tracker) -> list[JudgedEdit]:
        """Edits with their readings."""
        found: list[JudgedEdit] = []
        while len(found) < count:
            made = self.edits(self.tasks(min(_CHUNK, count - len(found))))
            found += [JudgedEdit(edit, reading_to_json(reading)) for edit, reading in made]
            bar.advance(len(made))
        return found

    def pairs(self, count: int, noise: float, bar: Tracker) -> list[JudgedPair]:
        """Preferences of a simulated annotator over two edits of each task; "same" is dropped, as in the paper."""
        found: list[JudgedPair] = []
        while len(found) < count:
            tasks = self.tasks(_CHUNK)
            before = len(found)
            for (task, record), first, second in zip(tasks, self.edits(tasks), self.edits(tasks), strict=True):
                likes = [utility(task, task.judge(reading)) for _, reading in (first, second)]
                choice = prefer(self.rng, likes[0], likes[1], noise=noise)
                if choice != "same" and len(found) < count:
                    preference = Preference(record, first[0], second[0], choice, "simulated")
                    found.append(JudgedPair(preference, reading_to_json(first[1]), reading_to_json(second[1])))
            bar.advance(len(found) - before)
        return found


def make_world(config: WorldConfig, *, out: Path, seed: int, resume: bool, sampler: Sampler | None = None) -> None:
    """Write the data sets of a demo into `out`: edits, training, test and held-out pairs, and a probe set (`val`).

    The test pairs are of the split that the configuration names.

    Without a sampler the shipped tiny editor makes the share that is the editor's.
    """
    shipped = sampler is None and config.editor_share > 0
    editor = {"shipped": assets.fingerprint(assets.EDITOR)} if shipped else {}
    run = Run.open(out, config, resume, inputs={"seed": seed, **editor})
    if run.done is not None:
        return
    sampler = shipped_editor() if shipped else sampler
    parts: list[tuple[str, Split, int]] = [
        (EDITS, "train", config.cold_start_edits),
        (TRAIN_PAIRS, "train", config.train_pairs),
        (TEST_PAIRS, config.split, config.test_pairs),
        (HELDOUT_PAIRS, "heldout", config.heldout_pairs),
        (PROBE, "val", config.probe_edits),
    ]
    with track("World", total=sum(count for _, _, count in parts)) as bar:
        for number, (name, split, count) in enumerate(parts):
            maker = WorldMaker(config, split, seed + 1000 * (number + 1), sampler)
            if name in (EDITS, PROBE):
                write_edits(out / name, maker.judged_edits(count, bar))
            else:
                noise = config.label_noise if name == TRAIN_PAIRS else 0.0
                write_pairs(out / name, maker.pairs(count, noise, bar))
    run.finish({name: count for name, _, count in parts} | {"content": content_hash(config)})


def shipped_editor() -> Sampler:
    """The tiny editor base that comes with the package."""
    from edit_r1.editors.base import edit
    from edit_r1.editors.loading import load_editor

    editor = load_editor(assets.EDITOR)

    def sample(tasks: Sequence[EditTask], steps: int, seed: int) -> Array:
        return edit(editor, tasks, steps, seed).permute(0, 2, 3, 1).numpy().astype(np.float32)

    return sample
