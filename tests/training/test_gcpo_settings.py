"""What TRL's trainer is told of the settings of GCPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.training.tiny_run import tiny_verifier, tiny_world

from edit_r1.config import decisive, dump
from edit_r1.errors import UserError
from edit_r1.runs.progress import silence_libraries
from edit_r1.stages import GcpoConfig
from edit_r1.training import gcpo


@pytest.mark.parametrize(
    ("settings", "used", "mode", "address"),
    [
        ({}, False, None, None),
        ({"vllm": "colocate"}, True, "colocate", None),
        ({"vllm": "server"}, True, "server", None),
        ({"vllm": "server", "vllm_server": "http://10.0.0.5:8000"}, True, "server", "http://10.0.0.5:8000"),
    ],
)
def test_who_writes_the_traces(
    settings: dict[str, Any], used: bool, mode: str | None, address: str | None, tmp_path: Path
) -> None:
    """What TRL is told; vLLM itself is not there. A server without an address is this machine's."""
    silence_libraries()
    told = gcpo._arguments(GcpoConfig.model_validate(settings), tmp_path, 0)
    assert told.use_vllm == used
    assert mode is None or told.vllm_mode == mode
    assert told.vllm_server_base_url == address
    assert told.vllm_server_host == "127.0.0.1"


def test_settings_reach_the_trainer(tmp_path: Path) -> None:
    """By TRL's names; its own defaults differ from all of these. There is no KL term, whatever the recipe."""
    silence_libraries()
    config = GcpoConfig(
        traces=3, temperature=0.7, max_tokens=9, clip=0.1, learning_rate=3e-3, adam_epsilon=1e-3, max_grad_norm=0.4
    )
    told = gcpo._arguments(config, tmp_path, 5)
    assert (told.num_generations, told.temperature, told.max_completion_length, told.epsilon) == (3, 0.7, 9, 0.1)
    assert (told.learning_rate, told.adam_epsilon, told.max_grad_norm, told.weight_decay) == (3e-3, 1e-3, 0.4, 0.0)
    assert (told.beta, told.seed, told.data_seed) == (0.0, 5, 5)


def test_an_address_is_for_a_server() -> None:
    with pytest.raises(ValueError, match='the address of vllm = "server"'):
        GcpoConfig(vllm="colocate", vllm_server="http://10.0.0.5:8000")


def test_vllm_that_is_not_here_is_one_line(tmp_path: Path) -> None:
    """Told before a model is loaded, and the folder is free for the mended command; a server's address may change."""
    world, model = tiny_world(tmp_path), tiny_verifier(tmp_path)
    config = GcpoConfig(pairs_per_step=2, vllm="colocate")
    with pytest.raises(UserError, match='vllm = "colocate" needs the package vllm: install it, or add --set vllm=off'):
        gcpo.run(config, data=world, model=model, out=tmp_path / "out", seed=0, resume=False)
    assert not (tmp_path / "out").exists()
    here, moved = GcpoConfig(vllm="server"), GcpoConfig(vllm="server", vllm_server="http://10.0.0.6:8000")
    assert decisive(moved, dump(moved)) == decisive(here, dump(here))
