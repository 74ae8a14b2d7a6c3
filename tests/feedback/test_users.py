"""Ratings and edits, and an erasure that leaves nothing of a user and names what had seen it."""

from __future__ import annotations

from pathlib import Path

import pytest

from collecting import a_set, an_exchange, said
from plumbline.errors import BadRecord
from plumbline.feedback import schema
from plumbline.feedback.queue import Overlap, Queue
from plumbline.feedback.store import Labeler, Store, Written
from plumbline.project import Project
from plumbline.records import Rating, prompt_id


def a_rating(prompt: str = "p", completion: str = "a", label: bool = True, **fields: object) -> Rating:
    return Rating.model_validate({"prompt": prompt, "completion": completion, "label": label, **fields})


def rank(store: Store, who: Labeler, *texts: Written, key: str = "") -> None:
    claim = Queue(store).claim(who.labeler_id)
    assert claim is not None
    store.submit(said(claim, who, key, texts=texts))


# ---- ratings


def test_the_latest_thumb_of_a_user_under_an_answer_counts(store: Store) -> None:
    store.add_rating(a_rating(label=True), "u1")
    store.add_rating(a_rating(label=False, reason="wrong\0"), "u1")
    store.add_rating(a_rating(label=True), "u2")
    store.add_rating(a_rating(completion="b"), "u1")
    found = [(each.completion, each.label, each.model_extra) for each in store.ratings()]
    assert [(text, label, extra and extra["user_id"]) for text, label, extra in found] == [
        ("a", False, "u1"),
        ("a", True, "u2"),
        ("b", True, "u1"),
    ]
    assert found[0][2] is not None and found[0][2]["reason"] == "wrong\0"
    with store.read() as connection:
        assert len(connection.execute(schema.rating_event.select()).all()) == 4  # nothing is forgotten


def test_a_rating_of_messages_comes_back(store: Store) -> None:
    messages = [{"role": "user", "content": "hi"}]
    store.add_rating(Rating.model_validate({"prompt": messages, "completion": "hello", "label": True}), "u")
    (rating,) = store.ratings()
    assert (rating.prompt, rating.completion) == (messages, "hello")


def test_a_rating_must_make_sense(store: Store) -> None:
    with pytest.raises(BadRecord, match="`user_id` is '': it needs 1 to 300 characters"):
        store.add_rating(a_rating(), "")
    store.add_rating(a_rating(prompt_id="1"), "u")
    with pytest.raises(BadRecord, match="the prompt '1' is there with another text"):
        store.add_rating(a_rating(prompt="another", prompt_id="1"), "u")


# ---- edits


def test_edits_of_users_become_demonstrations(store: Store) -> None:
    store.add_edit("How hot?", "very", "21 degrees", "u1")
    store.add_edit([{"role": "user", "content": "hi"}], None, "hello", "u2")
    first, second = store.edits()
    assert (first.prompt, first.original, first.edited, first.user_id) == ("How hot?", "very", "21 degrees", "u1")
    assert (second.original, second.labeler_id) == (None, None)
    one, two = store.demonstrations()
    assert one.messages == [
        {"role": "user", "content": "How hot?"},
        {"role": "assistant", "content": "21 degrees"},
    ]
    assert one.prompt_id == prompt_id("How hot?") and one.model_extra == {"user_id": "u1"}
    assert two.messages[-1]["content"] == "hello"
    with pytest.raises(BadRecord, match="`completion` is ' ': an answer needs some text"):
        store.add_edit("p", "a", " ", "u1")


def test_what_labelers_write_is_an_edit_while_their_ranking_is_in_force(store: Store) -> None:
    ann = store.add_labeler("Ann")
    store.add_sets([a_set(user_id="u1")])
    rank(store, ann, Written("better", 2), Written("my own"))
    edits = list(store.edits())
    assert [(edit.original, edit.edited) for edit in edits] == [("answer 2 of s0", "better"), (None, "my own")]
    assert {(edit.labeler_id, edit.set_id, edit.user_id) for edit in edits} == {(ann.labeler_id, "s0", "u1")}
    store.exclude(ann.labeler_id, {}, by="mo")
    assert list(store.edits()) == [] and len(list(store.demonstrations(include_excluded=True))) == 2
    store.include(ann.labeler_id, by="mo")
    past = store.history(ann.labeler_id)[0]
    claim = Queue(store).claim(ann.labeler_id, again=True)
    assert claim is not None
    revised = said(claim, ann, "revised", texts=(Written("best", 2),))
    store.submit(type(revised)(**{**vars(revised), "again": False}))
    assert past.texts != store.history(ann.labeler_id)[0].texts
    assert [edit.edited for edit in store.edits()] == ["best"]


