"""What an editor is rewarded for: the scores of one verifier or of several, in this process or behind a server."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean
from typing import Any, get_args

import torch
from torch import Tensor

from edit_r1.errors import UserError
from edit_r1.records import Edit, Failure, PrincipleCategory, Verdict
from edit_r1.runs.progress import notice
from edit_r1.stages import EditorGrpoConfig, RewardConfig
from edit_r1.training.editor_rollout import Part
from edit_r1.training.processes import process
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
        traces: how many were asked for.
        trouble: what the engine said of a trace that it did not write; empty where it wrote all.
    """

    score: float | None
    categories: Mapping[str, float] = field(default_factory=dict[str, float])
    failures: Mapping[str, int] = field(default_factory=dict[str, int])
    trouble: str = ""
    traces: int = 1


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
        len(judgement.verdicts),
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
        traces = sum(reward.traces for reward in several)
        score = mean(scores) if readable else None
        found.append(Reward(score, categories if readable else {}, failures, trouble, traces))
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


def reward_sources(config: EditorGrpoConfig, verifier: Path | None) -> list[RewardConfig]:
    """The verifiers that reward: the given one, and those of the configuration. None is loaded.

    Raises:
        UserError: they do not fit each other, the judge or the number of processes.
    """
    sources = ([RewardConfig(folder=str(verifier))] if verifier else []) + list(config.rewards)
    if process().num_processes > 1 and any(source.device for source in (*sources, config.judge) if source):
        raise UserError("`device` names one GPU, and every process has a verifier: leave it out on several processes")
    if config.categories and not any(source.checklist for source in sources):
        raise UserError("`categories` are shares of checks, and no verifier is asked for any: set checklist = true")
    if config.judge and any(_alike(config.judge, source) for source in sources):
        raise UserError("the judge is one of the verifiers that reward: give another one, or leave judge out")
    return sources


def _alike(one: RewardConfig, other: RewardConfig) -> bool:
    """Whether two settings name one verifier."""
    if one.folder is not None and other.folder is not None:
        return Path(one.folder).resolve() == Path(other.folder).resolve()
    here, there = one.endpoint, other.endpoint
    return here is not None and there is not None and (here.base_url, here.model) == (there.base_url, there.model)


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
    verifier, traces = _verifier(source, config), source.traces or config.traces
    return lambda edits: [reward_of(found) for found in verifier.score(edits, traces, edits[0].seed)]


def _verifier(source: RewardConfig, config: EditorGrpoConfig) -> Verifier:
    settings: dict[str, Any] = {
        "template": source.template or config.template,
        "aggregate": source.aggregate or config.aggregate,
        "temperature": config.temperature,
        "max_tokens": source.max_tokens or config.max_tokens,
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
    """Ask again, with growing pauses, while a server is away; what it refuses to answer is a failure.

    Where some edits have an answer and others were not reached, those are asked about once more with one that has: if
    that one is answered again the server is there, and what still has no answer is a failure; else it has died.

    Raises:
        UserError: it has not answered for `patience` seconds.
    """

    def ask(edits: Sequence[Edit]) -> list[Reward]:
        began, pause = clock(), _FIRST_PAUSE
        found = list(reward(edits))
        while unreached := [place for place, each in enumerate(found) if _unreached(each)]:
            known = next((place for place, each in enumerate(found) if not _unreached(each)), None)
            if known is not None:
                witness, *again = reward([edits[place] for place in (known, *unreached)])
                if not _unreached(witness):
                    for place, each in zip(unreached, again, strict=True):
                        found[place] = each
                    break
            trouble = found[unreached[0]].trouble
            if (waited := clock() - began) >= patience:
                raise UserError(
                    f"the reward server has not answered for {waited:.0f} s ({trouble}); start it again and "
                    "go on with --resume (editor_grpo.patience says how long to wait)"
                )
            notice(f"the reward server does not answer ({trouble}); asking again in {pause:.0f} s")
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if known is None:
                found = list(reward(edits))
        return found

    return ask


def _unreached(reward: Reward) -> bool:
    return reward.score is None and set(reward.failures) == {"unreachable"}


def verify(parts: Iterable[Part], reward: RewardFn, *, overlap: bool) -> tuple[list[Part], list[Reward]]:
    """The parts of a rollout with their rewards, in order.

    With `overlap` a part is verified in another thread while the next one is sampled; else all are verified together
    once they are sampled. After an error nothing more is asked; Ctrl-C waits for the requests that are under way.
    """
    if not overlap:
        done = list(parts)
        return done, reward([edit for part in done for edit in part.edits])
    done, rewards, trouble = list[Part](), list[Reward](), list[BaseException]()
    sampled, stopped = SimpleQueue[Part | None](), threading.Event()

    def work() -> None:
        try:
            while (part := sampled.get()) is not None and not stopped.is_set():
                rewards.extend(reward(part.edits))
        except BaseException as error:  # noqa: BLE001 (the main thread raises it)
            trouble.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        for part in parts:
            if trouble:
                break
            done.append(part)
            sampled.put(part)
        sampled.put(None)
        worker.join()
    finally:
        stopped.set()
        sampled.put(None)
    if trouble:
        raise trouble[0]
    return done, rewards
