"""Every fault makes the image that its name says, and an edit succeeds if and only if it has none."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edit_r1.world.defects import DEFECTS
from edit_r1.world.faults import (
    FAULTS,
    HELDOUT_FAULT,
    SCENE_FAULTS,
    Candidate,
    _collateral,
    candidate,
    draw_faults,
    faulty_scene,
)
from edit_r1.world.instructions import SIMPLE
from edit_r1.world.oracle import Reading
from edit_r1.world.render import render
from edit_r1.world.scene import ATTRIBUTES, FRAME, Scene
from edit_r1.world.tasks import WorldTask, generator, judge_edits, sample_task


def tasks(category: str | None, count: int = 60, seed: int = 0) -> list[WorldTask]:
    rng = generator(seed, "train")
    return [sample_task(rng, "train", category) for _ in range(count)]


def places(task: WorldTask) -> set[int | str]:
    return {change.place for change in task.operation.changes}


def differing(a: Scene, b: Scene) -> set[int | str]:
    """Cells and frame keys in which two scenes differ."""
    cells: set[int | str] = {i for i in range(4) if a.cells[i] != b.cells[i]}
    return cells | {key for key in FRAME if a.frame(key) != b.frame(key)}


def attributes(a: Scene, b: Scene, index: int | str) -> set[str]:
    """Attributes in which the things of one cell differ."""
    assert isinstance(index, int)
    before, after = a.cells[index], b.cells[index]
    assert before is not None
    assert after is not None
    return {key for key in ATTRIBUTES if getattr(before, key) != getattr(after, key)}


def shown(task: WorldTask, fault: str, seed: int = 0) -> Scene:
    return faulty_scene(np.random.default_rng(seed), task.scene, task.operation, fault)


def test_there_are_eleven_faults() -> None:
    assert len(FAULTS) == len(set(FAULTS)) == 11
    assert HELDOUT_FAULT in SCENE_FAULTS


def test_no_fault_shows_the_goal() -> None:
    for task in tasks(None):
        made = candidate(np.random.default_rng(0), task.scene, task.operation)
        np.testing.assert_array_equal(made.image, render(task.operation.apply(task.scene)))


def test_no_op_shows_the_source() -> None:
    for task in tasks(None):
        made = candidate(np.random.default_rng(0), task.scene, task.operation, ("no_op",))
        np.testing.assert_array_equal(made.image, render(task.scene))
        assert task.judge(Reading(made.scene, frozenset(), 0.0)).noop


@pytest.mark.parametrize("category", ["colour", "resize", "replace", "remove"])
def test_wrong_target_does_to_another_thing_what_was_asked(category: str) -> None:
    """The thing that was meant stays; one other thing changes in what the category is about."""
    changing = {"colour": {"colour"}, "resize": {"size"}, "replace": {"colour", "shape"}}
    for task in tasks(category):
        if len(task.scene.things) < 2:
            continue
        scene = shown(task, "wrong_target")
        (place,) = differing(task.scene, scene)
        assert place not in places(task)
        if category == "remove":
            assert isinstance(place, int)
            assert scene.cells[place] is None
        else:
            assert attributes(task.scene, scene, place) <= changing[category]


def test_wrong_target_puts_things_elsewhere() -> None:
    for task in tasks("add"):
        if len(task.scene.empty) > 1:
            (place,) = differing(task.scene, shown(task, "wrong_target"))
            assert place in set(task.scene.empty) - places(task)
    for task in tasks("move"):
        assert differing(task.operation.apply(task.scene), shown(task, "wrong_target"))


@pytest.mark.parametrize("category", ["background", "tone", "colour", "replace", "add"])
def test_wrong_value_puts_another_value_in_the_right_place(category: str) -> None:
    for task in tasks(category):
        scene = shown(task, "wrong_value")
        assert differing(task.scene, scene) == places(task)
        assert differing(task.operation.apply(task.scene), scene) == places(task)


def test_incomplete_compound_does_one_part() -> None:
    seen: Counter[int] = Counter()
    for seed, task in enumerate(tasks("compound")):
        goals = [part.apply(task.scene) for part in task.operation.parts]
        seen[goals.index(shown(task, "incomplete", seed))] += 1
    assert set(seen) == {0, 1}


def test_incomplete_move_leaves_the_thing_behind() -> None:
    for task in tasks("move"):
        old, new = (change.place for change in task.operation.changes)
        assert isinstance(old, int)
        assert isinstance(new, int)
        assert shown(task, "incomplete") == task.scene.with_cell(new, task.scene.cells[old])


@pytest.mark.parametrize("category", ["remove", "add"])
def test_incomplete_removal_and_addition_leave_a_thing_not_quite_as_told(category: str) -> None:
    """Compared with the source (a remnant of what should go) or the goal (of what should come): size or material."""
    for task in tasks(category):
        full = task.scene if category == "remove" else task.operation.apply(task.scene)
        scene = shown(task, "incomplete")
        (place,) = differing(full, scene)
        assert {place} == places(task)
        (key,) = attributes(full, scene, place)
        assert key in ("size", "material")


@pytest.mark.parametrize("category", [c for c in (*SIMPLE, "compound") if c != "material"])
def test_collateral_changes_one_thing_more(category: str) -> None:
    for seed, task in enumerate(tasks(category)):
        (place,) = differing(task.operation.apply(task.scene), shown(task, "collateral", seed))
        assert place not in places(task)


def test_hallucinated_adds_a_thing_of_a_new_name() -> None:
    for seed, task in enumerate(tasks(None)):
        goal, scene = task.operation.apply(task.scene), shown(task, "hallucinated", seed)
        (place,) = differing(goal, scene)
        if set(goal.empty) - places(task):
            assert isinstance(place, int)
            thing = scene.cells[place]
            assert goal.cells[place] is None
            assert thing is not None
            assert thing.name not in [t.name for _, t in goal.things]
        assert place not in places(task)


@pytest.mark.parametrize("category", ["colour", "material", "move", "resize", "add", "replace", "text"])
def test_overshoot_changes_the_edited_thing_further(category: str) -> None:
    """One attribute of the thing that was edited differs from the goal; it is none of those that were asked for."""
    asked = {
        "colour": {"colour"},
        "material": {"material"},
        "resize": {"size"},
        "text": {"shape"},
        "replace": {"shape"},
    }
    for seed, task in enumerate(tasks(category)):
        goal, scene = task.operation.apply(task.scene), shown(task, HELDOUT_FAULT, seed)
        (place,) = differing(goal, scene)
        assert place == task.operation.changes[-1].place
        (key,) = attributes(goal, scene, place)
        assert key not in asked.get(category, set())


def spoilt(defect: str) -> list[tuple[np.ndarray, Candidate]]:
    """Pairs of the right picture and the same with a defect."""
    rng = np.random.default_rng(0)
    return [
        (render(task.operation.apply(task.scene)), candidate(rng, task.scene, task.operation, (defect,)))
        for task in tasks(None, 20)
    ]


def test_noise_is_white_and_strong() -> None:
    for clean, made in spoilt("noise"):
        change = (made.image - clean)[(clean > 0.4) & (clean < 0.6)]  # where hardly anything is clipped
        if change.size > 1000:
            assert 0.09 < change.std() < 0.19
            assert abs(change.mean()) < 0.02
        assert made.defects == {"noise"}


def test_blur_softens_edges_and_keeps_brightness() -> None:
    for clean, made in spoilt("blur"):
        assert np.abs(np.diff(made.image, axis=0)).max() < 0.75 * np.abs(np.diff(clean, axis=0)).max()
        assert made.image.mean() == pytest.approx(clean.mean(), abs=0.01)
        assert made.defects == {"blur"}


def test_grid_draws_lines_every_eight_pixels() -> None:
    lines = (np.arange(64) % 8 == 0)[:, None] | (np.arange(64) % 8 == 0)[None, :]
    for clean, made in spoilt("grid"):
        np.testing.assert_array_equal(made.image[~lines], clean[~lines])
        np.testing.assert_allclose(np.abs(made.image - clean)[lines], 0.3, atol=1e-6)
        assert made.defects == {"grid"}


def test_border_frames_the_picture_in_white() -> None:
    widths: set[int] = set()
    for clean, made in spoilt("border"):
        width = int(np.argmax((made.image[32] < 1).any(-1)))
        np.testing.assert_array_equal(made.image[width:-width, width:-width], clean[width:-width, width:-width])
        framed = np.ones((64, 64), bool)
        framed[width:-width, width:-width] = False
        assert (made.image[framed] == 1).all()
        widths.add(width)
    assert widths == {3, 4, 5}


@pytest.mark.parametrize("seed", range(4))
def test_an_edit_succeeds_if_and_only_if_it_has_no_fault(seed: int) -> None:
    """1000 candidates in four parts: right ones, all eleven faults, and all pairs of a scene fault and a defect."""
    rng = np.random.default_rng(seed)
    pairs = [(scene, defect) for scene in SCENE_FAULTS for defect in DEFECTS]
    kinds: list[tuple[str, ...]] = [*[()] * 11, *((fault,) for fault in FAULTS), *pairs]
    chosen = [kinds[i % len(kinds)] for i in range(250)]
    drawn = tasks(None, len(chosen), seed=seed)
    made = [candidate(rng, task.scene, task.operation, fault) for task, fault in zip(drawn, chosen, strict=True)]
    truths = judge_edits(drawn, np.stack([one.image for one in made]))
    wrong = [f for f, truth in zip(chosen, truths, strict=True) if truth.success != (not f)]
    assert not wrong
    # What was drawn is what the oracle reads: data made from drawn scenes and from read ones are of one kind.
    same = [t.reading.scene == m.scene and t.reading.defects == m.defects for t, m in zip(truths, made, strict=True)]
    assert np.mean(same) >= 0.98


def test_drawn_faults() -> None:
    """30% right; of the others 55% a wrong scene, 25% a defect, 20% both. Four standard errors of 20,000 draws."""
    rng = np.random.default_rng(0)
    draws = [draw_faults(rng) for _ in range(20_000)]
    kinds = Counter((len(set(f) & set(SCENE_FAULTS)), len(set(f) & set(DEFECTS))) for f in draws)
    expected = {(0, 0): 0.3, (1, 0): 0.7 * 0.55, (0, 1): 0.7 * 0.25, (1, 1): 0.7 * 0.2}
    for kind, share in expected.items():
        assert kinds[kind] / len(draws) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / len(draws)))
    assert sum(kinds.values()) == sum(kinds[kind] for kind in expected)
    assert HELDOUT_FAULT not in {fault for faults in draws for fault in faults}
    assert HELDOUT_FAULT in {fault for _ in range(200) for fault in draw_faults(rng, heldout=True)}


def test_where_a_fault_has_no_room_a_collateral_change_stands_in() -> None:
    for seed, task in enumerate(tasks("style", 20)):
        goal = task.operation.apply(task.scene)
        expected = _collateral(np.random.default_rng(seed), goal, places(task))
        assert shown(task, "overshoot", seed) == expected
