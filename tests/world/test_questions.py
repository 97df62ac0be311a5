"""Questions that follow from no instruction: their words say what the evidence is of."""

from __future__ import annotations

from collections import Counter

import pytest

from edit_r1.world.faults import candidate, draw_faults
from edit_r1.world.instructions import HELDOUT_CATEGORY
from edit_r1.world.oracle import Reading
from edit_r1.world.principles import CellShows, ThingKeeps
from edit_r1.world.questions import of_heldout, sample_claims, some
from edit_r1.world.scene import ATTRIBUTES, HELDOUT_PAIRING, PLACES
from edit_r1.world.tasks import generator, sample_task


def test_the_words_of_a_question_say_what_its_evidence_is_of() -> None:
    """Attributes stand in the evidence in the order of the question, values beside the wanted ones."""
    rng = generator(0, "train")
    asked: Counter[str] = Counter()
    met: Counter[bool] = Counter()
    for _ in range(300):
        task = sample_task(rng, "train")
        made = candidate(rng, task.scene, task.operation, draw_faults(rng))
        claims = sample_claims(rng, task.scene, made.scene)
        assert 3 <= len(claims) == len({claim.question for claim in claims}) <= 6
        for claim in claims:
            finding = claim.judge(task.scene, Reading(made.scene, made.defects, residual=0.0))
            words, said = claim.question.split(), finding.evidence.split()
            asked[type(claim).__name__] += 1
            if isinstance(claim, ThingKeeps) and said != ["none"]:
                assert words[2] == PLACES[claim.index]
                assert [word for word in said if word in ATTRIBUTES] == words[5:-1]
            if isinstance(claim, CellShows):
                met[finding.met] += 1
                assert said[0] == words[2]
                wanted = [said[i + 1] for i, word in enumerate(said) if word == "want"]
                assert wanted == (words[3:-2] if claim.wanted else ["none"])
    assert len(asked) == 6
    assert 0.25 < met[True] / met.total() < 0.75


def test_every_set_of_attributes_is_asked_for_and_never_the_heldout_pairing() -> None:
    """2^4 - 1 sets, of values and of what is kept; no wanted thing is the pairing that training may not show."""
    rng = generator(1, "train")
    wanted: set[frozenset[str]] = set()
    kept: set[frozenset[str]] = set()
    for _ in range(2000):
        task = sample_task(rng, "train")
        for claim in sample_claims(rng, task.scene, task.operation.apply(task.scene)):
            if isinstance(claim, ThingKeeps):
                kept.add(frozenset(claim.keys))
            if isinstance(claim, CellShows) and claim.wanted:
                named = dict(claim.wanted)
                assert (named.get("colour"), named.get("shape")) != HELDOUT_PAIRING
                wanted.add(frozenset(named))
    assert len(wanted) == len(kept) == 2 ** len(ATTRIBUTES) - 1


def test_what_is_held_out_is_left_out_on_demand() -> None:
    """The questions that a task of the held-out category alone has, by its own principles, and nothing else of them."""
    rng = generator(3, "heldout")
    own = [claim for _ in range(50) for claim in sample_task(rng, "heldout", HELDOUT_CATEGORY).claims]
    assert {type(claim) for claim in own if of_heldout(claim)} == {CellShows, ThingKeeps}
    train = generator(3, "train")
    tasks = [sample_task(train, "train") for _ in range(1000)]
    assert not any(of_heldout(claim) for task in tasks for claim in task.claims)
    for heldout in (True, False):
        claims = [claim for task in tasks for claim in sample_claims(rng, task.scene, task.scene, heldout=heldout)]
        assert any(of_heldout(claim) for claim in claims) == heldout


def test_some_is_every_number_in_order() -> None:
    """Of three values: 3 + 3 + 1 = 7 answers; a third of the draws for each number (4 sigma); at most 2: 6."""
    rng = generator(2, "train")
    drawn = Counter(some(rng, ("a", "b", "c")) for _ in range(3000))
    assert len(drawn) == 7
    assert all(list(values) == sorted(values) for values in drawn)
    for length in (1, 2, 3):
        count = sum(n for values, n in drawn.items() if len(values) == length)
        assert count == pytest.approx(1000, abs=4 * (3000 * 2 / 9) ** 0.5)
    assert len({some(rng, ("a", "b", "c"), 2) for _ in range(300)}) == 6
