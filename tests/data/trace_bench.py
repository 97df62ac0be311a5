"""A manifest of small pictures, a recipe that asks a server of the tests' own, and the real command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tests.verifier.chat_server import Reply, answer
from typer.testing import CliRunner, Result

from edit_r1.cli.main import app

QUESTIONS = [
    {"question": "Is the cup blue?", "category": "follow"},
    {"question": "Is the table the same?", "category": "keep"},
    {"question": "Is it free of seams?", "category": "quality"},
]


def trace(met: str, score: float | None) -> str:
    """A trace whose answers are written as letters, y for yes; without its score where that is None."""
    lines = [f"[{k}] seen => {'yes' if m == 'y' else 'no'}" for k, m in enumerate(met, start=1)]
    return "\n".join(lines if score is None else [*lines, f"<score> {score} </score>"])


def question(request: dict[str, Any]) -> str:
    """The text of the question that a request holds."""
    return request["messages"][-1]["content"][-1]["text"]


def instruction(request: dict[str, Any]) -> str:
    """What the editor was told, as the prompt quotes it."""
    found = re.search(r"<<<\n(.*)\n>>>", question(request))
    assert found is not None
    return found[1]


def scripted(texts: dict[tuple[str, str], str]) -> Callable[[dict[str, Any], int], Reply]:
    """Answers by (model, instruction); all principles met and score 8 where there is none."""
    return lambda request, number: answer(texts.get((request["model"], instruction(request)), trace("yyy", 8.0)))


@dataclass
class Bench:
    """Everything of one run, in one folder."""

    folder: Path

    def manifest(self, *lines: dict[str, Any] | str) -> Path:
        """Write a manifest; what a line lacks is filled in, and every line has pictures of its own."""
        entries: list[str] = []
        for number, line in enumerate(lines):
            if isinstance(line, dict):
                for shade, name in ((40, "source"), (90, "edited")):
                    Image.new("RGB", (8, 8), (shade, number, 0)).save(self.folder / f"{name}{number}.png")
                own = {"source": f"source{number}.png", "edited": f"edited{number}.png", "principles": QUESTIONS}
                line = json.dumps({"instruction": f"edit {number}", **own, **line})
            entries.append(line)
        path = self.folder / "edits.jsonl"
        path.write_text("\n".join(entries) + "\n", encoding="utf-8")
        return path

    def recipe(
        self, url: str, *, teachers: str = "ab", top: str = "", each: str = "", retries: int = 1, concurrency: int = 1
    ) -> Path:
        """Write a recipe in which gold and every teacher is a model of the same server."""
        endpoint = f'base_url = "{url}"\nconcurrency = {concurrency}\nretries = {retries}\n{each}\n'
        tables = [f'[[traces.teachers]]\nname = "{name}"\nmodel = "{name}"\n{endpoint}' for name in teachers]
        tables.append(f'[traces.gold]\nmodel = "gold"\n{endpoint}')
        path = self.folder / "recipe.toml"
        path.write_text(f"[traces]\n{top}\n" + "\n".join(tables))
        return path

    def run(self, *more: object) -> Result:
        """`edit-r1 verifier traces` on the manifest, into the folder `out`."""
        arguments = ["verifier", "traces", "--preset", self.folder / "recipe.toml", "--out", self.out, *more]
        if "--data" not in arguments:
            arguments += ["--edits", self.folder / "edits.jsonl"]
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    @property
    def out(self) -> Path:
        """The run directory."""
        return self.folder / "out"

    def statistics(self) -> dict[str, Any]:
        """Of a finished run."""
        return json.loads((self.out / "done.json").read_text())["statistics"]

    def journal(self) -> list[dict[str, Any]]:
        """The lines of the journal."""
        return [json.loads(line) for line in (self.out / "journal.jsonl").read_text().splitlines()]
