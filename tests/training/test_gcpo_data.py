"""What GCPO is given to learn from: enough pairs for a step, in the order of a seed, read in their turn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.training.tiny_run import tiny_verifier, tiny_world

from edit_r1.data.store import JudgedPair, KeptTrace, read_edits, read_pairs, write_pairs, write_traces
from edit_r1.errors import UserError
from edit_r1.records import Check
from edit_r1.runs.run import read_metrics
from edit_r1.stages import EDITS, TRACES, TRAIN_PAIRS, GcpoConfig
from edit_r1.training import gcpo
from edit_r1.training.gcpo import pair_rows, probe_set
from edit_r1.verifier.trace import format_trace

SMALL = GcpoConfig(steps=2, pairs_per_step=2, traces=2, micro_batch=8, max_tokens=4, probe_every=50)


def train(data: Path, tmp_path: Path, **changes: Any) -> Path:
    """One run on `data` with some settings changed."""
    out = tmp_path / "gcpo"
    config = SMALL.model_copy(update=changes)
    gcpo.run(config, data=data, model=tiny_verifier(tmp_path), out=out, seed=0, resume=False)
    return out


def test_fewer_pairs_than_a_step_takes_are_refused(tmp_path: Path) -> None:
    """Of eight pairs no step of nine can be made: nothing would be trained, and no pairs are left for refills."""
    with pytest.raises(UserError, match=r"pairs_train has 8 decided pairs, and a step takes 9 \(pairs_per_step 9"):
        train(tiny_world(tmp_path), tmp_path, pairs_per_step=9)
    assert not (tmp_path / "gcpo" / "model").exists()


def test_a_run_that_stopped_early_does_not_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends a trainer before its last step, an untrained model is no result."""
    monkeypatch.setattr(gcpo.GcpoTrainer, "train", lambda self, **_: None)
    with pytest.raises(RuntimeError, match="stopped after 0 of 2 steps"):
        train(tiny_world(tmp_path), tmp_path)
    assert not (tmp_path / "gcpo" / "model").exists()


def test_rows_are_made_in_their_turn(tmp_path: Path) -> None:
    """The rows of the decided pairs, winner then loser, the same as all at once; a pair judged "same" has none."""
    pairs = list(read_pairs(tiny_world(tmp_path) / TRAIN_PAIRS))
    same = JudgedPair(replace(pairs[0].preference, choice="same"))
    write_pairs(tmp_path / "pairs", [same, *pairs[:3], same, *pairs[3:]])
    expected = list(pair_rows(iter(pairs), 3, "compact", gold=False))
    made = gcpo.rows_in_turn(read_pairs(tmp_path / "pairs", decided=True), 3, "compact", gold=False)
    assert made.column_names == ["index"]
    assert len(made) == 2 * len(pairs) == len(expected)
    found = [*made.__getitems__([5, 5, 2, 14]), made[0]]  # pyright: ignore[reportAttributeAccessIssue]
    for row, place in zip(found, (5, 5, 2, 14, 0), strict=True):
        pictures = [[image.tobytes() for image in each["images"]] for each in (row, expected[place])]
        assert pictures[0] == pictures[1]
        assert {**row, "images": 0} == {**expected[place], "images": 0}


def test_kept_texts_that_agree_with_gold_are_a_probe(tmp_path: Path) -> None:
    """Of three texts one disagrees with gold somewhere: nobody has written down what gold said there."""
    world = tiny_world(tmp_path)
    edits = [judged.edit for judged in read_edits(world / EDITS)][:3]
    answers = [[(place + k) % 2 == 0 for k in range(len(edit.task.principles))] for place, edit in enumerate(edits)]

    def kept(place: int) -> KeptTrace:
        edit = edits[place]
        checks = [Check(p, met, "seen") for p, met in zip(edit.task.principles, answers[place], strict=True)]
        return KeptTrace(edit, format_trace(checks, 5.0), "teacher", 0.5 if place == 1 else 1.0)

    for name, places in (("texts", range(3)), ("none", [1])):
        (tmp_path / name).mkdir()
        write_traces(tmp_path / name / TRACES, map(kept, places))
    assert [gold for _, gold in probe_set(world, str(tmp_path / "texts"))] == [answers[0], answers[2]]
    assert len(probe_set(world, None)) > 2  # the world's own
    with pytest.raises(UserError, match="agrees with gold in every check"):
        probe_set(world, str(tmp_path / "none"))
    out = train(world, tmp_path, probe=str(tmp_path / "texts"), probe_every=2)
    assert [line["step"] for line in read_metrics(out) if "probe_check_accuracy" in line] == [2]


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 1}, {"attempt": 1}, {"process": 1}])
def test_refills_are_other_pairs_each_time(other: dict[str, int]) -> None:
    """Another seed, step, try or process draws other pairs, winner and loser side by side; a resumed run the same."""

    class Data:
        def __len__(self) -> int:
            return 200

        def __getitems__(self, rows: list[int]) -> list[int]:
            return rows

    def drawn(seed: int = 0, step: int = 0, attempt: int = 0, process: int = 0) -> list[Any]:
        trainer: Any = SimpleNamespace(
            args=SimpleNamespace(seed=seed),
            state=SimpleNamespace(global_step=step),
            train_dataset=Data(),
            accelerator=SimpleNamespace(process_index=process),
            num_generations=2,
        )
        return gcpo.GcpoTrainer._other_pairs(trainer, attempt, 8)

    assert drawn() == drawn() != drawn(**other)
    pairs = drawn()[::4]
    assert drawn() == [row for winner in pairs for row in (winner, winner, winner + 1, winner + 1)]
    assert len(set(pairs)) == 8
    assert all(winner % 2 == 0 for winner in pairs)


def test_the_order_of_pairs_is_the_seeds() -> None:
    """Every pair of 20 comes once an epoch; another seed brings another order."""

    def order(seed: int) -> list[int]:
        args = SimpleNamespace(generation_batch_size=16, steps_per_generation=1, seed=seed)
        trainer: Any = SimpleNamespace(train_dataset=range(40), args=args, num_generations=2, num_iterations=1)
        return list(gcpo.GcpoTrainer._get_train_sampler(trainer))[::4]

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == sorted(order(1)) == list(range(0, 40, 2))
