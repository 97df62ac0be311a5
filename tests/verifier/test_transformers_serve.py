"""The client against a server that is not ours: `transformers serve`, over real HTTP, with the shipped base."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edit_r1 import assets
from edit_r1.verifier.engines.openai_engine import OpenAIEngine
from edit_r1.verifier.engines.transformers_engine import TransformersEngine
from edit_r1.verifier.prompting import Prompt
from edit_r1.verifier.tiny import load_verifier_model
from edit_r1.world.render import render, to_image
from edit_r1.world.scene import Scene, Thing

# The stock processor of Qwen-VL wants torchvision; and what the server makes of a Qwen's answer (it looks for thoughts
# behind "<|im_start|>assistant") is not for the tiny one's word-level template, which has a space there.
SERVER = """
from transformers import AutoProcessor
from transformers.cli.serving import utils
from transformers.cli.transformers import main
from edit_r1.verifier.tiny import TinyQwenProcessor
AutoProcessor.from_pretrained = TinyQwenProcessor.from_pretrained
utils._RESPONSE_TEMPLATE_FALLBACKS = {}
main()
"""
_PATIENCE = 150.0  # seconds until the server answers, on a busy machine


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the server is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-c", SERVER, "serve", str(assets.VERIFIER)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _wait(server: subprocess.Popen[bytes], health: str, log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            if httpx.get(health).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"no server after {_PATIENCE} s:\n{log.read_text()}")


def test_what_it_writes_is_what_the_model_writes_here(address: str) -> None:
    """Both pictures arrive, in their order, and greedy texts are the local engine's to the last word."""
    scenes = [
        Scene((Thing("large", "plain", colour, "circle"), None, None, None), "cream", "neutral", "flat")
        for colour in ("red", "blue")
    ]
    pictures = [to_image(render(scene)) for scene in scenes]
    prompts = [Prompt((pictures[0], pictures[1]), "describe"), Prompt((pictures[1], pictures[0]), "describe")]
    with OpenAIEngine(address, str(assets.VERIFIER)) as engine:
        served, local = [
            one.generate(prompts, n=1, seed=0, max_tokens=120, temperature=0.0)
            for one in (engine, TransformersEngine(*load_verifier_model(assets.VERIFIER)))
        ]
    assert not any(completion.failure for [completion] in served)
    texts = [completion.text.split() for [completion] in served]
    assert texts == [completion.text.split() for [completion] in local]
    assert [[word for word in text if word in ("red", "blue")] for text in texts] == [["red", "blue"], ["blue", "red"]]


def test_a_model_that_it_has_not_is_a_failure(address: str) -> None:
    """The server's refusal is a value, at once."""
    with OpenAIEngine(address, "no/such-model", retries=0) as engine:
        [[completion]] = engine.generate([Prompt((), "describe")], n=1, seed=0, max_tokens=4, temperature=0.0)
    assert completion.failure is not None
    assert completion.failure.kind in ("engine", "unreachable")
