"""A labeler who is forgotten: what goes, what stays, what is named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from collecting import Clock, a_set, said, some_sets
from plumbline.errors import UserError
from plumbline.feedback import schema
from plumbline.feedback.places import Progress
from plumbline.feedback.queue import Overlap, Queue
from plumbline.feedback.store import Labeler, Store, Written
from plumbline.records import Ranking, parse, prompt_id


def rank(store: Store, who: Labeler, *texts: Written) -> None:
    claim = Queue(store).claim(who.labeler_id)
    assert claim is not None
    store.submit(said(claim, who, f"key-{len(list(store.rankings(by=who.labeler_id)))}{who.name[0]}", texts=texts))


def everything(store: Store) -> str:
    with store.read() as connection:
        return "\n".join(
            str(row) for each in schema.metadata.tables.values() for row in connection.execute(each.select())
        )


@pytest.fixture
def greta(store: Store) -> Labeler:
    """Somebody with a session, an open link, two rankings, one set begun, and a word on somebody else."""
    store.add_sets(some_sets(3))
    store.set_overlap(Overlap(each=1))
    greta, bo = store.add_labeler("Greta Thurn", "manager"), store.add_labeler("Bo")
    store.new_link(greta.labeler_id, timedelta(days=1))
    store.open_session(greta.labeler_id, timedelta(days=1))
    rank(store, greta)
    rank(store, greta, Written("in her words", 0))
    Queue(store).claim(greta.labeler_id)
    store.save_draft("s2", greta.labeler_id, {"ranks": [1, None, None]})
    store.exclude(bo.labeler_id, {"note": "too fast"}, by=greta.name)
    store.revise("helpful", "Rank.", by=greta.name)
    return greta


def test_the_name_and_the_sign_in_go_and_the_rankings_are_nobodys(store: Store, greta: Labeler) -> None:
    session = store.open_session(greta.labeler_id, timedelta(days=1))
    erased = store.erase_labeler(greta.labeler_id)
    assert dict(erased.rows) == {"sign_in": 1, "session": 2, "draft": 1, "labeler": 1}
    assert "Greta" not in everything(store) and greta.labeler_id not in everything(store)
    assert store.session(session) is None
    (drawn,) = {each.labeler_id for each in store.rankings()}
    assert drawn.startswith("erased-") and store.labeler(drawn).role == "manager"
    assert [each.set_id for each in store.rankings()] == ["s0", "s1"]
    assert [edit.edited for edit in store.edits()] == ["in her words"]
    assert store.progress() == Progress(waiting=1, done=2) and store.rebuild() == 0  # what she had begun is free
    assert [each.by for each in store.excluded().values()] == [store.instruction("helpful").by] == ["somebody"]
    with pytest.raises(UserError, match="there is no labeler"):
        store.erase_labeler(greta.labeler_id)


def test_the_rankings_go_too_where_asked_and_their_places_are_free(store: Store, greta: Labeler) -> None:
    erased = store.erase_labeler(greta.labeler_id, with_rankings=True)
    expected = {"sign_in": 1, "session": 1, "draft": 1, "assignment": 3, "ranking_event": 2, "exclusion_event": 0}
    assert dict(erased.rows) == {**expected, "labeler": 1}
    assert "Greta" not in everything(store) and greta.labeler_id not in everything(store)
    assert "in her words" not in everything(store)
    assert [each.name for each in store.labelers()] == ["Bo"]
    assert store.progress() == Progress(waiting=3) and store.rebuild() == 0


def test_no_bytes_of_the_name_are_left_in_the_files(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        who = store.add_labeler("Greta Thurn")
        assert any(b"Greta Thurn" in path.read_bytes() for path in tmp_path.iterdir())
        store.erase_labeler(who.labeler_id)
        assert not any(b"Greta Thurn" in path.read_bytes() for path in tmp_path.iterdir())


def test_who_was_left_out_stays_so_without_the_evidence(store: Store, greta: Labeler) -> None:
    store.exclude(greta.labeler_id, {"note": "Greta guesses"}, by="mo")
    store.erase_labeler(greta.labeler_id)
    assert list(store.rankings()) == [] and len(list(store.rankings(include_excluded=True))) == 2
    assert "Greta" not in everything(store)


def test_exports_that_came_after_the_rankings_are_named(store: Store, greta: Labeler, clock: Clock) -> None:
    bo = next(each for each in store.labelers() if each.name == "Bo")
    store.include(bo.labeler_id, by="mo")
    store.mark_seen("with her", ["s0"], "reward@1")
    store.mark_seen("her words", [prompt_id("prompt of s1")])
    store.mark_seen("another set", ["s2"], "reward@2")
    clock.pass_minutes(1)
    store.add_sets([a_set("later")])
    store.mark_seen("before she ranked it", ["later"], "reward@3")
    clock.pass_minutes(1)
    rank(store, greta)  # the one she had begun
    rank(store, greta)
    for with_rankings in (False, True):
        who = next(each for each in store.labelers() if each.role == "manager")
        erased = store.erase_labeler(who.labeler_id, with_rankings=with_rankings)
        assert (erased.data_hashes, erased.versions) == (("her words", "with her"), ("reward@1",))


def test_imported_rankings_tell_no_more_whose_they_were(store: Store) -> None:
    line = {"prompt": "a?", "completions": ["b", "c"], "ranks": [1, 2], "flags": [False] * 2, "labeler_id": "greta"}
    ranking = parse(Ranking, {**line, "set_id": "s", "instruction_version": "1"})
    store.add_rankings([ranking], "file")
    with store.read() as connection:
        (before,) = connection.execute(schema.ranking_event.select())
    store.erase_labeler("greta")
    assert before.digest not in everything(store)  # whoever knows the name could make it again
    (drawn,) = store.rankings()
    assert drawn.labeler_id.startswith("erased-")
    assert store.add_rankings([drawn], "its own export").known == 1
