"""A write must come from our own page: with its session's token, and not from another site."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from plumbline.web.csrf import token_of
from sites import LINK, SESSION

TOKEN = {"X-CSRF-Token": token_of(SESSION)}


def test_with_the_token_in_the_header_a_write_is_done(ann: TestClient) -> None:
    assert ann.post("/say", json={"text": "hello"}, headers=TOKEN).json() == {"said": "hello"}


@pytest.mark.parametrize("headers", [{}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": token_of("another session")}])
def test_without_the_right_token_it_is_refused(ann: TestClient, headers: dict[str, str]) -> None:
    answer = ann.post("/say", json={"text": "hello"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (403, "This page is from an earlier session: load it again.")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:7587"},
        {"Origin": "http://127.0.0.1:7586", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_write_from_elsewhere_is_refused_whatever_it_carries(ann: TestClient, headers: dict[str, str]) -> None:
    answer = ann.post("/say", json={"text": "hello"}, headers=TOKEN | headers)
    assert answer.status_code == 403
    assert "caused by another site" in answer.json()["error"]


def test_a_write_from_our_own_page_is_not(ann: TestClient) -> None:
    ours = {"Origin": "http://127.0.0.1:7586", "Sec-Fetch-Site": "same-origin"}
    assert ann.post("/say", json={"text": "hello"}, headers=TOKEN | ours).status_code == 200


def test_nobody_is_signed_in_by_another_site(client: TestClient) -> None:
    answer = client.post(f"/sign-in/{LINK}", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert client.post(f"/sign-in/{LINK}").status_code == 200  # and the link is not used up


def test_the_token_tells_nothing_of_the_session_and_differs_for_each() -> None:
    assert token_of(SESSION) != token_of(SESSION + "2")
    assert SESSION not in token_of(SESSION) and len(token_of(SESSION)) == 64
