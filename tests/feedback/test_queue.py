"""Claims: exactly N people for each set, nobody twice, nothing stuck, in the order of need."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from collecting import Clock, a_set, said, some_sets
from plumbline.errors import UserError
from plumbline.feedback.places import Progress
from plumbline.feedback.queue import Overlap, Queue, shown_order
from plumbline.feedback.sets import draw
from plumbline.feedback.store import Labeler, Store


def people(store: Store, count: int) -> list[Labeler]:
    return [store.add_labeler(f"labeler {number}") for number in range(count)]


def claimed(queue: Queue, who: Labeler, **how: object) -> str | None:
    claim = queue.claim(who.labeler_id, **how)
    return claim and claim.set.set_id


def rank_all(queue: Queue, who: Labeler, most: int = 1000) -> list[str]:
    """Ranks until there is nothing left for this labeler; the ids of the sets, in the order they came."""
    seen = []
    while len(seen) < most and (claim := queue.claim(who.labeler_id)):
        queue.store.submit(said(claim, who))
        seen.append(claim.set.set_id)
    return seen


# ---- how many


def test_every_set_goes_to_exactly_as_many_people_as_it_needs(store: Store) -> None:
    store.add_sets(some_sets(7))
    queue = Queue(store, Overlap(each=2))
    seen = [rank_all(queue, who, most) for who, most in zip(people(store, 5), (4, 5, 2, 9, 9), strict=True)]
    assert Counter(set_id for sets in seen for set_id in sets) == {f"s{number}": 2 for number in range(7)}
    assert all(len(sets) == len(set(sets)) for sets in seen)
    assert store.progress() == Progress(done=7)


def test_a_lease_takes_a_place_as_a_ranking_does(store: Store) -> None:
    store.add_sets(some_sets(1))
    queue = Queue(store, Overlap(each=2))
    ann, bo, cy = people(store, 3)
    assert (claimed(queue, ann), claimed(queue, bo), claimed(queue, cy)) == ("s0", "s0", None)
    assert store.progress() == Progress(open=1)


def test_a_calibration_share_goes_to_more(store: Store) -> None:
    store.add_sets(some_sets(20))
    queue = Queue(store, Overlap(each=1, calibration_share=0.25, calibration_each=3))
    counts = Counter(set_id for who in people(store, 4) for set_id in rank_all(queue, who))
    assert counts == {f"s{number}": 3 if draw(f"s{number}") < 0.25 else 1 for number in range(20)}
    assert set(counts.values()) == {1, 3}
    assert store.progress() == Progress(done=20)


def test_the_number_of_people_can_change_while_they_rank(store: Store) -> None:
    store.add_sets(some_sets(3))
    queue = Queue(store, Overlap(each=1))
    ann, bo, cy = people(store, 3)
    assert (len(rank_all(queue, ann)), len(rank_all(queue, bo))) == (3, 0)
    Queue(store, Overlap(each=2))  # by somebody else, in another process perhaps
    assert store.progress() == Progress(partly=3)
    assert (len(rank_all(queue, bo)), len(rank_all(queue, cy))) == (3, 0)
    store.set_overlap(Overlap(each=1))
    assert store.progress() == Progress(surplus=3)


@pytest.mark.parametrize(
    ("overlap", "sentence"),
    [
        ({"each": 0}, "`each` is 0: a set goes to one person at least"),
        ({"again_share": -0.1}, "`again_share` is -0.1: a share lies between 0 and 1"),
        ({"calibration_share": 1.5}, "`calibration_share` is 1.5: a share lies between 0 and 1"),
        ({"lease": timedelta(0)}, "`lease` is '0:00:00': it must last some time"),
    ],
)
def test_an_overlap_must_make_sense(overlap: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Overlap(**overlap)


# ---- which


def test_sets_that_others_began_come_first_and_those_that_lack_the_least_before_all(store: Store) -> None:
    store.add_sets(some_sets(4))
    queue = Queue(store, Overlap(each=3))
    ann, bo, cy, di = people(store, 4)
    assert rank_all(queue, ann, 3) == ["s0", "s1", "s2"]
    assert claimed(queue, bo) == "s0"
    store.skip("s0", bo.labeler_id, "too long")
    assert rank_all(queue, bo, 1) == ["s1"]
    assert rank_all(queue, cy) == ["s1", "s0", "s2", "s3"]
    assert rank_all(queue, di) == ["s0", "s2", "s3"]


def test_a_set_that_somebody_is_at_is_begun(store: Store) -> None:
    store.add_sets(some_sets(3))
    queue = Queue(store, Overlap(each=2))
    ann, bo, cy = people(store, 3)
    assert (claimed(queue, ann), claimed(queue, ann, ahead=1)) == ("s0", "s1")
    store.skip("s0", ann.labeler_id, "no")
    assert (claimed(queue, bo), claimed(queue, cy)) == ("s1", "s0")


def test_untouched_sets_come_in_the_order_they_were_added(store: Store) -> None:
    names = ["z", "a", "m", "b"]
    store.add_sets(a_set(name) for name in names)
    (ann,) = people(store, 1)
    assert rank_all(Queue(store), ann) == names


def test_what_the_labeler_holds_comes_first_and_the_one_after_it_can_be_loaded_early(store: Store) -> None:
    store.add_sets([a_set("b"), a_set("a"), a_set("c")])
    queue = Queue(store, Overlap(each=1))
    ann, bo = people(store, 2)
    assert [claimed(queue, ann, ahead=ahead) for ahead in (0, 1, 0, 1, 0)] == ["b", "a", "b", "a", "b"]
    assert claimed(queue, bo) == "c"
    claim = queue.claim(ann.labeler_id)
    assert claim is not None
    store.submit(said(claim, ann))
    assert [claimed(queue, ann, ahead=ahead) for ahead in (0, 1)] == ["a", None]


def test_a_labeler_gets_no_set_twice_unless_asked_to(store: Store) -> None:
    store.add_sets(some_sets(3))
    queue = Queue(store, Overlap(each=3))
    (ann,) = people(store, 1)
    assert rank_all(queue, ann) == ["s0", "s1", "s2"] and claimed(queue, ann) is None
    claim = queue.claim(ann.labeler_id, again=True)
    assert claim is not None and claim.again and claim.set.set_id == "s0"
    assert queue.claim(ann.labeler_id, again=True) == claim
    assert store.progress() == Progress(partly=3)  # it takes nobody's place
    assert store.submit(said(claim, ann)).surplus is False
    assert store.progress() == Progress(partly=3)  # a second ranking of one person is not one of another
    assert claimed(queue, ann, again=True) == "s1"
    assert [each.set_id for each in store.rankings(again=True)] == ["s0"]
    assert [each.set_id for each in store.rankings()] == ["s0", "s1", "s2"]


def test_a_share_of_the_claims_is_a_set_that_the_labeler_ranked_before(store: Store) -> None:
    store.add_sets(some_sets(40))
    queue = Queue(store, Overlap(each=1, again_share=0.3))
    (ann,) = people(store, 1)
    seen: list[tuple[str, bool]] = []
    while claim := queue.claim(ann.labeler_id):
        assert queue.claim(ann.labeler_id) == claim  # held, like any other
        store.submit(said(claim, ann))
        seen.append((claim.set.set_id, claim.again))
    first, second = ([name for name, again in seen if again is kind] for kind in (False, True))
    assert first == [f"s{number}" for number in range(40)]  # nobody loses a set by it
    assert second == first[: len(second)] and second  # those of the longest ago, each once
    assert all(seen.index((name, True)) > seen.index((name, False)) + 10 for name in second)
    drawn = [turn for turn in range(1, len(seen) + 1) if draw(f"again{ann.labeler_id}\n{turn}") < 0.3]
    assert [turn for turn, (_, again) in enumerate(seen, 1) if again] == [turn for turn in drawn if turn > 11][
        : len(second)
    ]
    assert store.progress() == Progress(done=40)
    assert store.overlap().again_share == 0.3


def test_the_order_of_the_answers_is_the_labelers_own_and_stays(store: Store) -> None:
    store.add_sets(some_sets(1, answers=9))
    queue = Queue(store)
    orders = []
    for who in people(store, 3):
        claim = queue.claim(who.labeler_id)
        assert claim is not None
        assert sorted(claim.order) == list(range(9))
        assert claim.order == shown_order("s0", who.labeler_id, 9) != shown_order("s0", who.labeler_id, 9, again=True)
        orders.append(claim.order)
    assert len(set(orders)) == 3


def test_a_claim_brings_the_draft_and_the_newest_instruction(store: Store) -> None:
    store.add_sets(some_sets(1), criterion="honest")
    store.revise("honest", "Check the facts.", by="mo")
    queue = Queue(store)
    (ann,) = people(store, 1)
    claim = queue.claim(ann.labeler_id)
    assert claim is not None and claim.draft is None
    assert (claim.instruction.version, claim.instruction.text) == (2, "Check the facts.")
    store.save_draft("s0", ann.labeler_id, {"ranks": [1, None, None]})
    claim = queue.claim(ann.labeler_id)
    assert claim is not None and claim.draft == {"ranks": [1, None, None]}


# ---- gold


def test_gold_goes_to_everyone_at_the_claims_that_their_id_draws(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["one", "two"])
    monkeypatch.setattr("plumbline.feedback.sign_in.token_hex", lambda _: next(names))
    gold = {f"g{number}": (1, 2, 3) for number in range(3)}
    store.add_sets([*(a_set(name) for name in gold), *some_sets(20)], gold=gold)
    queue = Queue(store, Overlap(each=2, gold_share=0.2))
    for who in people(store, 2):
        seen = rank_all(queue, who)
        drawn = [turn for turn in range(1, 24) if draw(f"{who.labeler_id}\n{turn}") < 0.2]
        assert [turn for turn, name in enumerate(seen, 1) if name.startswith("g")] == drawn[:3]
        assert len(seen) == len(set(seen)) == 20 + len(drawn[:3])
    assert store.progress() == Progress(done=20, gold=3)


def test_without_a_share_of_gold_none_is_shown(store: Store) -> None:
    store.add_sets(some_sets(2), gold={"s0": (1, 2, None)})
    assert store.gold_sets() == {"s0": (1, 2, None)}
    queue = Queue(store, Overlap(gold_share=0))
    assert rank_all(queue, *people(store, 1)) == ["s1"]


# ---- leases


def test_an_expired_lease_frees_its_place_and_its_labeler_gets_it_back_while_it_is_free(
    store: Store, clock: Clock
) -> None:
    store.add_sets(some_sets(2))
    queue = Queue(store, Overlap(each=1, lease=timedelta(minutes=10)))
    ann, bo = people(store, 2)
    assert (claimed(queue, ann), claimed(queue, bo)) == ("s0", "s1")
    clock.pass_minutes(10)
    assert store.progress() == Progress(waiting=2)
    assert claimed(queue, bo) == "s1"  # what one had is offered again before anything else
    store.skip("s1", bo.labeler_id, "no")
    assert claimed(queue, bo) == "s0"
    assert claimed(queue, ann) == "s1"


def test_a_lease_can_be_kept_and_once_expired_only_while_its_place_is_free(store: Store, clock: Clock) -> None:
    store.add_sets(some_sets(1))
    queue = Queue(store, Overlap(each=1, lease=timedelta(minutes=10)))
    ann, bo = people(store, 2)
    claimed(queue, ann)
    clock.pass_minutes(9)
    assert queue.renew("s0", ann.labeler_id) == clock.now + timedelta(minutes=10)
    clock.pass_minutes(9)
    assert claimed(queue, bo) is None
    clock.pass_minutes(9)
    assert queue.renew("s0", ann.labeler_id) is not None  # expired, and nobody else wanted it
    clock.pass_minutes(11)
    assert claimed(queue, bo) == "s0"
    assert queue.renew("s0", ann.labeler_id) is None


def test_a_set_can_be_given_back(store: Store) -> None:
    store.add_sets(some_sets(1))
    queue = Queue(store, Overlap(each=1))
    ann, bo = people(store, 2)
    claimed(queue, ann)
    queue.release("s0", bo.labeler_id)  # not theirs: nothing happens
    assert claimed(queue, bo) is None
    queue.release("s0", ann.labeler_id)
    assert store.progress() == Progress(waiting=1)
    assert claimed(queue, bo) == "s0"


def test_expiring_says_how_many(store: Store, clock: Clock) -> None:
    store.add_sets(some_sets(3))
    queue = Queue(store, Overlap(lease=timedelta(minutes=1)))
    for who in people(store, 3):
        claimed(queue, who)
    assert queue.expire() == 0
    clock.pass_minutes(1)
    assert (queue.expire(), queue.expire()) == (3, 0)


def test_a_ranking_that_comes_too_late_is_stored_and_counts_while_its_place_is_free(store: Store, clock: Clock) -> None:
    store.add_sets(some_sets(1))
    queue = Queue(store, Overlap(each=2, lease=timedelta(minutes=10)))
    ann, bo, cy, di = people(store, 4)
    claims = {who: queue.claim(who.labeler_id) for who in (ann, bo)}
    clock.pass_minutes(11)
    late = store.submit(said(claims[ann], ann))
    assert not late.surplus and store.progress() == Progress(partly=1)
    claims[cy] = queue.claim(cy.labeler_id)
    assert store.submit(said(claims[bo], bo)).surplus  # the second place is cy's now
    assert queue.claim(di.labeler_id) is None
    assert not store.submit(said(claims[cy], cy)).surplus
    assert store.progress() == Progress(surplus=1)
    assert len(list(store.rankings())) == 3


def test_a_late_surplus_fills_a_place_that_nobody_fills_after_all(store: Store, clock: Clock) -> None:
    store.add_sets(some_sets(1))
    queue = Queue(store, Overlap(each=1, lease=timedelta(minutes=10)))
    ann, bo, cy = people(store, 3)
    late = queue.claim(ann.labeler_id)
    clock.pass_minutes(11)
    claimed(queue, bo)
    assert store.submit(said(late, ann)).surplus
    clock.pass_minutes(11)
    assert claimed(queue, cy) is None and store.progress() == Progress(done=1)


# ---- who


def test_a_claim_for_nobody_and_for_sets_that_are_not_there(store: Store) -> None:
    queue = Queue(store)
    with pytest.raises(UserError, match="there is no labeler 'eve': `plumb feedback labelers` lists them"):
        queue.claim("eve")
    with pytest.raises(UserError, match="the set 's9' was never given to the labeler 'eve': ask for a set"):
        queue.renew("s9", "eve")
    assert claimed(queue, *people(store, 1)) is None


def test_calibration_sets_and_others_are_ordered_by_what_they_lack(store: Store) -> None:
    names = [f"s{number}" for number in range(12)]
    more = [name for name in names if draw(name) < 0.5]
    fewer = [name for name in names if draw(name) >= 0.5]
    assert len(more) > 1 and len(fewer) > 1
    store.add_sets(a_set(name) for name in names)
    queue = Queue(store, Overlap(each=2, calibration_share=0.5, calibration_each=4))
    ann, bo, cy, di = people(store, 4)
    assert rank_all(queue, ann) == names
    assert rank_all(queue, bo) == [*fewer, *more]  # those lack one, these three
    assert rank_all(queue, cy) == rank_all(queue, di) == more
    assert store.progress() == Progress(done=12)


# ---- somebody who is left out


def test_the_places_of_somebody_who_is_left_out_go_to_one_more_person_each(store: Store) -> None:
    store.add_sets(some_sets(4))
    queue = Queue(store, Overlap(each=2))
    ann, bo, cy, di = people(store, 4)
    assert (len(rank_all(queue, ann)), len(rank_all(queue, bo, 3)), claimed(queue, bo)) == (4, 3, "s3")
    assert store.progress() == Progress(done=3, open=1) and claimed(queue, cy) is None
    store.exclude(bo.labeler_id, {"note": "guesses"}, by="mo")
    assert store.progress() == Progress(partly=4)  # the set that bo is at has a free place too
    assert claimed(queue, bo) is None
    assert (rank_all(queue, cy), rank_all(queue, di)) == (["s0", "s1", "s2", "s3"], [])
    assert store.progress() == Progress(done=4)
    kept = Counter(ranking.set_id for ranking in store.rankings())
    assert kept == {f"s{number}": 2 for number in range(4)}
    assert store.rebuild() == 0


def test_who_is_taken_back_in_has_their_places_again_and_who_came_since_is_one_more(store: Store) -> None:
    store.add_sets(some_sets(2))
    queue = Queue(store, Overlap(each=1))
    ann, bo = people(store, 2)
    assert rank_all(queue, ann) == ["s0", "s1"]
    store.exclude(ann.labeler_id, {}, by="mo")
    assert store.progress() == Progress(waiting=2)
    assert rank_all(queue, bo, 1) == ["s0"]
    store.include(ann.labeler_id, by="mo")
    assert store.progress() == Progress(done=1, surplus=1)
    assert claimed(queue, bo) is None and store.rebuild() == 0


def test_what_somebody_left_out_still_sends_is_kept_and_fills_no_place(store: Store) -> None:
    store.add_sets(some_sets(1))
    queue = Queue(store, Overlap(each=1))
    ann, bo = people(store, 2)
    begun = queue.claim(ann.labeler_id)
    assert begun is not None
    store.exclude(ann.labeler_id, {}, by="mo")
    store.submit(said(begun, ann))
    assert [each.labeler_id for each in store.rankings(include_excluded=True)] == [ann.labeler_id]
    assert store.progress() == Progress(waiting=1) and claimed(queue, bo) == "s0"
