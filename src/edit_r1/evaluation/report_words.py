"""What the report says about names: stages, curves, failures, principles, and the glossary."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edit_r1.evaluation.plots import Reference, Unit


@dataclass(frozen=True)
class Words:
    """What is said of a curve.

    Attributes:
        title: its name.
        axis: what stands over the vertical axis: the unit.
        meaning: one sentence.
        unit: how values are shown.
        reference: a line to compare with.
        known: False for keys that the report has no words for.
    """

    title: str
    axis: str = ""
    meaning: str = ""
    unit: Unit = "number"
    reference: Reference | None = None
    known: bool = True


COIN = Reference(0.5, "coin toss")

VERIFIER_NAMES = {"base": "Base", "cold_start": "Cold start", "gcpo": "GCPO"}
EDITOR_NAMES = {"base": "Before RL", "grpo": "After RL"}
STAGE_MEANINGS = {
    "base": "can see and compare pictures, but was never shown a verdict or a score",
    "cold_start": "has imitated selected verdicts of teachers",
    "gcpo": "has then learnt from pairs which edit people prefer",
}

CATEGORY_NAMES = {"follow": "Follow", "keep": "Keep", "quality": "Quality"}
CATEGORY_MEANINGS = {
    "follow": "Was done what the instruction asks?",
    "keep": "Did everything else stay as it was?",
    "quality": "Is the picture free of noise, blur and artefacts?",
}

FAILURE_MEANINGS = {
    "truncated": "cut off before its end",
    "echoed_template": "repeats the template instead of filling it in",
    "duplicate_principle": "checks one principle twice",
    "missing_principle": "leaves a principle out",
    "unknown_principle": "checks a principle that was not asked",
    "no_score": "gives no score",
    "score_out_of_range": "its score is not between 0 and 10",
    "not_a_number": "its score is not a number",
    "several_scores": "gives more than one score",
    "bad_answer": "answers neither yes nor no",
    "empty": "says nothing",
    "engine": "the model could not answer",
    "unreachable": "the model's server did not answer",
}

STAGE_TITLES = {
    "cold_start": ("Cold start", "The verifier imitates selected verdicts of teachers (supervised fine-tuning)."),
    "gcpo": ("GCPO", "The verifier learns from pairs to score the preferred edit above the other one."),
    "editor": ("Editor RL", "The editor learns from the verifier’s scores, and from nothing else."),
}

_COMMON = {
    "loss": Words("Loss", "loss", "What the optimiser lowers; in reinforcement learning it says little by itself."),
    "learning_rate": Words("Learning rate", "learning rate", "How large the steps of the optimiser are."),
    "grad_norm": Words(
        "Gradient norm", "norm", "Length of the gradient before clipping; spikes are a sign of trouble."
    ),
    "entropy": Words("Entropy", "nats per token", "How undecided the model is between next words; 0 is fully certain."),
    "num_tokens": Words("Tokens seen", "tokens", "How much text training has read so far."),
    "seconds": Words("Time per step", "seconds", "Wall-clock time."),
    "reward_std": Words(
        "Spread of the reward",
        "standard deviation",
        "How much the samples of a group differ; without it nothing is learnt.",
    ),
    "kl": Words(
        "KL to the start", "KL", "How far the model has moved from the one that it started from; 0: not at all."
    ),
    "clip_fraction": Words("Clipped updates", "% of terms", "How much of the objective its clip cut off.", "share"),
    "ratio": Words(
        "Likelihood ratio", "new / old", "Likelihood of what was sampled, after and before updates; 1: unchanged."
    ),
    "failure_rate": Words("Unreadable traces", "% of traces", "What the parser refuses. Lower is better.", "share"),
    "tie_rate": Words("Undecided pairs", "% of pairs", "Scores tie, or one is missing. Lower is better.", "share"),
    "length": Words("Length of traces", "tokens", "How long the verifier’s texts are; a collapse would show here."),
    "pair_accuracy": Words(
        "Agreement on pairs", "% of pairs", "The preferred edit is scored higher; undecided is wrong.", "share", COIN
    ),
    "tie_half": Words(
        "Agreement, undecided half", "% of pairs", "The same, with undecided pairs as half right.", "share", COIN
    ),
    "check_accuracy": Words(
        "True checks", "% of checks", "Answers that agree with the oracle: the reasoning.", "share"
    ),
    "oracle_success": Words(
        "Oracle success", "% of edits", "Edits that are right in every point, by the oracle; never a reward.", "share"
    ),
    "oracle_follow": Words(
        "Instruction followed", "% of edits", "All was done that was asked, by the oracle.", "share"
    ),
    "oracle_keep": Words("Rest kept", "% of edits", "Nothing else was changed, by the oracle.", "share"),
    "oracle_quality": Words("Free of defects", "% of edits", "No noise, blur or artefacts, by the oracle.", "share"),
    "noop_rate": Words("Untouched copies", "% of edits", "Edits that show the same scene as the source.", "share"),
    "score": Words("Verifier’s score", "score, 0 to 10", "Mean score of the traces."),
    "signal_share": Words("Pairs that teach", "% of pairs", "Their advantages are not all zero.", "share"),
    "silent": Words("Pairs without gradient", "% of pairs", "All advantages are zero: nothing to learn.", "share"),
}
_SYNONYMS = {
    "lr": "learning_rate",
    "gradient_norm": "grad_norm",
    "pairwise_accuracy": "pair_accuracy",
    "step_time": "seconds",
    "clip_share": "clip_fraction",
    "clip_ratio/region": "clip_fraction",
    "completions/mean_length": "length",
    "mean_length": "length",
    "success": "oracle_success",
    "pair_ties": "tie_rate",
    "frac_reward_zero_std": "silent",
}
_OF_STAGE = {
    ("cold_start", "loss"): Words(
        "Loss", "nats per token", "How surprised the verifier is by the teachers’ words; lower is better."
    ),
    ("cold_start", "mean_token_accuracy"): Words(
        "Words foreseen", "% of tokens", "The teachers’ words that the verifier would have chosen itself.", "share"
    ),
    ("gcpo", "reward"): Words(
        "Contrastive reward",
        "% of opponents",
        "Traces of the other edit that a trace is on the right side of.",
        "share",
    ),
    ("gcpo", "pair_accuracy"): Words(
        "Agreement on training pairs",
        "% of pairs",
        "The labelled edit is scored higher; some of these labels are wrong on purpose.",
        "share",
        COIN,
    ),
    ("editor", "kl"): Words(
        "KL to the start", "nats per step", "How far the editor has moved from its base; 0: not at all."
    ),
    ("editor", "failure_rate"): Words(
        "Edits without a score", "% of edits", "No trace of the verifier could be read. Lower is better.", "share"
    ),
    ("editor", "signal_share"): Words(
        "Groups that teach", "% of groups", "Their edits do not all score the same.", "share"
    ),
    ("editor", "reward"): Words("Reward", "score, 0 to 10", "The verifier’s mean score of the sampled edits."),
    ("editor", "silent"): Words(
        "Groups without gradient", "% of groups", "All edits of a task score the same: nothing to learn.", "share"
    ),
}
PROBE = "probe_"
"""Prefix of what is measured on a fixed set beside training."""


def metric_words(stage: str, key: str) -> Words:
    """What to say of the key `key` in the metrics of a stage."""
    if (own := _known(stage, key)) is not None:
        return own
    if key.startswith(PROBE) and (inner := _known(stage, key.removeprefix(PROBE))):
        return replace(inner, title=f"{inner.title}, probe", meaning=f"{inner.meaning} On a fixed set beside training.")
    plain = key.replace("_", " ").replace("/", ", ")
    return Words(plain, plain, known=False)


def _known(stage: str, key: str) -> Words | None:
    key = key.removesuffix("_mean")
    name = _SYNONYMS.get(key, key)
    return _OF_STAGE.get((stage, name)) or _COMMON.get(name)


def metric_rank(key: str) -> int:
    """Where a curve stands among the others: what tells most comes first."""
    order = (
        *("reward", "pair", "tie_half", "oracle_success", "success", "check", "kl", "failure", "noop", "tie", "length"),
        *("loss", "accuracy", "oracle"),
    )
    return next((place for place, part in enumerate(order) if part in key), len(order))


GLOSSARY = (
    ("Edit", "A picture that an editor made from a source picture and an instruction."),
    ("Principle", "One yes/no question about an edit, of the kind follow, keep or quality."),
    ("Check", "The verifier’s answer to one principle, with the evidence that it quotes."),
    ("Trace", "All that the verifier writes about one edit: its checks and a score. Traces are sampled: they differ."),
    ("Score", "The verifier’s number for an edit, from 0 (unusable) to 10; here the mean over several traces."),
    ("Verifier", "The model that judges edits. Also called a reasoning reward model."),
    ("Oracle", "A program that knows what every picture of the built-in world shows. It measures; it is no reward."),
    ("Annotator", "Who says which of two edits is better. Here: simulated from the oracle’s truth, with noise."),
    ("Cold start", "Supervised training on good examples, so that reinforcement learning has something to improve."),
    (
        "GCPO",
        "Group Contrastive Preference Optimization: many traces of the preferred edit compete with many of the other; "
        "a trace earns more the more opponents it is on the right side of.",
    ),
    (
        "GRPO",
        "Group Relative Policy Optimization: several samples for one task; those scored above the group’s mean "
        "become likelier, those below less likely.",
    ),
    (
        "Flow model",
        "A model that paints by removing noise step by step. Here it learns to paint what was scored above its group’s "
        "mean, and not what was scored below (DiffusionNFT).",
    ),
    ("KL", "Kullback-Leibler divergence: how far a trained model has moved from the one that it started from."),
    ("95% interval", "A range made so that it holds the true value in about 95 of 100 experiments like this one."),
    ("Held-out", "Not seen in training: other scenes and wordings; under “New kinds of tasks” also other kinds."),
    ("Point", "Percentage point: from 60% to 65% is 5 points."),
)
