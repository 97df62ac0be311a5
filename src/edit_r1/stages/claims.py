"""The comparison of verifiers with what they claim to be better than."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self, get_args

from pydantic import model_validator

from edit_r1 import assets
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
_OF_EDITORS = {"tasks", "editor_steps", "examples"}
"""Settings of the measurement that are not about verifiers."""


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
    pretrain_questions: PretrainVerifierConfig
    """How a base goes on, until it can answer what follows from no instruction."""
    cold_start: ColdStartConfig
    gcpo: GcpoConfig
    bradley_terry: BradleyTerryConfig
    trace_dpo: TraceDpoConfig
    evaluate: EvaluateConfig

    def pretraining(self, size: Size) -> dict[str, PretrainVerifierConfig]:
        """The runs that make the base of a size, each from the model of the one before; none for the shipped one."""
        chosen = {"s": self.claims.s, "l": self.claims.l}.get(size)
        runs = {"seeing": self.pretrain_verifier, "base": self.pretrain_questions} if chosen else {}
        return {name: one.model_copy(update={"size": chosen}) for name, one in runs.items()}

    def digest(self, arm: Arm, size: Size) -> str:
        """A short name of what the rows of an arm depend on, beside their seed and label noise.

        They are the measurement, the sections of the data and of the training from the base on, and the weights of the
        shipped models: the editor's edits are in the data. What is not set is left out: a new setting that is None by
        default changes no digest.
        """
        evaluate = self.evaluate.model_dump(mode="json", exclude=_OF_EDITORS, exclude_none=True)
        used = [*self.pretraining(size).values(), self.world, *self._trained_by(arm)]
        made = [one.model_dump(mode="json", exclude_none=True) for one in used]
        shipped = [assets.EDITOR, *([] if self.pretraining(size) else [assets.VERIFIER])]
        document = json.dumps([evaluate, *made, *map(assets.fingerprint, shipped)], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:12]

    def _trained_by(self, arm: Arm) -> tuple[Config, ...]:
        """The sections of an arm's training. GCPO's says what compute the arms on its pairs may take."""
        if arm == "base":
            return ()
        if arm in ("direct", "think", "verify", "cold_start"):
            return (self.cold_start,)
        own = {"bt_head": (self.bradley_terry,), "dpo": (self.trace_dpo,)}
        return (self.cold_start, self.gcpo, *own.get(arm, ()))

    @model_validator(mode="after")
    def _compute_is_known(self) -> Self:
        if self.gcpo.refills:
            raise ValueError("gcpo.refills must be 0: nobody knows beforehand how many traces they draw")
        return self
