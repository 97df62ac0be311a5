"""A verifier behind a server that speaks OpenAI's protocol."""

from __future__ import annotations

from edit_r1.stages import ServerConfig
from edit_r1.verifier.aggregation import PROBABILISTIC
from edit_r1.verifier.decomposers import Decomposer
from edit_r1.verifier.engines.openai_engine import OpenAIEngine
from edit_r1.verifier.verifier import Verifier


def served_verifier(
    server: ServerConfig,
    *,
    template: str,
    temperature: float,
    max_tokens: int,
    aggregate: str = "model",
    decomposer: Decomposer | None = None,
    checklist: bool = True,
) -> Verifier:
    """The verifier behind a server.

    Raises:
        UserError: the address is none, or the key's environment variable is not set.
    """
    engine = OpenAIEngine(
        server.base_url,
        server.model,
        api_key_env=server.api_key_env,
        concurrency=server.concurrency,
        retries=server.retries,
        timeout=server.timeout,
        probabilities=aggregate in PROBABILISTIC,
    )
    return Verifier(
        engine,
        template=template,
        temperature=temperature,
        max_tokens=max_tokens,
        decomposer=decomposer,
        checklist=checklist,
        aggregate=aggregate,
    )
