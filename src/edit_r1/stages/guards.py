"""When the training of an editor counts as reward hacking."""

from __future__ import annotations

from pydantic import Field

from edit_r1.config import Config


class GuardsConfig(Config):
    """`[editor_grpo.guards]`: limits for the probe of an editor in training, most of them against the base.

    None: this guard never alarms. Recipes have no None; there a share of 1, a lowest multiple of 0 or a highest of 1e9
    does the same.
    """

    noop_rate: float | None = Field(default=0.4, ge=0, le=1)
    """Highest share of copies; a share that is no higher than the base's is no alarm."""
    diversity: float | None = Field(default=0.5, ge=0, lt=1)
    """Lowest distance within groups, as a multiple of the base's."""
    high_frequency: float | None = Field(default=1.5, gt=1)
    """Highest share of energy in fine detail, as a multiple of the base's: noise, grids."""
    blur: float | None = Field(default=0.5, ge=0, lt=1)
    """Lowest share of energy in fine detail, as a multiple of the base's: blur, empty pictures."""
    edges: float | None = Field(default=1.5, gt=1)
    """Highest share of edge pixels, as a multiple of the base's."""
    drift: float | None = Field(default=1.5, gt=1)
    """Highest change outside the edited region, as a multiple of the base's."""
    gap: float | None = Field(default=0.1, gt=0)
    """By how much the reward (of 1) may have risen more than the held-out judge (of 1) since the base."""
    stop: bool = False
    """Whether an alarm ends the run."""
