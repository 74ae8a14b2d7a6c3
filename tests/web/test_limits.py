"""How large a request may be, and how often one may fail or write. Time is a clock of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from plumbline.web import limits
from plumbline.web.csrf import token_of
from plumbline.web.errors import Refusal
from plumbline.web.limits import Limit
from sites import LINK, SESSION, Clock

TOKEN = {"X-CSRF-Token": token_of(SESSION)}
TOO_LARGE = "The request is larger than 0.00953674 MiB: send less at once."


def test_so_many_at_once_and_then_as_many_as_the_rate_allows(clock: Clock) -> None:
    limit = Limit(2, 0.5, "Slowly.", clock)
    limit.take("ann")
    limit.take("ann")
    with pytest.raises(Refusal, match=r"Slowly\. Try again in 2 s\.") as refused:
        limit.take("ann")
    assert (refused.value.status, refused.value.wait) == (429, 2)
    limit.take("ben")  # has a measure of his own
    clock.now += 2
    limit.take("ann")
    with pytest.raises(Refusal):
        limit.take("ann")


def test_a_check_takes_nothing(clock: Clock) -> None:
    limit = Limit(1, 1, "Slowly.", clock)
    limit.check("ann")
    limit.take("ann")
    with pytest.raises(Refusal):
        limit.check("ann")


def test_what_is_remembered_stays_small(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_VISITORS", 3)
    limit = Limit(1, 1, "Slowly.", clock)
    for name in "abcd":
        limit.take(name)
    limit.take("a")  # the one seen longest ago was forgotten
    with pytest.raises(Refusal):
        limit.take("d")


def test_guessing_links_ends_soon_and_a_good_link_costs_nothing(client: TestClient, clock: Clock) -> None:
    for number in range(3):
        assert client.post(f"/sign-in/guess-{number}").status_code == 403
    answer = client.post(f"/sign-in/{LINK}")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")
    clock.now += 10
    assert client.post(f"/sign-in/{LINK}").status_code == 200


def test_writes_have_a_limit_and_reading_has_none(ann: TestClient, clock: Clock) -> None:
    for _ in range(5):
        assert ann.post("/say", json={"text": "hello"}, headers=TOKEN).status_code == 200
    assert ann.post("/say", json={"text": "hello"}, headers=TOKEN).status_code == 429
    assert ann.get("/").status_code == 200
    clock.now += 1
    assert ann.post("/say", json={"text": "hello"}, headers=TOKEN).status_code == 200


def test_a_body_that_is_announced_too_large_is_not_read(ann: TestClient) -> None:
    answer = ann.post("/say", json={"text": "x" * 10_001}, headers=TOKEN)
    assert (answer.status_code, answer.json()["error"]) == (413, TOO_LARGE)


def test_a_body_that_does_not_say_how_large_it_is_is_cut_off(ann: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(11):
            yield b"x" * 1000
        yield b'"}'

    answer = ann.post("/say", content=pieces(), headers={**TOKEN, "Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (413, TOO_LARGE)
