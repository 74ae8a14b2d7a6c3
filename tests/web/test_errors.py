"""A refusal is JSON for a script, a page for a person, and never a traceback."""

from __future__ import annotations

import logging

import pytest
from starlette.testclient import TestClient

from plumbline.web.csrf import token_of
from sites import SESSION

PAGE = {"Accept": "text/html"}
TOKEN = {"X-CSRF-Token": token_of(SESSION)}


def test_a_bug_is_told_without_its_details_and_found_in_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "plumbline.web"):
        answer = client.get("/bug")
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("Something broke on our side.")
    assert "secret" not in answer.text and "Traceback" not in answer.text
    name = answer.json()["request_id"]
    assert answer.headers["x-request-id"] == name
    [record] = caplog.records
    assert record.getMessage() == f"request {name}, GET /bug"
    assert record.exc_info is not None and "a secret detail" in str(record.exc_info[1])


def test_a_person_gets_a_page_with_the_number(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "plumbline.web"):
        page = client.get("/bug", headers=PAGE)
    assert page.status_code == 500
    assert "<h1>Our mistake</h1>" in page.text
    assert f"Request {page.headers['x-request-id']}" in page.text
    assert "secret" not in page.text


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/nothing", 404, "There is nothing at this address"),
        ("DELETE", "/health", 405, "This address takes no such request"),
        ("GET", "/assets/old/none.js", 404, "There is no file 'none.js' here."),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(
    client: TestClient, method: str, path: str, status: int, said: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(said)


def test_an_address_is_text_in_the_page_about_it(client: TestClient) -> None:
    page = client.get("/<script>alert(1)</script>", headers=PAGE)
    assert page.status_code == 404
    assert "<script>alert" not in page.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"text": 3}', b'{"other": 1}', b"\xff"])
def test_a_body_that_is_not_understood_is_refused_with_the_reason(ann: TestClient, body: bytes) -> None:
    answer = ann.post("/say", content=body, headers={**TOKEN, "Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]
    if body == b"{":
        assert answer.json()["error"] == "The request is not understood. It is not JSON from character 1 on"
