"""Training of editors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from edit_r1.config import Config


class EditorGrpoConfig(Config):
    """`[editor_grpo]`: reinforcement learning of the editor with the verifier as its reward (paper section 4)."""

    steps: int = Field(default=30, gt=0)
    prompts_per_step: int = Field(default=10, gt=0)
    group_size: int = Field(default=8, gt=1)
    """G: edits of one task that are compared with each other; the paper has 24."""
    sample_steps: int = Field(default=5, gt=0)
    kernel: Literal["flow_sde", "cps"] = "cps"
    """How a stochastic step is made: the paper's Flow-GRPO has `flow_sde`; `cps` adds no noise even in few steps."""
    sde_steps: tuple[int, ...] = Field(default=(0,), min_length=1)
    """The sampling steps that are stochastic, and the only ones trained; see docs/flow.md on the first and the last."""
    noise_level: float = Field(default=0.7, gt=0, le=1)
    shared_noise: bool = False
    """Whether a group starts from the same noise, so that its members differ by the stochastic steps alone."""
    learning_rate: float = Field(default=1e-3, gt=0)
    updates_per_rollout: int = Field(default=1, gt=0)
    lora_rank: int = Field(default=16, gt=0)
    lora_alpha: int = Field(default=32, gt=0)
    beta: float = Field(default=0.04, ge=0)
    """Weight of the KL to the frozen base, with the same reduction as the log-probability; 0 leaves it out."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of log-probability and KL over the latent dimensions; the clip range goes with it."""
    clip: float = Field(default=1e-4, gt=0)
    advantage_clip: float = Field(default=5.0, gt=0)
    advantage_eps: float = Field(default=1.0, gt=0)
    """Added to the standard deviation of a group's scores, in [0, 10]: groups that hardly differ weigh less."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.9, ge=0, lt=1)
    micro_batch: int = Field(default=40, gt=0)
    """Edits that pass through the editor together, in the rollout and in the update alike."""
    template: str = "compact"
    traces: int = Field(default=1, gt=0)
    """Traces of the verifier per edit; the reward is the mean score of those that can be read."""
    temperature: float = Field(default=0.0, ge=0)
    """Of the traces. One greedy trace tells more of an edit than several sampled ones (LOG.md)."""
    max_tokens: int = Field(default=160, gt=0)
    verify_batch: int = Field(default=128, gt=0)
    probe_every: int = Field(default=10, gt=0)
    probe_tasks: int = Field(default=48, gt=0)
    probe_steps: int = Field(default=5, gt=0)
    """Steps of the deterministic sampling that the probe judges."""
    checkpoint_every: int = Field(default=5, gt=0)
    groups_every: int = Field(default=5, gt=0)
    """How often the best and the worst group are recorded with their images."""

    @field_validator("sde_steps")
    @classmethod
    def _within(cls, window: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        last = info.data.get("sample_steps", max(window) + 1) - 1
        if not all(0 <= step <= last for step in window) or len(set(window)) < len(window):
            raise ValueError(f"must be different steps within 0..{last}, for sample_steps is {last + 1}")
        if info.data.get("kernel") == "cps" and last in window:
            raise ValueError(f"must leave out step {last}: the last step of the kernel cps is deterministic")
        return tuple(sorted(window))
