"""Draws docs/images/world.png, the contact sheet of the built-in world.

python docs/make_world_sheet.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from edit_r1.world.faults import FAULTS, candidate
from edit_r1.world.instructions import CATEGORIES, GEDIT, HELDOUT_CATEGORY, parse_instruction
from edit_r1.world.render import Array, render, to_image
from edit_r1.world.scene import Scene, Split, Thing, sample_scene
from edit_r1.world.tasks import Truth, WorldTask, generator, judge_edits, sample_task

OUT = Path(__file__).parent / "images" / "world.png"
WIDTH, MARGIN, TILE, GAP = 1040, 28, 128, 12
PAPER, INK, FAINT, RULE, GOOD, BAD = "#fbfbf9", "#1d1d1f", "#6b6b70", "#d9d9d4", "#2f8f4e", "#c8372d"
LONGEST = 56  # letters under a pair of pictures
FAULT_INSTRUCTION = "make the red circle green and make the background cream"
FAULT_SCENE = Scene(
    (
        Thing("large", "plain", "red", "circle"),
        Thing("small", "striped", "blue", "H"),
        Thing("large", "dotted", "yellow", "triangle"),
        None,
    ),
    *("gray", "neutral", "outlined"),
)
FAULT_SEED = 4
SEED = 3


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: no file of the system is needed."""
    return ImageFont.load_default(size)


class Sheet:
    """A page that grows downwards."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (WIDTH, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.y = MARGIN

    def title(self, text: str, note: str) -> None:
        """A headline with a line of explanation."""
        self.draw.text((MARGIN, self.y), text, INK, font(22))
        self.draw.text((MARGIN, self.y + 30), note, FAINT, font(14))
        self.draw.line((MARGIN, self.y + 56, WIDTH - MARGIN, self.y + 56), RULE)
        self.y += 72

    def tile(self, x: int, image: Array, frame: str = RULE) -> None:
        """One picture, every pixel 2x2, in a thin frame."""
        picture = to_image(image).resize((TILE, TILE), Image.Resampling.NEAREST)
        self.draw.rectangle((x - 1, self.y - 1, x + TILE, self.y + TILE), outline=frame)
        self.image.paste(picture, (x, self.y))

    def arrow(self, x: int) -> None:
        """An arrow between two tiles, 34 pixels wide."""
        middle = self.y + TILE // 2
        self.draw.line((x + 8, middle, x + 22, middle), FAINT, 2)
        self.draw.polygon([(x + 20, middle - 6), (x + 28, middle), (x + 20, middle + 6)], FAINT)

    def text(self, x: int, below: int, text: str, size: int = 14, fill: str = INK) -> None:
        """Text at a height below the current row's top."""
        self.draw.text((x, self.y + below), text, fill, font(size))

    def marks(self, x: int, below: int, truth: Truth, task: WorldTask) -> None:
        """One square per principle, green where the oracle finds it met; F, K, Q for follow, keep, quality."""
        for claim, finding in zip(task.claims, truth.findings, strict=True):
            box = (x, self.y + below, x + 14, self.y + below + 14)
            self.draw.rounded_rectangle(box, 3, GOOD if finding.met else BAD)
            letter = claim.principle.category[0].upper()
            self.draw.text((x + 7, self.y + below + 7), letter, "white", font(11), anchor="mm")
            x += 17


def scenes(sheet: Sheet) -> None:
    """One row of scenes."""
    note = "64 x 64 pixels, shown twice as large: one to three things in four cells, a background, a tone, a style."
    sheet.title("Scenes", note)
    rng = np.random.default_rng(11)
    for index in range(7):
        sheet.tile(MARGIN + index * (TILE + GAP + 3), render(sample_scene(rng)))
    sheet.y += TILE + 34


def example(rng: Generator, split: Split, category: str) -> WorldTask:
    """A task with some company for its thing, and words that fit under two pictures."""
    while True:
        task = sample_task(rng, split, category)
        if len(task.scene.things) > 1 and len(task.instruction) <= LONGEST:
            return task


def categories(sheet: Sheet) -> None:
    """One row per category: source and right edit, twice: in a phrasing of `train` and in the one of `test`."""
    note = "Source and right edit; left in phrasings of train and val, right in that of test. In grey the GEdit task."
    sheet.title("Instructions", note)
    streams: dict[Split, Generator] = {split: generator(SEED, split) for split in ("train", "test", "heldout")}
    for category in CATEGORIES:
        held_out = category == HELDOUT_CATEGORY
        sheet.text(MARGIN, 34, category, 18)
        sheet.text(MARGIN, 60, GEDIT.get(category, "two at once"), 13, FAINT)
        if held_out:
            sheet.text(MARGIN, 80, "held out", 13, BAD)
        splits: tuple[Split, Split] = ("heldout", "heldout") if held_out else ("train", "test")
        for column, split in enumerate(splits):
            task = example(streams[split], split, category)
            x = 190 + column * 424
            sheet.tile(x, render(task.scene))
            sheet.arrow(x + TILE)
            sheet.tile(x + TILE + 34, render(task.operation.apply(task.scene)))
            sheet.text(x, TILE + 5, task.instruction, 13)
        sheet.y += TILE + 40


def faults(sheet: Sheet) -> None:
    """Source, right edit and the eleven faults of one task, each with the oracle's truth of every principle."""
    operation = parse_instruction(FAULT_INSTRUCTION, FAULT_SCENE)
    assert operation is not None
    task = WorldTask(FAULT_SCENE, operation, FAULT_INSTRUCTION)
    rng = np.random.default_rng(FAULT_SEED)
    chosen = [("right", ()), *((fault, (fault,)) for fault in FAULTS)]
    images = [candidate(rng, task.scene, operation, kinds).image for _, kinds in chosen]
    truths = judge_edits([task] * len(images), np.stack(images))
    note = f'"{FAULT_INSTRUCTION}". Squares: principles (Follow, Keep, Quality), green where the oracle finds them met.'
    sheet.title("One task, eleven faults", note)
    sheet.tile(MARGIN, render(task.scene))
    sheet.text(MARGIN, TILE + 5, "source", 14, FAINT)
    for index, ((name, _), image, truth) in enumerate(zip(chosen, images, truths, strict=True), start=1):
        if index == 7:
            sheet.y += TILE + 56
        x = MARGIN + index % 7 * (TILE + GAP + 3)
        sheet.tile(x, image, GOOD if truth.success else RULE)
        sheet.text(x, TILE + 5, name.replace("_", " "), 14, GOOD if truth.success else INK)
        sheet.marks(x, TILE + 25, truth, task)
    sheet.y += TILE + 56


def main() -> None:
    """Draw the sheet and cut it to its height."""
    sheet = Sheet(4000)
    for section in (scenes, categories, faults):
        section(sheet)
    OUT.parent.mkdir(exist_ok=True)
    sheet.image.crop((0, 0, WIDTH, sheet.y + 8)).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
