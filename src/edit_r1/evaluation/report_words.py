"""What the report says about names: stages, curves, failures, principles, and the glossary."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edit_r1.evaluation.plots import Reference, Unit


@dataclass(frozen=True)
class Words:
    """Title of a curve, what it means in a sentence, and how its values are shown. `known` is False for other keys."""

    title: str
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
    "engine": "the model did not answer",
}

STAGE_TITLES = {
    "cold_start": ("Cold start", "The verifier imitates selected verdicts of teachers (supervised fine-tuning)."),
    "gcpo": ("GCPO", "The verifier learns from pairs to score the preferred edit above the other one."),
    "editor": ("Editor RL (Flow-GRPO)", "The editor learns from the verifier's scores, and from nothing else."),
}

_COMMON = {
    "loss": Words("Loss", "What the optimiser lowers; in reinforcement learning it says little by itself."),
    "learning_rate": Words("Learning rate", "How large the steps of the optimiser are."),
    "grad_norm": Words("Gradient norm", "Length of the gradient before clipping; spikes are a sign of trouble."),
    "entropy": Words("Entropy (nats per token)", "How undecided the model is between next words; 0 is fully certain."),
    "num_tokens": Words("Tokens seen", "Tokens that training has read so far."),
    "seconds": Words("Seconds per step", "Wall-clock time."),
    "reward_std": Words("Spread of the reward", "Standard deviation within a group; without any there is nothing to learn."),
    "kl": Words("KL to the start", "How far the model has moved from the one it started from; 0 is not at all."),
    "clip_fraction": Words("Clipped updates", "Share of terms that the clip of the objective cut off.", "share"),
    "ratio": Words("Likelihood ratio", "New over old likelihood of what was sampled; 1 means unchanged."),
    "failure_rate": Words("Unreadable traces", "Share of traces that the parser refuses. Lower is better.", "share"),
    "tie_rate": Words("Undecided pairs", "Share of pairs whose scores tie or are missing. Lower is better.", "share"),
    "length": Words("Length of traces (tokens)", "How long the verifier's texts are; a collapse would show here."),
    "pair_accuracy": Words(
        "Agreement on pairs", "Share of pairs scored in the preferred order; undecided is wrong.", "share", COIN
    ),
    "tie_half": Words(
        "Agreement, ties half", "Share of pairs scored in the preferred order; undecided is half right.", "share", COIN
    ),
    "check_accuracy": Words("True checks", "Share of checks that agree with the oracle: the reasoning itself.", "share"),
    "oracle_success": Words("Oracle success", "Share of edits that are right in every point. Never a reward.", "share"),
    "oracle_follow": Words("Instruction followed", "Share of edits that do all that was asked, by the oracle.", "share"),
    "oracle_keep": Words("Rest kept", "Share of edits that leave all the rest alone, by the oracle.", "share"),
    "oracle_quality": Words("Free of defects", "Share of edits without a defect of quality, by the oracle.", "share"),
    "noop_rate": Words("Untouched copies", "Share of edits that show the same scene as the source.", "share"),
    "score": Words("Verifier's score (0 to 10)", "Mean score of the traces."),
    "silent": Words("Pairs without gradient", "Share of pairs whose advantages are all zero: nothing to learn.", "share"),
}
_SYNONYMS = {
    "lr": "learning_rate",
    "gradient_norm": "grad_norm",
    "pairwise_accuracy": "pair_accuracy",
    "step_time": "seconds",
    "clip_ratio": "clip_fraction",
    "clipped": "clip_fraction",
    "completion_length": "length",
    "completions/mean_length": "length",
    "mean_length": "length",
    "trace_length": "length",
    "tokens": "length",
    "success": "oracle_success",
    "noop": "noop_rate",
    "failures": "failure_rate",
    "ties": "tie_rate",
    "silent_pairs": "silent",
    "silent_groups": "silent",
    "zero_advantage": "silent",
    "frac_reward_zero_std": "silent",
}
_OF_STAGE = {
    ("cold_start", "loss"): Words(
        "Loss (nats per token)", "How surprised the verifier is by the teachers' words; lower is better."
    ),
    ("cold_start", "mean_token_accuracy"): Words(
        "Words foreseen", "Share of the teachers' words that the verifier would have chosen itself.", "share"
    ),
    ("gcpo", "reward"): Words(
        "Contrastive reward", "Mean share of the other edit's traces that a trace is on the right side of.", "share"
    ),
    ("editor", "reward"): Words("Reward (score, 0 to 10)", "The verifier's mean score of the sampled edits."),
    ("editor", "silent"): Words(
        "Groups without gradient", "Share of groups whose rewards are all equal: nothing to learn.", "share"
    ),
}
_PLACES = {
    "probe": ("probe set", "Measured on a fixed set beside training."),
    "eval": ("held-out", "Measured on data that training does not see."),
    "val": ("held-out", "Measured on data that training does not see."),
    "ema": ("averaged weights", "Measured with the running average of the weights."),
    "train": ("", ""),
}


def metric_words(stage: str, key: str) -> Words:
    """What to say of the key `key` in the metrics of a stage; prefixes such as `probe_` or `eval/` are understood."""
    if (own := _known(stage, key)) is not None:
        return own
    for prefix, (where, meaning) in _PLACES.items():
        if key.startswith((f"{prefix}_", f"{prefix}/")) and (inner := _known(stage, key[len(prefix) + 1 :])):
            title = f"{inner.title}, {where}" if where else inner.title
            return replace(inner, title=title, meaning=f"{inner.meaning} {meaning}".strip())
    return Words(key.replace("_", " ").replace("/", ", "), known=False)


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
    ("Check", "The verifier's answer to one principle, with the evidence that it quotes."),
    ("Trace", "All that the verifier writes about one edit: its checks and a score. Traces are sampled: they differ."),
    ("Score", "The verifier's number for an edit, from 0 (unusable) to 10; here the mean over several traces."),
    ("Verifier", "The model that judges edits. Also called a reasoning reward model."),
    ("Oracle", "A program that knows what every picture of the built-in world shows. It measures; it is no reward."),
    ("Annotator", "Who says which of two edits is better. Here: simulated from the oracle's truth, with noise."),
    ("Cold start", "Supervised training on good examples, so that reinforcement learning has something to improve."),
    (
        "GCPO",
        "Group Contrastive Preference Optimization: many traces of the preferred edit compete with many of the other; "
        "a trace earns more the more opponents it is on the right side of.",
    ),
    (
        "GRPO",
        "Group Relative Policy Optimization: several samples for one task; those scored above the group's mean "
        "become likelier, those below less likely.",
    ),
    ("Flow-GRPO", "GRPO for an editor that paints by removing noise step by step (a flow model)."),
    ("KL", "Kullback-Leibler divergence: how far a trained model has moved from the one that it started from."),
    ("95% interval", "A range made so that it holds the true value in about 95 of 100 experiments like this one."),
    ("Held-out", "Not seen in training: other scenes and other wordings; in the last table also other kinds of tasks."),
    ("Point", "Percentage point: from 60% to 65% is 5 points."),
)
