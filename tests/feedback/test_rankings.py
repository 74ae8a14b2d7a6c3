"""Rankings: stored once, revised without loss, refused with a reason, streamed, left out and taken in again."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from collecting import Clock, a_set, said, some_sets
from plumbline.errors import BadRecord, UserError
from plumbline.feedback import schema
from plumbline.feedback.places import Progress
from plumbline.feedback.queue import Claim, Overlap, Queue
from plumbline.feedback.store import Added, Labeler, Store, Submission, Written
from plumbline.records import Ranking


@pytest.fixture
def ann(store: Store) -> Labeler:
    return store.add_labeler("Ann")


def claim_for(store: Store, who: Labeler) -> Claim:
    claim = Queue(store).claim(who.labeler_id)
    assert claim is not None
    return claim


def rank(store: Store, who: Labeler, *ranks: int | None, **fields: object) -> Submission:
    """Claims the next set and submits the ranks for it."""
    submission = said(claim_for(store, who), who, ranks=ranks, **fields)
    store.submit(submission)
    return submission


def a_ranking(name: str = "s0", by: str = "bo", ranks: tuple[int | None, ...] = (1, 2, 3), **fields: object) -> Ranking:
    given = a_set(name)
    data = {
        "set_id": name,
        "prompt_id": given.prompt_id,
        "prompt": given.prompt,
        "completions": [answer.text for answer in given.completions],
        "ranks": ranks,
        "flags": [each is None for each in ranks],
        "labeler_id": by,
        "instruction_version": "1",
    }
    return Ranking.model_validate(data | fields)


# ---- submitting


def test_a_ranking_comes_back_as_it_was_submitted(store: Store, ann: Labeler, clock: Clock) -> None:
    store.add_sets([a_set(criterion="honest", user_id="u1")])
    claim = claim_for(store, ann)
    clock.pass_minutes(1)
    receipt = store.submit(said(claim, ann, ranks=(3, None, 1), seconds=4.5, client_time="2031-01-01T00:00:00Z"))
    assert (receipt.at, receipt.replayed, receipt.surplus) == (clock.now, False, False)
    (ranking,) = store.rankings()
    assert ranking.completions == ("answer 0 of s0", "answer 1 of s0", "answer 2 of s0")
    assert ranking.ranks == (2, None, 1)  # 3 and 1 are the second and the first
    assert ranking.flags == (False, True, False)
    assert (ranking.set_id, ranking.prompt, ranking.labeler_id) == ("s0", "prompt of s0", ann.labeler_id)
    assert ranking.model_extra == {
        "criterion": "honest",
        "at": clock.now.isoformat(),
        "seconds": 4.5,
        "shown_order": list(claim.order),
        "user_id": "u1",
    }


def test_a_submission_that_is_sent_again_is_stored_once(store: Store, ann: Labeler, clock: Clock) -> None:
    store.add_sets(some_sets(1))
    submission = said(claim_for(store, ann), ann, ranks=(1, 2, 2))
    first = store.submit(submission)
    clock.pass_minutes(5)
    again = store.submit(replace(submission, seconds=9.0, client_time="later"))
    assert again == replace(first, replayed=True)
    assert len(list(store.rankings(current=False))) == 1


def test_a_key_belongs_to_one_submission(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(1))
    submission = rank(store, ann, 1, 2, 3)
    for change in (
        {"ranks": (1, 2, 2)},
        {"texts": (Written("x"),)},
        {"ranks": (1, 2, None), "flags": (False, False, True)},
    ):
        with pytest.raises(UserError, match=f"the key '{submission.key}' is taken by another submission"):
            store.submit(replace(submission, **change))
    (ranking,) = store.rankings(current=False)
    assert ranking.ranks == (1, 2, 3)


def test_what_is_submitted_later_is_in_force_and_what_was_said_before_stays(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(1))
    submission = rank(store, ann, 1, 2, 3)
    store.submit(replace(submission, key="second", ranks=(3, 2, 1)))
    assert store.submit(submission).replayed  # the first, delayed on its way: it stays superseded
    assert [each.ranks for each in store.rankings()] == [(3, 2, 1)]
    assert [each.ranks for each in store.rankings(current=False)] == [(1, 2, 3), (3, 2, 1)]
    assert store.progress() == Progress(partly=1)


def test_two_tabs_submit_the_same_set(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(1))
    store.set_overlap(Overlap(each=2))
    one, two = claim_for(store, ann), claim_for(store, ann)
    store.submit(said(one, ann, "one", (1, 2, 3)))
    store.submit(said(two, ann, "two", (1, 1, 1)))
    assert [each.ranks for each in store.rankings()] == [(1, 1, 1)]
    assert store.progress() == Progress(partly=1)  # one person, however often they say it


def test_the_last_ten_can_be_changed_and_no_more(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(12))
    done = [rank(store, ann, 1, 2, 3) for _ in range(12)]
    for old in done[:2]:
        with pytest.raises(UserError, match=f"the set '{old.set_id}' lies too far back: the last 10 can be changed"):
            store.submit(replace(old, key=f"{old.key} again", ranks=(1, 1, 1)))
        assert store.submit(old).replayed  # it was received all the same
    for late in done[2:]:
        store.submit(replace(late, key=f"{late.key} again", ranks=(1, 1, 1)))
    assert [each.ranks for each in store.rankings()] == [(1, 2, 3)] * 2 + [(1, 1, 1)] * 10


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"flags": (True, False, False)}, "completion 1 is flagged and has rank 1: a flagged one has rank null"),
        ({"ranks": (1, None, 2)}, "completion 2 has no rank and is not flagged: rank it or flag it"),
        ({"ranks": (1, 2)}, "`ranks` has 2 entries for 3 completions"),
        ({"flags": (False,) * 4}, "`flags` has 4 entries for 3 completions"),
        ({"ranks": (0, 1, 2)}, "`ranks` holds 0: the best rank is 1"),
        ({"ranks": (1, 2, "x")}, "`ranks`, entry 3 is 'x': it must be a whole number"),
        ({"shown_order": (0, 1, 1)}, r"`shown_order` is \(0, 1, 1\): it holds each of 0 to 2 once"),
        ({"seconds": -1.0}, "`seconds` is -1.0: it is how long the ranking took"),
        ({"seconds": float("nan")}, "`seconds` is nan"),
        ({"instruction_version": 7}, "the instructions of 'helpful' have no version '7': load the set again"),
        ({"texts": (Written(" "),)}, "is no answer: it needs some text, and a place from 0 to 2"),
        ({"texts": (Written("x", 3),)}, "is no answer: it needs some text, and a place from 0 to 2"),
        ({"texts": (Written("\ud800"),)}, "an answer has half of a surrogate pair"),
        ({"key": ""}, "`key` is '': it needs 1 to 300 characters"),
        ({"key": "x" * 301}, "it needs 1 to 300 characters"),
        ({"client_time": "x" * 301}, "`client_time` is .* it needs 1 to 300 characters"),
        ({"set_id": "s9"}, "there is no set 's9': it was never added, or it was erased"),
        ({"set_id": "s1"}, "the set 's1' was never given to the labeler 'labeler-.*': ask for a set"),
        ({"labeler_id": "eve"}, "the set 's0' was never given to the labeler 'eve': ask for a set"),
        ({"again": True}, "the set 's0' was never given to the labeler"),
    ],
)
def test_what_makes_no_sense_is_refused_and_stores_nothing(
    store: Store, ann: Labeler, change: dict[str, object], sentence: str
) -> None:
    store.add_sets(some_sets(2))
    submission = said(claim_for(store, ann), ann, ranks=(1, 2, 3))
    with pytest.raises(UserError, match=sentence):
        store.submit(replace(submission, **change))  # type: ignore[arg-type]
    assert list(store.rankings(current=False)) == []
    assert not store.submit(submission).replayed


def test_an_empty_answer_can_only_be_flagged(store: Store, ann: Labeler) -> None:
    store.add_sets([a_set(completions=[{"text": "a"}, {"text": " "}])])
    claim = claim_for(store, ann)
    with pytest.raises(BadRecord, match="completion 2 is ' ': an empty one can only be flagged"):
        store.submit(said(claim, ann, ranks=(1, 2)))
    store.submit(said(claim, ann, ranks=(1, None)))


def test_long_and_strange_texts_go_through(store: Store, ann: Labeler) -> None:
    text = "\0 שלום 你好 \x10 " * 70_000
    store.add_sets([a_set(completions=[{"text": text + str(place)} for place in range(9)])])
    claim = claim_for(store, ann)
    store.save_draft("s0", ann.labeler_id, {"text": text})
    store.submit(said(claim, ann, "\0key", texts=(Written(text, 8),)))
    (ranking,) = store.rankings()
    assert ranking.completions[8] == text + "8"
    (past,) = store.history(ann.labeler_id)
    assert past.texts == (Written(text, 8),)


def test_a_ranking_under_older_instructions_counts_and_says_so(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(1))
    claim = claim_for(store, ann)
    store.revise("helpful", "New words.", by="mo")
    store.submit(said(claim, ann))
    assert [each.instruction_version for each in store.rankings()] == ["1"]


# ---- drafts, skips, history


def test_a_draft_is_kept_until_the_set_is_submitted(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(1))
    claim = claim_for(store, ann)
    assert store.draft("s0", ann.labeler_id) is None
    store.save_draft("s0", ann.labeler_id, {"ranks": [1, None], "note": "\0 你"})
    store.save_draft("s0", ann.labeler_id, {"ranks": [1, 2]})
    assert store.draft("s0", ann.labeler_id) == {"ranks": [1, 2]}
    store.skip("s0", ann.labeler_id, "too long")
    assert store.draft("s0", ann.labeler_id) == {"ranks": [1, 2]}
    store.submit(said(claim, ann))
    assert store.draft("s0", ann.labeler_id) is None


def test_a_draft_is_only_for_what_one_was_given(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(1))
    with pytest.raises(UserError, match="the set 's0' was never given to the labeler"):
        store.save_draft("s0", ann.labeler_id, {})
    claim_for(store, ann)
    with pytest.raises(BadRecord, match="the draft has half of a surrogate pair"):
        store.save_draft("s0", ann.labeler_id, {"text": "\ud800"})


def test_a_skip_has_a_reason_frees_the_place_and_can_be_undone(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(1))
    Queue(store, Overlap(each=1))
    claim = claim_for(store, ann)
    store.skip("s0", ann.labeler_id, "not my field")
    assert store.progress() == Progress(skipped=1)
    assert Queue(store).claim(ann.labeler_id) is None
    (past,) = store.history(ann.labeler_id)
    assert (past.state, past.reason, past.set.set_id) == ("skipped", "not my field", "s0")
    assert not store.submit(said(claim, ann)).surplus
    assert store.progress() == Progress(done=1)
    with pytest.raises(UserError, match="the set 's0' is ranked already: change the ranking instead of skipping it"):
        store.skip("s0", ann.labeler_id, "no")


def test_history_is_what_the_labeler_did_last(store: Store, ann: Labeler, clock: Clock) -> None:
    bo = store.add_labeler("Bo")
    store.add_sets(some_sets(5))
    rank(store, ann, 1, 2, None, texts=(Written("better", 2), Written("new")))
    rank(store, ann, 1, 1, 2)
    clock.pass_minutes(1)
    store.skip(claim_for(store, ann).set.set_id, ann.labeler_id, "odd")
    clock.pass_minutes(1)
    rank(store, ann, 2, 1, 1)
    rank(store, bo, 1, 1, 1)
    assert [past.set.set_id for past in store.history(ann.labeler_id)] == ["s3", "s2", "s1", "s0"]
    assert [store.ranked_by(who.labeler_id) for who in (ann, bo)] == [3, 1]
    assert [past.set.set_id for past in store.history(ann.labeler_id, last=2)] == ["s3", "s2"]
    first = store.history(ann.labeler_id)[-1]
    assert (first.ranks, first.flags) == ((1, 2, None), (False, False, True))
    assert first.texts == (Written("better", 2), Written("new"))
    assert first.set == store.comparison_set("s0") and first.at == clock.now - timedelta(minutes=2)
    store.submit(replace(said(claim_for(store, ann), ann, "later"), set_id="s1"))
    assert [past.set.set_id for past in store.history(ann.labeler_id, last=1)] == ["s1"]


# ---- leaving labelers out


def test_who_is_excluded_is_left_out_until_included(store: Store, ann: Labeler, clock: Clock) -> None:
    bo = store.add_labeler("Bo")
    store.add_sets(some_sets(1))
    rank(store, ann, 1, 2, 3)
    rank(store, bo, 3, 2, 1)
    store.exclude(bo.labeler_id, {"agreement": 0.2, "n": 40}, by="mo")
    assert [each.ranks for each in store.rankings()] == [(1, 2, 3)]
    assert len(list(store.rankings(include_excluded=True))) == 2
    exclusion = store.excluded()[bo.labeler_id]
    assert (exclusion.evidence, exclusion.by, exclusion.at) == ({"agreement": 0.2, "n": 40}, "mo", clock.now)
    store.include(bo.labeler_id, by="mo")
    assert store.excluded() == {} and len(list(store.rankings())) == 2
    with store.read() as connection:
        decided = connection.execute(select(schema.exclusion_event.c.excluded)).scalars().all()
    assert decided == [True, False]  # nothing is forgotten
    with pytest.raises(UserError, match="there is no labeler 'eve'"):
        store.exclude("eve", {}, by="mo")


def test_rankings_by_criterion_and_by_labeler(store: Store, ann: Labeler) -> None:
    bo = store.add_labeler("Bo")
    store.add_sets([a_set("s0", criterion="honest"), a_set("s1")])
    for who in (ann, bo):
        rank(store, who, 1, 2, 3)
        rank(store, who, 1, 2, 3)
    assert [each.set_id for each in store.rankings(criterion="honest")] == ["s0", "s0"]
    assert [each.set_id for each in store.rankings(by=bo.labeler_id)] == ["s0", "s1"]
    assert [each.labeler_id for each in store.rankings(by=bo.labeler_id, criterion="helpful")] == [bo.labeler_id]


# ---- rankings from elsewhere


def test_rankings_bring_their_sets_and_labelers(store: Store) -> None:
    given = [
        a_ranking("s0", "ann", criterion="honest", user_id="u1"),
        a_ranking("s0", "bo", (1, 1, None)),
        a_ranking("s1", "ann"),
    ]
    assert store.add_rankings(given, "old.jsonl", criterion="kind") == Added(3, 0)
    assert store.add_rankings(given, "copy of old.jsonl") == Added(0, 3)
    assert [(who.labeler_id, who.name, who.role) for who in store.labelers()] == [
        ("ann", "ann", "labeler"),
        ("bo", "bo", "labeler"),
    ]
    assert [(each.set_id, each.criterion) for each in store.sets()] == [("s0", "honest"), ("s1", "kind")]
    found = list(store.rankings())
    assert [(each.set_id, each.labeler_id, each.ranks) for each in found] == [
        ("s0", "ann", (1, 2, 3)),
        ("s0", "bo", (1, 1, None)),
        ("s1", "ann", (1, 2, 3)),
    ]
    assert found[0].model_extra is not None and found[0].model_extra["user_id"] == "u1"
    store.set_overlap(Overlap(each=2))
    assert store.progress() == Progress(done=1, partly=1) and store.rebuild() == 0


def test_what_was_submitted_here_is_known_when_it_is_read_back(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(2))
    rank(store, ann, 1, None, 2)
    exported = [Ranking.model_validate_json(each.model_dump_json()) for each in store.rankings()]
    assert store.add_rankings(exported, "export.jsonl") == Added(0, 1)
    assert len(list(store.rankings(current=False))) == 1


def test_a_labeler_who_ranked_elsewhere_does_not_get_the_set_again(store: Store) -> None:
    store.add_sets(some_sets(2))
    store.add_rankings([a_ranking("s0", "bo")], "old.jsonl")
    claim = Queue(store).claim("bo")
    assert claim is not None and claim.set.set_id == "s1"
    ann = store.add_labeler("Ann")
    assert claim_for(store, ann).set.set_id == "s0"  # it lacks fewer
    store.add_rankings([a_ranking("s0", ann.labeler_id)], "old.jsonl")  # while it is open
    assert claim_for(store, ann).set.set_id == "s1"


def test_a_later_ranking_of_the_same_labeler_is_a_revision(store: Store) -> None:
    store.add_rankings([a_ranking(ranks=(1, 2, 3)), a_ranking(ranks=(3, 2, 1))], "x")
    assert [each.ranks for each in store.rankings()] == [(3, 2, 1)]
    assert [each.ranks for each in store.rankings(current=False)] == [(1, 2, 3), (3, 2, 1)]


def test_rankings_of_other_content_are_told_and_the_good_ones_stay(store: Store) -> None:
    store.add_sets(some_sets(2))
    told: list[tuple[str, str]] = []
    given = [
        a_ranking("s0", completions=["x", "y", "z"]),
        a_ranking("s1"),
        a_ranking("s1", prompt="another", prompt_id=a_set("s1").prompt_id),
        a_ranking("s2", by="b" * 301),
    ]
    added = store.add_rankings(given, "x", on_bad=lambda bad, why: told.append((bad.set_id, why)))
    assert added == Added(1, 0) and [bad for bad, _ in told] == ["s0", "s1", "s2"]
    assert told[0][1] == "the set 's0' is there with other content: a set never changes, rename it"
    assert "`labeler_id` is" in told[2][1]
    with pytest.raises(BadRecord, match="the set 's0' is there with other content"):
        store.add_rankings(given, "x")


def test_however_many_rankings_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def many(count: int) -> Iterator[Ranking]:
        return (a_ranking(f"{count} {number // 3}", f"labeler {number % 3}") for number in range(count))

    def most(count: int) -> int:
        tracemalloc.start()
        assert store.add_rankings(many(count), "x").new == count
        assert sum(1 for _ in store.rankings()) >= count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    monkeypatch.setattr("plumbline.feedback.sets.CHUNK", 50)
    with Store.open(tmp_path) as store:
        most(60)  # what is made once
        few, more = most(100), most(400)
    assert more < 2 * few  # and not four times as much


# ---- what is derived


def test_what_is_derived_can_be_made_again(store: Store, ann: Labeler) -> None:
    store.add_sets(some_sets(3))
    for _ in range(3):
        submission = rank(store, ann, 1, 2, 3)
    store.submit(replace(submission, key="later", ranks=(3, 2, 1)))
    before = (list(store.rankings()), store.progress(), store.history(ann.labeler_id))
    with store.write() as connection:
        connection.execute(schema.assignment.update().values(event=None, state="open"))
        connection.execute(schema.comparison_set.update().values(counted=7))
    assert list(store.rankings()) == []
    assert store.rebuild() == 6
    assert (list(store.rankings()), store.progress(), store.history(ann.labeler_id)) == before
    assert store.rebuild() == 0
