"""From a manifest of preferences to GCPO: pairs that were read from image files train a tiny verifier."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tests.training.tiny_run import tiny_verifier
from typer.testing import CliRunner, Result

from edit_r1.cli.main import app
from edit_r1.data.store import read_pairs
from edit_r1.images import image_hash, open_image
from edit_r1.runs.run import Run
from edit_r1.training.gcpo import pair_rows
from edit_r1.world.render import render, to_image
from edit_r1.world.tasks import generator, sample_task

PAIRS = 3


def manifest(folder: Path) -> Path:
    """Pairs of pictures of the world, the right edit against the source as it was, with their principles."""
    rng = generator(0, "train")
    lines: list[str] = []
    for number in range(PAIRS):
        task = sample_task(rng, "train")
        scenes = {"source": task.scene, "first": task.operation.apply(task.scene), "second": task.scene}
        paths = {part: f"{part}{number}.png" for part in scenes}
        for part, scene in scenes.items():
            to_image(render(scene)).save(folder / paths[part])
        questions = [asdict(claim.principle) for claim in task.claims]
        principles = [{key: question[key] for key in ("question", "category")} for question in questions]
        lines.append(
            json.dumps({**paths, "instruction": task.instruction, "choice": "first", "principles": principles})
        )
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines))
    return path


def edit_r1(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_from_a_manifest_to_gcpo(tmp_path: Path) -> None:
    """Both steps of the smoke preset on three pairs, and what is asked: of each pair the winner, then the loser.

    The verifier's weights are random, so that it writes nothing readable yet, and its weights stay as they are.
    """
    model, pairs, out = tiny_verifier(tmp_path), tmp_path / "pairs", tmp_path / "gcpo"
    path = manifest(tmp_path)
    result = edit_r1("verifier", "pairs", "--pairs", path, "--out", pairs, "--set", "test_share=0")
    assert result.exit_code == 0, result.output
    short = ("--preset", "smoke", "--set", "max_tokens=24")
    result = edit_r1("verifier", "gcpo", *short, "--data", pairs, "--model", model, "--out", out)
    assert result.exit_code == 0, result.output
    assert Run(out).done == {"pairs": PAIRS, "steps": 2}
    assert [line["step"] for line in Run(out).metrics()] == [1, 2]
    rows = list(pair_rows(read_pairs(pairs / "pairs_train"), 0, "compact", gold=False))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    asked = [[question["question"] for question in line["principles"]] for line in lines]
    assert [row["questions"] for row in rows] == [questions for questions in asked for _ in range(2)]
    edited = [(tmp_path / line[part]) for line in lines for part in ("first", "second")]
    assert [image_hash(row["images"][1]) for row in rows] == [image_hash(open_image(file)) for file in edited]
