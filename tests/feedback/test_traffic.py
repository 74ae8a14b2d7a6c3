"""Exchanges with a served model: stored together, found by whose they are, forgotten by age."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from collecting import Clock, an_exchange
from plumbline.errors import UserError
from plumbline.feedback.store import Exchange, Store


def test_vectors_are_found_by_their_key_the_latest_first_and_go_with_their_user(store: Store) -> None:
    def asked(name: str, user: str, key: str | None, vector: bytes | None, **more: Any) -> Exchange:
        return an_exchange(name, f"shop/{user}", answers=[{"text": "A"}], alike_key=key, vector=vector, **more)

    store.add_exchanges([asked("1", "ann", "k", b"\0\1"), asked("2", "bob", "k", b"\2"), asked("3", "ann", "k", b"\3")])
    store.add_exchanges([asked("4", "ann", "other", b"\4"), asked("5", "ann", None, None)])
    assert store.vectors("k", 9) == [("3", b"\3"), ("2", b"\2"), ("1", b"\0\1")]
    assert store.vectors("k", 2) == [("3", b"\3"), ("2", b"\2")]
    store.erase("shop/ann")
    assert store.vectors("k", 9) == [("2", b"\2")]


def test_what_was_stored_comes_back_whole(store: Store) -> None:
    asked = [{"role": "user", "content": "Knock, knock\0"}]
    whole = an_exchange(
        prompt=asked,
        answers=[{"text": "Who is there?", "finish_reason": "stop"}],
        settings={"temperature": 0.5},
        first_ms=1.5,
        prompt_tokens=3,
        completion_tokens=4,
    )
    bare = an_exchange("x2", prompt=None, settings={})
    store.add_exchanges([whole, bare])
    assert list(store.exchanges()) == [whole, bare]
    assert store.exchange("x1", "shop") == whole


def test_nobody_finds_what_another_asked(store: Store) -> None:
    store.add_exchanges([an_exchange()])
    assert store.exchange("x1", "bank") is None and store.exchange("x9", "shop") is None
    assert list(store.exchanges(tenant="bank")) == []


def test_all_of_a_transaction_or_nothing(store: Store) -> None:
    store.add_exchanges([an_exchange("x1")])
    with pytest.raises(Exception, match="(?i)unique"):
        store.add_exchanges([an_exchange("x2"), an_exchange("x1")])
    assert [each.exchange_id for each in store.exchanges()] == ["x1"]


def test_what_is_old_goes(store: Store, clock: Clock) -> None:
    later = clock() + timedelta(days=2)
    store.add_exchanges([an_exchange("old"), an_exchange("new", at=later)])
    assert store.forget_exchanges(later) == 1
    assert store.forget_exchanges(later) == 0
    assert [each.exchange_id for each in store.exchanges()] == ["new"]


def test_the_hours_of_each_version(store: Store, clock: Clock) -> None:
    def at(minutes: int, version: str, status: str = "answered") -> Exchange:
        when = clock() + timedelta(minutes=minutes)
        name = f"{minutes}-{version}"
        return an_exchange(name, at=when, version=version, status=status, prompt_tokens=1, completion_tokens=2)

    store.add_exchanges([at(0, "m@1"), at(59, "m@1", "failed"), at(60, "m@1"), at(61, "m@2")])
    found = [(each.hour, each.version, each.exchanges, each.failed, each.tokens) for each in store.hours(clock())]
    assert found == [
        ("2026-01-01 13", "m@1", 1, 0, 3),
        ("2026-01-01 13", "m@2", 1, 0, 3),
        ("2026-01-01 12", "m@1", 2, 1, 6),
    ]


def test_an_edit_that_a_source_sends_again_adds_nothing(store: Store) -> None:
    for _ in range(2):
        store.add_edit("p", "a", "b", "shop/u1", source="serve")
        store.add_edit("p", None, "c", "shop/u1", source="serve")
        store.add_edit("p", "a", "b", "shop/u2")  # an import says by itself what it has twice
    assert [(edit.edited, edit.user_id, edit.source) for edit in store.edits()] == [
        ("b", "shop/u1", "serve"),
        ("c", "shop/u1", "serve"),
        ("b", "shop/u2", None),
        ("b", "shop/u2", None),
    ]


# ---- keys


def test_a_key_is_shown_once_and_its_hash_is_kept(store: Store) -> None:
    secret, key = store.add_key("shop", ["chat"], requests_a_minute=5, keeps_content=False)
    assert store.keys() == [key]
    assert secret.startswith(f"plumb-{key.key_id}-") and len(secret) > 50
    assert secret not in str(vars(key)) and key.key_hash not in repr(key)
    assert key.may("chat") and not key.may("manage")
    _, boss = store.add_key("boss", ["admin"])
    assert boss.may("manage") and boss.may("chat")


def test_a_revoked_key_stays_in_the_list(store: Store, clock: Clock) -> None:
    _, key = store.add_key("shop")
    assert store.revoke_key(key.key_id).revoked_at == clock()
    clock.pass_minutes(5)
    assert store.revoke_key(key.key_id).revoked_at != clock()
    with pytest.raises(UserError, match="there is no key 'nope'"):
        store.revoke_key("nope")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"scopes": ["chat", "fly"]},
            r"the scopes are \['chat', 'fly'\]: give some of chat, feedback, label, manage, admin",
        ),
        ({"scopes": []}, "the scopes are"),
        ({"at_once": 0}, "at_once is 0: a limit is at least 1"),
        ({"name": ""}, "the name is ''"),
        ({"name": "a/b"}, "a slash parts it from its users"),
        ({"name": " playground"}, "the name is ' playground', which is ours"),
        ({"name": "local"}, "what it names would be open to this key"),
    ],
)
def test_what_cannot_be_a_key(store: Store, given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        store.add_key(**{"name": "shop", **given})  # type: ignore[arg-type]
