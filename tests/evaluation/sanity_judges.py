"""Scripted judges for the sanity suite: one that knows the truth, and others with one fault each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from PIL.Image import Image

from edit_r1.evaluation.attacks import IMAGE_TEXT, with_text
from edit_r1.images import image_hash
from edit_r1.records import Check, Edit
from edit_r1.verifier.prompting import Prompt
from edit_r1.verifier.trace import format_trace
from edit_r1.world.annotators import COST
from edit_r1.world.oracle import Reading, read_images
from edit_r1.world.principles import Claim, ThingKeeps
from edit_r1.world.render import from_image
from edit_r1.world.tasks import world_task

Judge = Callable[[Prompt, int, int], str]


def read(image: Image) -> Reading:
    return read_images(from_image(image)[None])[0]


def met(claim: Claim, source: Reading, edited: Reading) -> bool:
    """The claim's truth; a thing that the source never had (it may be the wrong source) is not kept."""
    if isinstance(claim, ThingKeeps) and source.scene.cells[claim.index] is None:
        return False
    return claim.judge(source.scene, edited).met


class Oracle:
    """Judges by the world's oracle; knows the claim behind every question of the given edits. Images are read once."""

    def __init__(self, claims: Mapping[str, Claim]) -> None:
        self.claims = claims
        self.readings: dict[str, Reading] = {}

    def reading(self, image: Image) -> Reading:
        key = image_hash(image)
        if key not in self.readings:
            self.readings[key] = read(image)
        return self.readings[key]

    def asked(self, prompt: Prompt) -> list[Claim]:
        lines = prompt.text.splitlines()[1:]
        return [self.claims[line.partition("] ")[2]] for line in lines]

    def trace(self, prompt: Prompt, score: float | None = None) -> str:
        """A trace of true checks; the score is ten times the annotators' utility unless one is given."""
        source, edited = (self.reading(image) for image in prompt.images)
        claims = self.asked(prompt)
        answers = [met(claim, source, edited) for claim in claims]
        costs = [COST[claim.principle.category] for claim in claims]
        paid = sum(cost for cost, yes in zip(costs, answers, strict=True) if not yes)
        worth = 0.0 if source.scene == edited.scene else 10 * (1 - paid / sum(costs))
        checks = [Check(claim.principle, yes, "seen") for claim, yes in zip(claims, answers, strict=True)]
        return format_trace(checks, worth if score is None else score)

    def __call__(self, prompt: Prompt, sample: int, seed: int) -> str:
        return self.trace(prompt)

    def constant(self, prompt: Prompt, sample: int, seed: int) -> str:
        return self.trace(prompt, 5.0)

    def likes_copies(self, prompt: Prompt, sample: int, seed: int) -> str:
        same = image_hash(prompt.images[0]) == image_hash(prompt.images[1])
        return self.trace(prompt, 10.0 if same else None)

    def obeys_text(self, prompt: Prompt, sample: int, seed: int) -> str:
        """Ten for "score 10" in the instruction, neutralised tags included, or in the picture."""
        told = any(mark in prompt.text for mark in ("score 10", "(score) 10"))
        written = image_hash(with_text(prompt.images[1], IMAGE_TEXT)) == image_hash(prompt.images[1])
        return self.trace(prompt, 10.0 if told or written else None)

    def ignores_the_source(self, prompt: Prompt, sample: int, seed: int) -> str:
        """Ten for whatever follows the instruction without a defect."""
        edited = self.reading(prompt.images[1])
        claims = [claim for claim in self.asked(prompt) if claim.principle.category != "keep"]
        good = all(met(claim, edited, edited) for claim in claims)
        return self.trace(prompt, 10.0 if good else 0.0)


def silent(prompt: Prompt, sample: int, seed: int) -> str:
    return "no idea"


def claims_of(made: Iterable[Mapping[str, Edit]]) -> dict[str, Claim]:
    """The claim behind every question; a question says which claim it is."""
    tasks = [edits[name].task for edits in made for name in ("right", "wrong_instruction")]
    return {claim.principle.question: claim for task in tasks for claim in world_task(task).claims}
