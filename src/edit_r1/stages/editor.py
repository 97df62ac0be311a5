"""Training of editors."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from edit_r1.config import Config
from edit_r1.stages.data import Aggregation, ServerConfig
from edit_r1.stages.guards import GuardsConfig


class CategoryWeights(Config):
    """How much the checks of each category weigh in the advantage."""

    follow: float = Field(default=1.0, ge=0)
    keep: float = Field(default=1.0, ge=0)
    quality: float = Field(default=1.0, ge=0)


class RewardConfig(Config):
    """`[[editor_grpo.rewards]]`: a verifier whose score is a part of the reward."""

    folder: str | None = None
    """Of a verifier that runs in this process."""
    endpoint: ServerConfig | None = None
    """Or one behind a server."""
    weight: float = Field(default=1.0, gt=0)
    checklist: bool = True
    """Whether it is asked about principles; one that was taught to write the score alone is not."""
    device: str | None = None
    """Where it runs: `cuda:1` gives it a GPU of its own. By default where the editor is."""
    template: str | None = None
    """Its prompt, and with the next ones what it is asked for, where that differs from the run's own settings."""
    aggregate: Aggregation | None = None
    traces: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.folder is None) == (self.endpoint is None):
            raise ValueError("give the verifier's folder or its endpoint, one of the two")
        if self.endpoint is not None and self.device is not None:
            raise ValueError("device is for a verifier in a folder; one behind an endpoint runs where its server does")
        return self


