"""What an editor is rewarded for: the scores of one verifier or of several, in this process or behind a server."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch
from torch import Tensor

from edit_r1.errors import UserError
from edit_r1.records import Edit, Failure, PrincipleCategory, Verdict
from edit_r1.runs.progress import notice
from edit_r1.stages import EditorGrpoConfig, RewardConfig
from edit_r1.training.editor_rollout import Part
from edit_r1.verifier.decomposers import GrammarDecomposer
from edit_r1.verifier.local import load_verifier
from edit_r1.verifier.served import served_verifier
from edit_r1.verifier.verifier import Judgement, Verifier

CATEGORIES: tuple[PrincipleCategory, ...] = get_args(PrincipleCategory)
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0


@dataclass(frozen=True)
class Reward:
    """What an edit earns.

    Attributes:
        score: in [0, 10]; None where the verifier cannot be read.
        categories: share of the checks met, in [0, 1], for each category that was asked about.
        failures: why traces could not be read, by kind.
        trouble: what the engine said of a trace that it did not write; empty where it wrote all.
    """

    score: float | None
    categories: Mapping[str, float] = field(default_factory=dict[str, float])
    failures: Mapping[str, int] = field(default_factory=dict[str, int])
    trouble: str = ""


RewardFn = Callable[[Sequence[Edit]], list[Reward]]
"""A function of the edits (their seeds included) alone; one reward for each."""


def reward_of(judgement: Judgement) -> Reward:
    """The score of a judgement and the means of its readable traces' checks."""
    verdicts = [verdict for verdict in judgement.verdicts if isinstance(verdict, Verdict)]
    met = {
        category: [float(c.met) for v in verdicts for c in v.checks if c.principle.category == category]
        for category in CATEGORIES
    }
    unread = [verdict for verdict in judgement.verdicts if isinstance(verdict, Failure)]
    return Reward(
        judgement.score,
        {category: fmean(checks) for category, checks in met.items() if checks},
        Counter(failure.kind for failure in unread),
        next((failure.text for failure in unread if failure.kind in ("engine", "unreachable")), ""),
    )


def weighted(rewards: Sequence[Sequence[Reward]], weights: Sequence[float]) -> list[Reward]:
    """The weighted mean of several verifiers' rewards of the same edits.

    An edit that one of them could not read has no reward: means of different verifiers cannot be compared. A category
    counts where one of them has it, with the weights of those.
    """

    def mean(values: Iterable[tuple[float, float]]) -> float:
        pairs = list(values)
        return sum(weight * value for weight, value in pairs) / sum(weight for weight, _ in pairs)

    found: list[Reward] = []
    for several in zip(*rewards, strict=True):
        scores = [(w, reward.score) for w, reward in zip(weights, several, strict=True) if reward.score is not None]
        categories = {
            category: mean(
                (w, r.categories[category]) for w, r in zip(weights, several, strict=True) if category in r.categories
            )
            for category in dict.fromkeys(category for reward in several for category in reward.categories)
        }
        failures = sum((Counter(reward.failures) for reward in several), Counter[str]())
        readable = len(scores) == len(several)
        trouble = next((reward.trouble for reward in several if reward.trouble), "")
        found.append(Reward(mean(scores) if readable else None, categories if readable else {}, failures, trouble))
    return found


def reward_tensor(rewards: Sequence[Reward], group_size: int, config: EditorGrpoConfig) -> Tensor:
    """Rewards [C, P, G] in points of 10, NaN where there is none: the score, or the categories one by one."""
    nan = float("nan")
    if config.categories is None:
        rows = [[nan if reward.score is None else reward.score for reward in rewards]]
    else:
        rows = [[10 * reward.categories.get(category, nan) for reward in rewards] for category in CATEGORIES]
    return torch.tensor(rows, dtype=torch.float32).view(len(rows), -1, group_size)


def component_weights(config: EditorGrpoConfig) -> tuple[float, ...]:
    """The weight of every component of `reward_tensor`."""
    if config.categories is None:
        return (1.0,)
    return tuple(getattr(config.categories, category) for category in CATEGORIES)


def reward_function(sources: Sequence[RewardConfig], config: EditorGrpoConfig) -> RewardFn:
    """The reward that these verifiers give together; a server that is down is waited for.

    Raises:
        UserError: a folder holds no verifier, or an address is none.
    """
    parts = [patient(one_reward(source, config), config.patience) for source in sources]
    if len(parts) == 1:
        return parts[0]
    return lambda edits: weighted([part(edits) for part in parts], [source.weight for source in sources])


def one_reward(source: RewardConfig, config: EditorGrpoConfig) -> RewardFn:
    """The reward of one verifier. The first edit's seed is the seed of its sampling."""
    verifier = _verifier(source, config)
    return lambda edits: [reward_of(found) for found in verifier.score(edits, config.traces, edits[0].seed)]


def _verifier(source: RewardConfig, config: EditorGrpoConfig) -> Verifier:
    settings: dict[str, Any] = {
        "template": config.template,
        "aggregate": config.aggregate,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
    }
    if source.endpoint is None:
        return load_verifier(
            Path(source.folder or ""),
            **settings,
            batch_size=config.verify_batch,
            decomposer=GrammarDecomposer(),
            checklist=source.checklist,
            device=source.device,
        )
    return served_verifier(source.endpoint, **settings, decomposer=GrammarDecomposer(), checklist=source.checklist)


def patient(
    reward: RewardFn,
    patience: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RewardFn:
    """Ask again, with growing pauses, while a server answers nothing at all; what it refuses to answer is a failure.

    Raises:
        UserError: it has not answered for `patience` seconds.
    """

    def ask(edits: Sequence[Edit]) -> list[Reward]:
        began, pause = clock(), _FIRST_PAUSE
        while _silent(found := reward(edits)):
            if (waited := clock() - began) >= patience:
                raise UserError(
                    f"the reward server has not answered for {waited:.0f} s ({found[0].trouble}); start it again and "
                    "go on with --resume (editor_grpo.patience says how long to wait)"
                )
            notice(f"the reward server does not answer ({found[0].trouble}); asking again in {pause:.0f} s")
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return found

    return ask


def _silent(rewards: Sequence[Reward]) -> bool:
    return all(reward.score is None and set(reward.failures) == {"unreachable"} for reward in rewards)


def verify(parts: Iterable[Part], reward: RewardFn, *, overlap: bool) -> tuple[list[Part], list[Reward]]:
    """The parts of a rollout with their rewards, in order.

    With `overlap` a part is verified in another thread while the next one is sampled; else all are verified together
    once they are sampled. After an error, or Ctrl-C, nothing more is asked.
    """
    if not overlap:
        done = list(parts)
        return done, reward([edit for part in done for edit in part.edits])
    done, asked = [], list[Future[list[Reward]]]()
    with ThreadPoolExecutor(1) as pool:
        try:
            for part in parts:
                done.append(part)
                asked.append(pool.submit(reward, part.edits))
            return done, [found for future in asked for found in future.result()]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # else every part would wait for a dead server in its turn
            raise
