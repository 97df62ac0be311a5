"""The configuration of every stage: one class per section of a recipe, in the order in which the demo runs them.

This file imports nothing heavy, so that a mistake in a recipe is reported before torch is loaded.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from edit_r1.config import Config

EDITS, TRAIN_PAIRS, TEST_PAIRS, HELDOUT_PAIRS, PROBE = "edits", "pairs_train", "pairs_test", "pairs_heldout", "probe"
"""The data sets of a world: the folders that `edit-r1 world make` writes into its own."""

TRACES = "traces"
"""The data set of kept texts: the folder that `edit-r1 verifier traces` writes into its own."""

Measured = Literal["test", "val"]
"""What a loop may be measured on: `val` while settings are chosen, `test` for what is reported."""


class WorldConfig(Config):
    """`[world]`: how many scenes, edits and simulated preferences the built-in world makes."""

    cold_start_edits: int = Field(default=4800, gt=0)
    train_pairs: int = Field(default=800, gt=0)
    test_pairs: int = Field(default=1000, gt=0)
    heldout_pairs: int = Field(default=200, gt=0)
    probe_edits: int = Field(default=64, gt=0)
    split: Measured = "test"
    """Where the pairs in `pairs_test` come from, and the tasks on which editors are measured."""
    editor_share: float = Field(default=0.15, ge=0, le=1)
    """Share of the edits that the tiny editor makes; faults are drawn into the others."""
    editor_steps: tuple[int, ...] = (3, 6)
    """Sampling steps of that editor, each for an equal part of its edits: fewer steps, a weaker editor."""
    label_noise: float = Field(default=0.1, ge=0, lt=0.5)
    """Share of the training pairs that a simulated annotator labels the wrong way round; held-out pairs have none."""


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
    hard_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the edits whose question is made hard: pictures exchanged, a blank picture, stray words."""
    steps: int = Field(default=300, gt=0)
    batch_size: int = Field(default=16, gt=0)


class EndpointConfig(Config):
    """A chat endpoint that speaks OpenAI's protocol."""

    base_url: str
    """Of the API, as in `http://127.0.0.1:8000/v1`."""
    model: str
    """As the server calls it."""
    api_key_env: str | None = None
    """The environment variable that holds the key; without it no key is sent."""
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=2048, gt=0)
    concurrency: int = Field(default=8, gt=0, le=100)
    """Requests in flight at once; a client keeps at most 100 connections."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one request."""
    retries: int = Field(default=4, ge=0)
    """Further tries of a request after the first, with growing pauses."""


class TeacherConfig(EndpointConfig):
    """`[[traces.teachers]]`: a model, a manner and a temperature, which write texts on every edit."""

    name: str = Field(min_length=1)
    temperature: float = Field(default=0.7, ge=0)
    system: str = "plain"
    """The system prompt: `plain`, `strict` or `terse`, or the path of a `.txt` file of your own."""
    texts: int = Field(default=1, gt=0)
    """Texts on each edit."""


class GoldConfig(EndpointConfig):
    """`[traces.gold]`: the stronger model whose answers decide which text is kept. Its scores are not used."""

    system: str = "gold"


class TracesConfig(Config):
    """`[traces]`: texts of teachers on real edits, of which gold keeps one for each (paper section 2)."""

    template: Literal["compact", "verify"] = "verify"
    """The prompt of teachers and gold; `compact` is for tiny verifiers."""
    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    gold: GoldConfig
    decomposer: EndpointConfig | None = None
    """Names the principles of edits that bring none; gold's endpoint by default, without its system prompt."""
    give_up_after: int = Field(default=10, gt=0)
    """So many requests in a row without an answer, retries included in each, and an endpoint is left alone."""

    @field_validator("teachers")
    @classmethod
    def _distinct(cls, teachers: tuple[TeacherConfig, ...]) -> tuple[TeacherConfig, ...]:
        if len({teacher.name for teacher in teachers}) < len(teachers):
            raise ValueError("must have different names")
        return teachers


class GcpoConfig(Config):
    """`[gcpo]`: group contrastive preference optimization of the verifier (paper section 3).

    The defaults of `reward` to `refills` are the paper's form; the others are there to be compared with it.
    """

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
    checkpoint_every: int = Field(default=10, gt=0)
    probe_every: int = Field(default=10, gt=0)

    @model_validator(mode="after")
    def _whole(self) -> GcpoConfig:
        if self.steps % self.updates_per_batch or self.checkpoint_every % self.updates_per_batch:
            raise ValueError(
                f"steps and checkpoint_every must be multiples of updates_per_batch {self.updates_per_batch}"
            )
        if self.reward == "pointwise" and (self.margin or self.tie_credit):
            raise ValueError('margin and tie_credit belong to the contrast, not to reward = "pointwise"')
        return self


class BradleyTerryConfig(Config):
    """`[bradley_terry]`: a scalar head on the same backbone, a baseline for GCPO."""

    backbone: BackboneConfig = BackboneConfig()
    steps: int = Field(default=300, gt=0)
    pairs_per_step: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=50, gt=0)


class TraceDpoConfig(Config):
    """`[trace_dpo]`: DPO on pairs of traces of one edit, a baseline for GCPO."""

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


class EvaluateConfig(Config):
    """`[evaluate]`: how many held-out pairs, tasks and traces both evaluations use."""

    pairs: int = Field(default=1000, gt=0)
    base_pairs: int = Field(default=100, gt=0)
    """Pairs for the untrained base, of either kind, whose traces are failures: fewer tell as much."""
    heldout_pairs: int = Field(default=200, gt=0)
    traces: int = Field(default=4, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    max_tokens: int = Field(default=160, gt=0)
    batch_size: int = Field(default=128, gt=0)
    tasks: int = Field(default=300, gt=0)
    editor_steps: int = Field(default=5, gt=0)
    """Sampling steps of editors, as many as they are trained with."""
    examples: int = Field(default=8, gt=0)


class CalibrationConfig(Config):
    """`[calibration]`: what more traces buy."""

    pairs: int = Field(default=300, gt=0)
    traces: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of traces per edit; the largest is drawn, and its first ones are the others."""
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=160, gt=0)
    batch_size: int = Field(default=128, gt=0)


class SanityConfig(Config):
    """`[sanity]`: the attacks that a verifier must withstand before an editor is trained with it.

    The defaults ask it as the editor's training does: one greedy trace.
    """

    tasks: int = Field(default=40, gt=0)
    template: Literal["compact", "verify"] = "compact"
    traces: int = Field(default=1, gt=0)
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=160, gt=0)
    batch_size: int = Field(default=128, gt=0)


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
    editor_edits: int = Field(default=4000, gt=0)
    """Edits that the shipped editor makes to be looked at."""
    editor_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the samples that show one of them."""
    editor_steps: tuple[int, ...] = (3, 6)


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


Arm = Literal["base", "direct", "think", "verify", "cold_start", "gcpo", "bt_head", "rule_grpo", "dpo"]
Size = Literal["s", "m", "l"]
"""About 1M, 3M and 10M weights; m is the shipped base."""
ARMS: tuple[Arm, ...] = get_args(Arm)
SIZES: tuple[Size, ...] = get_args(Size)


class ClaimsConfig(Config):
    """`[claims]`: which seeds, and what the sizes are."""

    seeds: tuple[int, ...] = (0, 1, 2)
    s: TinySize = TinySize(hidden=96, layers=3, heads=3, vision_hidden=64, vision_layers=2)
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
