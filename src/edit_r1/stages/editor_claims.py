"""The comparison of editors that different verifiers, or different settings, have trained."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edit_r1.config import Config
from edit_r1.stages.claims import Arm, ClaimsRecipe
from edit_r1.stages.editor import EditorGrpoConfig
from edit_r1.stages.evaluation import EvaluateConfig
from edit_r1.stages.guards import GuardsConfig


class EditorArm(Config):
    """`[editor_claims.arms.NAME]`: who rewards, and what differs from `editor_grpo`, or from another arm."""

    verifier: Literal["direct", "think", "verify", "cold_start", "gcpo"] = "gcpo"
    """An arm of the claims about verifiers, of the size m and of the same seed."""
    like: str | None = None
    """The arm whose settings these are added to."""
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Values of `editor_grpo`, as a recipe has them."""


class EditorClaimsConfig(Config):
    """`[editor_claims]`: which seeds and which arms."""

    seeds: tuple[int, ...] = (0, 1, 2)
    arms: dict[str, EditorArm]


class EditorClaimsRecipe(Config):
    """The sections of a recipe that the claims about editors use."""

    editor_claims: EditorClaimsConfig
    editor_grpo: EditorGrpoConfig
    evaluate: EvaluateConfig

    def config_of(self, arm: str) -> EditorGrpoConfig:
        """The settings of an arm. `ValueError` where they do not go together."""
        changed = self.editor_grpo.model_dump(mode="json") | self._changes(arm)
        return EditorGrpoConfig.model_validate_json(json.dumps(changed))

    def verifier(self, arm: str) -> Arm:
        """The verifier that rewards an arm; of the shipped editor, which is no arm, the one that scores it."""
        known = self.editor_claims.arms.get(arm)
        return known.verifier if known else "gcpo"

    def digest(self, arm: str, verifiers: ClaimsRecipe) -> str:
        """A short name of what an arm's row depends on: its verifier and settings, and the measurement.

        The limits of the guards are left out: they say when a run alarms, and not where it goes. (`first_alarm` of a
        row goes by those of its day.) So is what is not set: a new setting that is None by default changes no digest.
        """
        limits = {"guards": set(GuardsConfig.model_fields) - {"stop"}}
        known = arm in self.editor_claims.arms  # the base has no settings
        settings = self.config_of(arm).model_dump(mode="json", exclude=limits, exclude_none=True) if known else {}
        judge = self.verifier(arm)
        made = [judge, verifiers.digest(judge, "m"), settings]
        document = json.dumps([made, self.evaluate.model_dump(mode="json", exclude_none=True)], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:12]

    def _changes(self, arm: str) -> dict[str, Any]:
        chosen = self.editor_claims.arms[arm]
        if chosen.like is None:
            return chosen.settings
        like = self.editor_claims.arms.get(chosen.like)
        if like is None or like.like is not None:
            raise ValueError(f"arm {arm} is like {chosen.like}, which is no arm with settings of its own")
        return like.settings | chosen.settings

    @model_validator(mode="after")
    def _arms_fit(self) -> Self:
        for arm in self.editor_claims.arms:
            if self.config_of(arm).rewards:
                raise ValueError(f"{arm} is rewarded by its verifier: leave rewards out")
        return self
