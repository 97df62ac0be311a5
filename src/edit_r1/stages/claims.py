"""The comparison of verifiers with what they claim to be better than."""

from __future__ import annotations

from typing import Literal, get_args

from edit_r1.config import Config
from edit_r1.stages.bases import PretrainVerifierConfig, TinySize
from edit_r1.stages.data import WorldConfig
from edit_r1.stages.evaluation import EvaluateConfig
from edit_r1.stages.verifier import BradleyTerryConfig, ColdStartConfig, GcpoConfig, TraceDpoConfig

Arm = Literal["base", "direct", "think", "verify", "cold_start", "gcpo", "bt_head", "rule_grpo", "dpo"]
Size = Literal["s", "m", "l"]
"""1.0M, 2.4M and 7.8M weights; m is the shipped base."""
ARMS: tuple[Arm, ...] = get_args(Arm)
SIZES: tuple[Size, ...] = get_args(Size)


class ClaimsConfig(Config):
    """`[claims]`: which seeds, and what the sizes are."""

    seeds: tuple[int, ...] = (0, 1, 2)
    more_seeds: tuple[int, ...] = ()
    """Further seeds for cold start and GCPO of the middle size: the interval of a gain over three seeds is wide."""
    s: TinySize = TinySize(hidden=128, layers=3, heads=4, vision_hidden=96, vision_layers=2)
    l: TinySize = TinySize(hidden=256, layers=6, heads=8, kv_heads=2, vision_hidden=192, vision_layers=4)  # noqa: E741
    label_noise: tuple[float, ...] = (0.0, 0.2)
    """Shares of wrong labels, beside the world's own, with which the middle size is trained by GCPO too."""


class ClaimsRecipe(Config):
    """The sections of a recipe that the claims use."""

    claims: ClaimsConfig
    world: WorldConfig
    pretrain_verifier: PretrainVerifierConfig
    cold_start: ColdStartConfig
    gcpo: GcpoConfig
    bradley_terry: BradleyTerryConfig
    trace_dpo: TraceDpoConfig
    evaluate: EvaluateConfig