# ---- erasing


def test_an_erasure_leaves_nothing_of_the_user_and_all_of_the_others(store: Store) -> None:
    mine, theirs = a_set("mine", prompt="SECRET", user_id="u1"), a_set("theirs", prompt="OPEN", user_id="u2")
    store.add_sets([mine, theirs], gold={"mine": (1, 2, 3)})
    Queue(store, Overlap(each=2, gold_share=1.0))
    ann, bo = store.add_labeler("Ann"), store.add_labeler("Bo")
    for who in (ann, bo):
        rank(store, who, Written("SECRET better", 0))
        rank(store, who)
    store.save_draft("mine", ann.labeler_id, {"text": "SECRET"})
    store.add_rating(a_rating("SECRET", "SECRET"), "u1")
    store.add_rating(a_rating("OPEN", "open"), "u1")
    store.add_rating(a_rating("OPEN", "open"), "u2")
    store.add_edit("SECRET too", "a", "b", "u1")
    store.add_exchanges([an_exchange("1", "u1", prompt="SECRET", answers=[{"text": "a"}]), an_exchange("2", "u2")])
    store.mark_seen("hash 1", ["mine", "theirs"], "reward@1")
    store.mark_seen("hash 2", ["theirs"], "reward@2")
    store.mark_seen("hash 3", [prompt_id("SECRET too")])
    erased = store.erase("u1")
    assert dict(erased.rows) == {
        "draft": 1,
        "gold": 1,
        "seen_by_version": 1,
        "assignment": 2,
        "ranking_event": 2,
        "rating_event": 2,
        "edit_event": 1,
        "exchange": 1,
        "comparison_set": 1,
        "prompt": 2,
    }
    assert (erased.data_hashes, erased.versions) == (("hash 1", "hash 3"), ("reward@1",))
    with store.read() as connection:
        everything = [
            str(row) for table in schema.metadata.tables.values() for row in connection.execute(table.select())
        ]
    assert not [row for row in everything if "SECRET" in row or "u1" in row]
    assert [each.set_id for each in store.sets()] == ["theirs"]
    assert len(list(store.rankings())) == 2 and len(list(store.ratings())) == 1
    assert set(store.erase("u1").rows.values()) == {0}
    assert store.add_sets([mine]).new == 1  # nothing of it is in the way


def test_an_erasure_leaves_no_bytes_in_the_files(tmp_path: Path) -> None:
    words = b"the words of somebody who wants them gone"
    with Store.open(tmp_path) as store:
        store.add_sets([a_set("mine", prompt=words.decode(), user_id="u1"), a_set("theirs")])
        store.add_rating(a_rating(words.decode() * 1000), "u1")
        assert any(words in path.read_bytes() for path in tmp_path.iterdir())
        store.erase("u1")
        assert not any(words in path.read_bytes() for path in tmp_path.iterdir())
    assert not any(words in path.read_bytes() for path in tmp_path.iterdir())


def test_an_erasure_names_the_projects_versions_that_were_trained_on_the_data(tmp_path: Path) -> None:
    project = Project.create(tmp_path)
    for number in range(2):
        (tmp_path / f"pairs{number}.jsonl").write_text(f"{number}\n")
        project.record_version(
            "reward", lambda folder: (folder / "w").write_text("w"), data=[tmp_path / f"pairs{number}.jsonl"]
        )
    (digest,) = project.version("reward@2").data.values()
    with Store.open(project) as store:
        store.add_sets([a_set(user_id="u1")])
        store.mark_seen(digest, ["s0"])
        store.mark_seen(digest, ["s0", "s0"])  # the same export once more
        assert store.erase("u1").versions == ("reward@2",)


def test_the_number_of_an_erased_ranking_is_not_given_again(store: Store) -> None:
    ann = store.add_labeler("Ann")
    numbers = []
    for name in ("s0", "s1"):
        store.add_sets([a_set(name, user_id=name)])
        claim = Queue(store).claim(ann.labeler_id)
        assert claim is not None
        numbers.append(store.submit(said(claim, ann)).event_id)
        store.erase(name)
    assert numbers[0] < numbers[1]


def test_a_user_who_is_not_there_is_no_error(store: Store) -> None:
    erased = store.erase("nobody")
    assert set(erased.rows.values()) == {0} and erased.versions == erased.data_hashes == ()
