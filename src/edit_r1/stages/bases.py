"""How the shipped tiny bases were made."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from edit_r1.config import Config
from edit_r1.stages.verifier import SftConfig


class TinySize(Config):
    """Size of a tiny verifier; the classes are those of Qwen3-VL."""

    hidden: int = 160
    layers: int = 4
    heads: int = 5
    kv_heads: int = 1
    vision_hidden: int = 128
    vision_layers: int = 3
    patch: int = 8


class PretrainVerifierConfig(SftConfig):
    """`[pretrain_verifier]`: how the shipped tiny verifier base was made.

    The shares are of the samples after the first `describe_only` of training; the rest are observations.
    """

    steps: int = Field(default=7500, gt=0)
    batch_size: int = Field(default=16, gt=0)
    checkpoint_every: int = Field(default=250, gt=0)
    size: TinySize = TinySize()
    describe_only: float = Field(default=0.15, ge=0, le=1)
    describe: float = Field(default=0.15, ge=0, le=1)
    compare: float = Field(default=0.15, ge=0, le=1)
    tally: float = Field(default=0.2, ge=0, le=1)
    questions: float | None = Field(default=None, ge=0, le=1)
    """Share of observations whose questions follow from no instruction. The shipped base had them in a second run."""
    editor_edits: int = Field(default=4000, gt=0)
    """Edits that the shipped editor makes to be looked at."""
    editor_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the samples that show one of them."""
    editor_steps: tuple[int, ...] = (3, 6)

    @model_validator(mode="after")
    def _shares_of_one_whole(self) -> Self:
        if self.describe + self.compare + self.tally + (self.questions or 0.0) > 1.0:
            raise ValueError("describe, compare, tally and questions are shares: together at most 1")
        return self


class PretrainEditorConfig(Config):
    """`[pretrain_editor]`: how the shipped tiny editor base was made."""

    vae_steps: int = Field(default=3000, ge=1)
    vae_batch: int = Field(default=8, ge=1)
    vae_learning_rate: float = Field(default=2e-3, gt=0)
    vae_l1_weight: float = Field(default=0.1, ge=0)
    vae_kl_weight: float = Field(default=1e-4, ge=0)
    text_steps: int = Field(default=800, ge=1)
    text_batch: int = Field(default=64, ge=1)
    text_learning_rate: float = Field(default=2e-3, gt=0)
    steps: int = Field(default=6000, ge=1)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1.2e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    decay_share: float = Field(default=0.3, ge=0, le=1)
    """The last share of the steps, over which the rate falls."""
    ema_decay: float = Field(default=0.996, ge=0, lt=1)
    practice_share: float = Field(default=0.8, ge=0, le=1)
    """The first share of the steps, in which every training edit is right and changed tokens weigh more."""
    change_weight: float = Field(default=4.0, ge=1)
    right_share: float = Field(default=0.6, ge=0, le=1)
    """Share of right edits after practice; the rest have a fault, as real edit data have."""
    practice_shift: float = Field(default=4.0, gt=0)
    """How far practice moves noise levels towards noise, where it is decided what the edit will be."""
    noise_shift: float = Field(default=1.5, gt=0)
    """The same after practice, nearer to the image: there it is decided how sharp the edit will be."""
    word_noise: float = Field(default=0.2, ge=0, le=1)
    """Chance that a word without a value (a verb, say) becomes another."""
    guidance: float = 2.5
    sampling_steps: int = Field(default=10, ge=1)
    log_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)
    evaluation_tasks: int = Field(default=100, ge=1)
    test_tasks: int = Field(default=400, ge=1)
