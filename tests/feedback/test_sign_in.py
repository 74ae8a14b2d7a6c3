"""Labelers, links that work once and sessions that end."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import insert

from collecting import Clock
from plumbline.errors import BadRecord, UserError
from plumbline.feedback import schema
from plumbline.feedback.store import Labeler, Store

HOUR = timedelta(hours=1)


def test_labelers_have_names_roles_and_ids_that_nobody_can_guess(store: Store, clock: Clock) -> None:
    ann = store.add_labeler(" Ann ")
    clock.pass_minutes(1)
    mo = store.add_labeler("Mo", "manager")
    assert (ann.name, ann.role, mo.role, mo.at) == ("Ann", "labeler", "manager", clock.now)
    assert store.labelers() == [ann, mo] and store.labeler(mo.labeler_id) == mo
    assert ann.labeler_id != mo.labeler_id and len(ann.labeler_id) == len("labeler-") + 12


def test_two_who_are_called_alike_are_told_apart_by_their_ids(store: Store) -> None:
    ann = store.add_labeler("ann")
    assert store.person("ann") == store.person(ann.labeler_id) == ann
    with store.write() as connection:  # as a file of somebody else's rankings brings her
        connection.execute(insert(schema.labeler).values(labeler_id="ann", name="ann", role="labeler", at=ann.at))
    assert store.person(ann.labeler_id) == ann
    with pytest.raises(UserError, match=f"2 labelers called 'ann': say 'id:ann' or 'id:{ann.labeler_id}'"):
        store.person("ann")
    assert store.person("id:ann").labeler_id == "ann" and store.person(f"id:{ann.labeler_id}") == ann


def test_a_labeler_must_make_sense(store: Store) -> None:
    store.add_labeler("Ann")
    with pytest.raises(UserError, match="there is a labeler 'Ann' already: take another name"):
        store.add_labeler("Ann")
    with pytest.raises(BadRecord, match="the name is '': it needs 1 to 300 characters"):
        store.add_labeler("  ")
    with pytest.raises(UserError, match="the role is 'owner': it is one of labeler, manager"):
        store.add_labeler("Bo", "owner")  # type: ignore[arg-type]


def test_a_link_signs_in_once(store: Store) -> None:
    ann, bo = store.add_labeler("Ann"), store.add_labeler("Bo")
    links = [store.new_link(who.labeler_id, HOUR) for who in (ann, bo, ann)]
    assert [store.redeem(link) for link in links] == [ann, bo, ann]
    assert [store.redeem(link) for link in links] == [None, None, None]


def test_a_link_that_is_forged_or_too_old_signs_nobody_in(store: Store, clock: Clock) -> None:
    link = store.new_link(store.add_labeler("Ann").labeler_id, HOUR)
    for forged in ("", "x", link[:-1], link + "x", "' OR 1=1 --", "\0", "\ud800", "x" * 100_000):
        assert store.redeem(forged) is None
    clock.pass_minutes(60)
    assert store.redeem(link) is None


def test_of_two_who_use_a_link_at_once_one_signs_in(store: Store) -> None:
    link = store.new_link(store.add_labeler("Ann").labeler_id, HOUR)
    start = threading.Barrier(8)
    signed_in: list[Labeler | None] = []

    def use() -> None:
        start.wait()
        signed_in.append(store.redeem(link))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signed_in) == 8 and sum(who is not None for who in signed_in) == 1


def test_a_session_lasts_until_it_ends(store: Store, clock: Clock) -> None:
    ann = store.add_labeler("Ann")
    first, second = (store.open_session(ann.labeler_id, HOUR) for _ in range(2))
    assert store.session(first) == store.session(second) == ann
    store.end_session(first)
    store.end_session(first)
    assert (store.session(first), store.session(second)) == (None, ann)
    clock.pass_minutes(60)
    assert store.session(second) is None
    for forged in ("", "x", second[:-1], "\0"):
        assert store.session(forged) is None


def test_a_link_is_no_session_and_a_session_no_link(store: Store) -> None:
    ann = store.add_labeler("Ann")
    assert store.session(store.new_link(ann.labeler_id, HOUR)) is None
    assert store.redeem(store.open_session(ann.labeler_id, HOUR)) is None


def test_nobody_unknown_gets_a_link_or_a_session(store: Store) -> None:
    for give in (store.new_link, store.open_session):
        with pytest.raises(UserError, match="there is no labeler 'eve'"):
            give("eve", HOUR)


def test_no_token_is_stored_and_old_sessions_are_cleared_away(store: Store, clock: Clock) -> None:
    ann = store.add_labeler("Ann")
    tokens = [store.new_link(ann.labeler_id, HOUR), store.open_session(ann.labeler_id, HOUR)]
    with store.read() as connection:
        rows = [
            str(row)
            for name in ("sign_in", "session")
            for row in connection.execute(schema.metadata.tables[name].select())
        ]
    assert len(rows) == 2 and not any(token in row for token in tokens for row in rows)
    clock.pass_minutes(61)
    store.open_session(ann.labeler_id, HOUR)
    with store.read() as connection:
        assert len(connection.execute(schema.session.select()).all()) == 1
