"""Training of verifiers: the cold start, GCPO and what GCPO is compared with."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from edit_r1.config import Config

TraceForm = Literal["full", "verify", "think", "direct"]
"""What of a trace is learnt: checks with evidence and the score; checks alone; thoughts alone; the score alone.

The last two are asked without principles. The others than `full` are there to be compared with it (paper, claim 1).
"""


class BackboneConfig(Config):
    """How the weights of a verifier are held and trained; the defaults are for the tiny one."""

    template: Literal["compact", "verify"] = "compact"
    """The prompt: `compact` for the tiny verifier, `verify` for real models."""
    bf16: bool = False
    """Compute in bfloat16. With LoRA the frozen weights are held in it too."""
    lora_rank: int = Field(default=0, ge=0)
    """Rank of the adapters on every linear layer of the language model; 0 trains all weights."""
    lora_alpha: int = Field(default=64, gt=0)
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, and a fraction of the memory."""
    max_pixels: int | None = Field(default=None, gt=0)
    """Images of more pixels are shrunk to so many before the model sees them."""


class SftConfig(Config):
    """Settings of supervised fine-tuning."""

    operational: ClassVar[frozenset[str]] = frozenset({"checkpoint_every"})
    backbone: BackboneConfig = BackboneConfig()
    steps: int = Field(gt=0)
    batch_size: int = Field(default=32, gt=0)
    """Rows of an update on each process."""
    micro_batch: int | None = Field(default=None, gt=0)
    """At most so many rows pass through the model together: the largest divisor of `batch_size`; all by default."""
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=50, gt=0)


class ColdStartConfig(SftConfig):
    """`[cold_start]`: supervised fine-tuning of the verifier on selected traces (paper section 2)."""

    form: TraceForm = "full"
    hard_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the edits whose question is made hard: pictures exchanged, a blank picture, stray words.

    With 0.3 the verifier stands attacks that it fails without (docs/sanity.md).
    """
    question_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the other edits that are asked about what follows from no instruction, so that questions are read.

    Without it the verifier answers by a principle's place in the list, and fails on a new category (docs/claims.md).
    It needs a base that was asked such questions too (`pretrain_verifier.questions`).
    """
    teacher_weights: Literal["annotators"] | None = None
    """How simulated teachers weigh the checks in their scores: all alike by default, as the annotators do not.

    With `annotators` the cold start learns what it else learns from pairs alone (docs/claims.md).
    """
    steps: int = Field(default=300, gt=0)
    batch_size: int = Field(default=16, gt=0)


class GcpoConfig(Config):
    """`[gcpo]`: group contrastive preference optimization of the verifier (paper section 3).

    The defaults of `reward` to `refills` are the paper's form; the others are there to be compared with it.
    """

    operational: ClassVar[frozenset[str]] = frozenset({"vllm_server", "checkpoint_every"})
    backbone: BackboneConfig = BackboneConfig()
    steps: int = Field(default=40, gt=0)
    pairs_per_step: int = Field(default=16, gt=0)
    """Pairs of an update on each process."""
    traces: int = Field(default=8, gt=1)
    """N: traces drawn for each image of a pair."""
    reward: Literal["contrast", "pointwise"] = "contrast"
    """`pointwise` is no GCPO: a winner's trace earns its score, a loser's what its score lacks, each by itself."""
    margin: float = Field(default=0.0, ge=0)
    """A comparison is won by more than so many points."""
    tie_credit: float = Field(default=0.0, ge=0, le=1)
    """What a comparison within the margin earns."""
    check_weight: float = Field(default=0.0, ge=0)
    """Weight of the share of right checks beside the contrast. Needs data with truth, which preferences do not have."""
    scale_rewards: Literal["none", "group"] = "none"
    """`group` divides advantages by the standard deviation of their group."""
    loss_type: Literal["grpo", "dr_grpo"] = "grpo"
    """`grpo` takes the mean over the tokens of a trace, `dr_grpo` their sum over a constant, `max_tokens`."""
    updates_per_batch: int = Field(default=1, gt=0)
    """Updates on the same traces; with more than 1 the ratio leaves 1, and the clip binds."""
    refills: int = Field(default=0, ge=0)
    """Dynamic sampling: so many times pairs without any advantage are replaced by others before an update."""
    clip: float = Field(default=0.2, gt=0)
    learning_rate: float = Field(default=4e-4, gt=0)
    adam_epsilon: float = Field(default=1e-4, gt=0)
    """Ten times the usual size of a gradient's entry, so that Adam steps along the gradient, not along its signs."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=160, gt=0)
    micro_batch: int = Field(default=64, gt=0)
    """At most so many traces pass through the model together; the largest divisor of 2 * pairs * traces is taken."""
    freeze_vision: bool = True
    """Leave the vision tower as the cold start made it: judgement is what is rewarded, and work is saved."""
    vllm: Literal["off", "colocate", "server"] = "off"
    """Who writes the traces: this process, vLLM within it, or a server started with `trl vllm-serve`."""
    vllm_server: str | None = Field(default=None, pattern=r"^https?://")
    """Its address, as `http://10.0.0.5:8000`; by default this machine's port 8000."""
    checkpoint_every: int = Field(default=10, gt=0)
    probe_every: int = Field(default=10, gt=0)
    probe: str | None = None
    """A folder of `edit-r1 verifier traces`: edits whose kept text agrees with gold in every check are then the probe.
    Without it the data's own is, if there is one."""

    @property
    def rows_per_step(self) -> int:
        """Traces of a step on each process: N for the winner and N for the loser of every pair."""
        return 2 * self.pairs_per_step * self.traces

    @model_validator(mode="after")
    def _whole(self) -> GcpoConfig:
        if self.steps % self.updates_per_batch or self.checkpoint_every % self.updates_per_batch:
            raise ValueError(
                f"steps and checkpoint_every must be multiples of updates_per_batch {self.updates_per_batch}"
            )
        if self.vllm_server is not None and self.vllm != "server":
            raise ValueError('vllm_server is the address of vllm = "server"')
        if self.reward == "pointwise" and (self.margin or self.tie_credit):
            raise ValueError('margin and tie_credit belong to the contrast, not to reward = "pointwise"')
        return self


class BradleyTerryConfig(Config):
    """`[bradley_terry]`: a scalar head on the same backbone, a baseline for GCPO."""

    operational: ClassVar[frozenset[str]] = frozenset({"checkpoint_every"})
    backbone: BackboneConfig = BackboneConfig()
    steps: int = Field(default=150, gt=0)
    pairs_per_step: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=50, gt=0)


class TraceDpoConfig(Config):
    """`[trace_dpo]`: DPO on pairs of traces of one edit, a baseline for GCPO."""

    operational: ClassVar[frozenset[str]] = frozenset({"checkpoint_every"})
    backbone: BackboneConfig = BackboneConfig()
    steps: int = Field(default=300, gt=0)
    batch_size: int = Field(default=16, gt=0)
    """Pairs of traces of an update."""
    traces: int = Field(default=8, gt=1)
    """N: traces drawn for each image of a preference pair, once, before training."""
    beta: float = Field(default=0.1, gt=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=160, gt=0)
    checkpoint_every: int = Field(default=50, gt=0)
