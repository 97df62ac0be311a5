"""What does not go together in the settings of editor GRPO is refused, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edit_r1.errors import UserError
from edit_r1.stages import EditorGrpoConfig
from edit_r1.training.editor_rewards import reward_sources


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sde_steps": (1, 4)}, "within 0..3"),
        ({"sde_steps": (2, 1)}, "ascending"),
        ({"kernel": "cps", "sde_steps": (2, 3)}, "leave out step 3"),
        ({"kernel": "cps", "sde_steps": (0,), "noise_level": 1.5}, "at most 1"),
        ({"window": "random", "window_size": 3, "sde_steps": (0, 1)}, "nothing to choose among 2"),
        ({"objective": "nft"}, 'set kernel = "ode"'),
        ({"objective": "guard", "kernel": "ode"}, "choose cps"),
        ({"objective": "nft", "kernel": "ode", "beta": 0.1}, 'kl = "velocity"'),
        ({"objective": "nft", "kernel": "ode", "beta": 0, "shared_noise": True}, "all edits of a group are equal"),
        ({"rewards": ({},)}, "one of the two"),
        ({"objective": "nft", "kernel": "ode", "beta": 0, "window": "random", "sde_steps": (0, 1)}, "leave window out"),
        ({"judge": {"folder": "x", "weight": 2.0}}, "rewards nothing"),
        ({"window_size": 2}, "sliding and random"),
        ({"window": "random"}, "leaves nothing to choose among 1 sde_steps"),
        ({"traces": 4}, "at which all are alike"),
        ({"rewards": ({"folder": "x", "traces": 2},)}, "at which all are alike"),
        (
            {"rewards": ({"endpoint": {"base_url": "http://x/v1", "model": "y"}, "device": "cuda:1"},)},
            "its server does",
        ),
        ({"categories": {"follow": 0, "keep": 0, "quality": 0}}, "all 0"),
        ({"aggregate": "weighted", "rewards": ({"folder": "x", "checklist": False},)}, "made of checks"),
        ({"judge": {"folder": "x", "checklist": False, "aggregate": "min_geomean"}}, "made of checks"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        EditorGrpoConfig.model_validate({"sample_steps": 4, **settings})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"judge": {"folder": "gcpo/../gcpo"}}, "one of the verifiers that reward"),
        ({"rewards": ({"folder": "gcpo", "checklist": False},), "categories": {}}, "no verifier is asked for any"),
    ],
)
def test_verifiers_that_say_nothing_new_or_nothing_at_all_are_refused(settings: dict[str, Any], reason: str) -> None:
    """Before they are loaded: the folder is not there."""
    config = EditorGrpoConfig.model_validate(settings)
    with pytest.raises(UserError, match=reason):
        reward_sources(config, None if config.rewards else Path("gcpo"))
