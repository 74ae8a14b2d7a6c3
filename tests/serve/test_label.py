"""The scope `label`: an application's people rank the project's sets, each in the place that the queue gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from collecting import some_sets
from plumbline.feedback.places import Overlap
from plumbline.feedback.queue import Queue
from serving import Running, message_of

KEY = "0123456789abcdef"


@pytest.fixture
def room(serve: Callable[..., Running], script: str) -> Running:
    """A server with two sets, of which each is ranked by one person."""
    server = serve(script, keys=True)
    server.store.add_criterion("helpful", "What helps most.")
    server.store.add_sets(some_sets(2))
    Queue(server.store, Overlap(each=1))
    return server


def claim(server: Running, key: str, user: str = "ann") -> dict[str, Any]:
    given = server.post("/v1/label/claim", {"user": user}, key)
    assert given.status_code == 200, given.text
    found: dict[str, Any] = given.json()["set"]
    return found


def ranked(found: dict[str, Any], user: str = "ann", **more: Any) -> dict[str, Any]:
    order = [answer["place"] for answer in found["answers"]]
    said = {"user": user, "key": KEY, "set_id": found["set_id"], "ranks": [2, 1, None], "shown_order": order}
    return {**said, "instruction_version": found["instruction"]["version"], **more}


def test_the_scope_opens_ranking_and_nothing_else(room: Running) -> None:
    label, _ = room.store.add_key("desk", ["label"])
    rest, _ = room.store.add_key("shop", ["chat", "feedback", "manage"])
    admin, _ = room.store.add_key("boss", ["admin"])
    assert room.ask(key=label).status_code == 403
    assert room.post("/v1/feedback", {"id": "x", "thumb": "up"}, label).status_code == 403
    for path, body in (("claim", {"user": "ann"}), ("rank", {}), ("skip", {})):
        refused = room.post(f"/v1/label/{path}", body, rest)
        assert (refused.status_code, "takes the scope 'label'" in message_of(refused)) == (403, True)
        assert room.post(f"/v1/label/{path}", body).status_code == 401
    assert room.store.labelers() == []  # nobody was added by who may not
    assert claim(room, label)["set_id"] != claim(room, admin)["set_id"]


def test_a_ranking_goes_where_those_of_the_room_go(room: Running) -> None:
    label, _ = room.store.add_key("desk", ["label"])
    found = claim(room, label)
    assert found == claim(room, label)  # until it is ranked
    assert {answer["text"] for answer in found["answers"]} == {f"answer {n} of {found['set_id']}" for n in range(3)}
    assert "model" not in str(found)  # whose answer is whose is not told
    for replayed in (False, True):
        assert room.post("/v1/label/rank", ranked(found), label).json() == {
            "object": "ranking", "set_id": found["set_id"], "stored": True, "replayed": replayed,
        }  # fmt: skip
    (ranking,) = room.store.rankings()
    assert (ranking.labeler_id, ranking.ranks, ranking.flags) == ("user:desk/ann", (2, 1, None), (False, False, True))
    second = claim(room, label, "ben")
    assert second["set_id"] != found["set_id"]  # the first has all the people it needs
    skipped = {"user": "ben", "set_id": second["set_id"], "reason": "I do not know enough about this"}
    assert room.post("/v1/label/skip", skipped, label).status_code == 200
    assert room.post("/v1/label/claim", {"user": "ben"}, label).json() == {"object": "claim", "set": None}


def test_nobody_ranks_what_was_not_given_to_them(room: Running) -> None:
    desk, _ = room.store.add_key("desk", ["label"])
    other, _ = room.store.add_key("other", ["label"])
    found = claim(room, desk)
    for key, user in ((desk, "ben"), (other, "ann")):
        refused = room.post("/v1/label/rank", ranked(found, user), key)
        assert (refused.status_code, "was never given to the labeler" in message_of(refused)) == (400, True)
    refused = room.post("/v1/label/rank", ranked(found, ranks=[1, 2]), desk)
    assert (refused.status_code, "`ranks` has 2 entries" in message_of(refused)) == (400, True)
    assert room.post("/v1/label/rank", ranked(found, key="short"), desk).status_code == 400
    assert list(room.store.rankings()) == []


def test_two_applications_keys_for_a_ranking_do_not_meet(room: Running) -> None:
    for key in [room.store.add_key(name, ["label"])[0] for name in ("desk", "other")]:
        assert room.post("/v1/label/rank", ranked(claim(room, key)), key).json()["replayed"] is False
    assert len(list(room.store.rankings())) == 2


def test_an_erasure_takes_what_a_user_ranked(room: Running) -> None:
    key, _ = room.store.add_key("desk", ["label"])
    room.post("/v1/label/rank", ranked(claim(room, key)), key)
    assert room.store.erase("desk/ann").rows["ranking_event"] == 1
    assert list(room.store.rankings()) == [] and room.store.labelers() == []