class EditorGrpoConfig(Config):
    """`[editor_grpo]`: reinforcement learning of the editor with the verifier as its reward (paper section 4).

    docs/editor_grpo.md has the formulas, and which of them go together.
    """

    operational: ClassVar[frozenset[str]] = frozenset({"patience", "checkpoint_every", "groups_every"})
    steps: int = Field(default=30, gt=0)
    prompts_per_step: int = Field(default=10, gt=0)
    group_size: int = Field(default=8, gt=1)
    """G: edits of one task that are compared with each other; the paper has 24."""
    height: int | None = Field(default=None, gt=0)
    """Of the edits in pixels, a multiple of the editor's token (16 for FLUX.1 and Qwen-Image); by default its own."""
    width: int | None = Field(default=None, gt=0)
    guidance: float | None = Field(default=None, ge=0)
    """How strongly the editor follows the instruction, in rollout and update; by default the adapter's own scale."""
    sample_steps: int = Field(default=5, gt=0)
    objective: Literal["clip", "guard", "nft"] = "clip"
    """`clip` is the paper's; `guard` is GRPO-Guard's; `nft`, DiffusionNFT's, learns from finished images."""
    kernel: Literal["ode", "flow_sde", "cps", "dance_sde"] = "cps"
    """How a stochastic step is made: the paper's Flow-GRPO has `flow_sde`; `cps` adds no noise even in few steps."""
    noise_level: float = Field(default=0.7, gt=0)
    sde_steps: tuple[int, ...] = Field(default=(0,), min_length=1)
    """The sampling steps that may be stochastic, and are trained then; see docs/flow.md on the first and the last."""
    window: Literal["fixed", "sliding", "random"] = "fixed"
    """Which of them are: all, or `window_size` neighbours that move along or are drawn anew in each step."""
    window_size: int = Field(default=1, gt=0)
    window_every: int = Field(default=1, gt=0)
    """Steps after which a sliding window moves on."""
    shared_noise: bool = False
    """Whether a group starts from the same noise, so that its members differ by the stochastic steps alone."""
    nft_beta: float = Field(default=1.0, gt=0)
    """How far the two policies of `nft` are from the one that sampled."""
    nft_levels: int = Field(default=2, gt=0)
    """Noise levels at which `nft` practises on each image."""
    learning_rate: float = Field(default=1e-3, gt=0)
    updates_per_rollout: int = Field(default=1, gt=0)
    lora_rank: int = Field(default=16, ge=0)
    """Rank of the adapters; 0 trains all weights of the transformer."""
    lora_alpha: int = Field(default=32, gt=0)
    bf16: bool = False
    """Compute in bfloat16; what is trained is held in float32."""
    gradient_checkpointing: bool = False
    shard: bool = False
    """On several processes: each holds a part of the transformer (FSDP2), not the whole of it."""
    kl: Literal["gaussian", "velocity"] = "gaussian"
    """To the frozen base: exact for the step's two Gaussians, or the squared difference of the two velocities."""
    beta: float = Field(default=0.04, ge=0)
    """Weight of the KL, with the same reduction as the log-probability; 0 leaves it out."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of log-probability and KL over the latent dimensions; the clip range goes with it."""
    clip: float = Field(default=1e-4, gt=0)
    advantages: Literal["group", "global", "mean"] = "group"
    """What centred rewards are divided by: the group's standard deviation, the whole step's, or nothing."""
    categories: CategoryWeights | None = None
    """Instead of the score: shares of the checks met, normalised in each category apart and then weighted."""
    advantage_clip: float = Field(default=5.0, gt=0)
    advantage_eps: float = Field(default=1.0, gt=0)
    """Added to the standard deviation of a group's scores, in [0, 10]: groups that hardly differ weigh less."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.9, ge=0, lt=1)
    micro_batch: int = Field(default=40, gt=0)
    """Edits that pass through the editor together, in the rollout and in the update alike."""
    rewards: tuple[RewardConfig, ...] = ()
    """Verifiers beside the one that the command line names; the reward is the weighted mean of their scores."""
    judge: RewardConfig | None = None
    """A verifier that rewards nothing: its score on the probe shows whether a gain of reward is a gain."""
    guards: GuardsConfig = GuardsConfig()
    """When the run counts as reward hacking: an alarm is recorded, and may end the run (docs/guards.md)."""
    template: str = "compact"
    traces: int = Field(default=1, gt=0)
    """Traces of the verifier per edit; the reward is the mean score of those that can be read."""
    aggregate: Aggregation = "model"
    """How a trace becomes a number; `confident` also tells edits of equal score apart (docs/editor_grpo.md)."""
    temperature: float = Field(default=0.0, ge=0)
    """Of the traces. One greedy trace tells more of an edit than several sampled ones (LOG.md)."""
    max_tokens: int = Field(default=160, gt=0)
    verify_batch: int = Field(default=128, gt=0)
    overlap: bool = False
    """Verify a micro batch while the next one is sampled: for a verifier behind a server or on a GPU of its own."""
    patience: float = Field(default=600.0, ge=0)
    """Seconds to wait for a reward server that does not answer, before the run stops."""
    probe_every: int = Field(default=10, gt=0)
    probe_tasks: int = Field(default=48, gt=0)
    probe_steps: int = Field(default=5, gt=0)
    """Steps of the deterministic sampling that the probe judges."""
    checkpoint_every: int = Field(default=1, gt=0)
    """Steps between checkpoints: what a run that is broken off may lose."""
    groups_every: int = Field(default=5, gt=0)
    """How often the best and the worst group are recorded with their images."""

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        window, last = self.sde_steps, self.sample_steps - 1
        if list(window) != sorted(set(window)) or not all(0 <= step <= last for step in window):
            raise ValueError(
                f"sde_steps must be different steps within 0..{last}, ascending, for sample_steps is {last + 1}"
            )
        if self.kernel == "cps" and last in window:
            raise ValueError(f"sde_steps must leave out step {last}: the last step of the kernel cps is deterministic")
        if self.kernel == "cps" and self.noise_level > 1:
            raise ValueError(f"noise_level must be at most 1 with the kernel cps, not {self.noise_level:g}")
        if self.window == "fixed" and self.window_size > 1:
            raise ValueError(
                f"window_size {self.window_size} is for the windows sliding and random; sde_steps is fixed's"
            )
        if self.window != "fixed" and self.window_size >= len(window):
            raise ValueError(
                f"window_size {self.window_size} leaves nothing to choose among {len(window)} sde_steps: name more of "
                'them, or set window = "fixed"'
            )
        return self

    @model_validator(mode="after")
    def _verifiers_fit(self) -> Self:
        weights = self.categories.model_dump().values() if self.categories else (1.0,)
        if not any(weights):
            raise ValueError("the weights of categories are all 0: nothing would be learned")
        if self.judge and self.judge.weight != 1.0:
            raise ValueError("judge.weight has no meaning: a judge rewards nothing")
        sources = [source for source in (*self.rewards, self.judge) if source]
        if self.temperature == 0 and max([self.traces, *(source.traces or 1 for source in sources)]) > 1:
            raise ValueError("traces must be 1 with temperature 0, at which all are alike: set a temperature")
        for source in sources:
            aggregate = "" if source.checklist else source.aggregate or self.aggregate
            if aggregate in ("weighted", "min_geomean"):
                raise ValueError(
                    f'aggregate "{aggregate}" is made of checks, and a verifier with checklist = false writes none: '
                    'choose "model" or "confident"'
                )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.objective == "nft" and self.kernel != "ode":
            raise ValueError(
                'objective "nft" learns from finished images, which noise in the sampling only spoils: '
                'set kernel = "ode"'
            )
        if self.objective == "nft" and self.window != "fixed":
            raise ValueError(
                f'window "{self.window}" chooses stochastic steps, and objective "nft" has none: leave window out'
            )
        if self.objective == "nft" and self.shared_noise:
            raise ValueError(
                'objective "nft" samples without noise in the steps: with shared_noise all edits of a group are equal'
            )
        if self.objective != "nft" and self.kernel == "ode":
            raise ValueError(
                f'objective "{self.objective}" needs log-probabilities, and the kernel ode has none: '
                "choose cps, flow_sde or dance_sde"
            )
        if self.objective == "nft" and self.beta and self.kl == "gaussian":
            raise ValueError('objective "nft" has no Gaussian steps to compare: set kl = "velocity", or beta = 0')
        return self
