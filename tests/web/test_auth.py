"""Signing in by a link that works once, what the cookie says, and who may do what."""

from __future__ import annotations

from http.cookies import SimpleCookie

from fastapi import FastAPI
from starlette.testclient import TestClient

from plumbline.web.csrf import token_of
from sites import LINK, SESSION

COOKIE = "plumbline-7586"
PAGE = {"Accept": "text/html"}


def test_opening_a_link_does_not_use_it_up_and_its_button_signs_in(client: TestClient) -> None:
    assert client.get(f"/sign-in/{LINK}", headers=PAGE).status_code == 200
    assert client.get(f"/sign-in/{LINK}", headers=PAGE).status_code == 200
    answer = client.post(f"/sign-in/{LINK}", headers=PAGE, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert client.get("/").json() == {"name": "Ann <b>"}


def test_a_link_works_once_and_a_forged_one_never(client: TestClient) -> None:
    assert client.post(f"/sign-in/{LINK}").status_code == 200
    client.cookies.clear()
    for link in (LINK, "forged", "%00", "é" * 500):
        answer = client.post(f"/sign-in/{link}")
        assert answer.status_code in (403, 429)
        assert "set-cookie" not in answer.headers
    assert client.get("/").status_code == 401


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(client: TestClient) -> None:
    cookie = SimpleCookie(client.post(f"/sign-in/{LINK}", follow_redirects=False).headers["set-cookie"])[COOKIE]
    assert (cookie.value, cookie["httponly"], cookie["samesite"], cookie["path"]) == (SESSION, True, "lax", "/")
    assert cookie["secure"] == ""


def test_over_https_the_cookie_never_travels_in_the_clear(site: FastAPI) -> None:
    client = TestClient(site, base_url="https://label.example")
    cookies = SimpleCookie(client.post(f"/sign-in/{LINK}", follow_redirects=False).headers["set-cookie"])
    assert cookies["plumbline-https"]["secure"] is True


def test_two_servers_of_one_host_have_two_cookies(ann: TestClient, site: FastAPI) -> None:
    other = TestClient(site, base_url="http://127.0.0.1:7587", cookies=dict(ann.cookies))
    assert other.get("/").status_code == 401


def test_without_a_session_or_with_a_forged_one_nothing_is_shown(client: TestClient) -> None:
    assert client.get("/").json()["error"].startswith("You are not signed in here")
    client.cookies.set(COOKIE, "forged")
    assert client.get("/").status_code == 401
    page = client.get("/", headers=PAGE)
    assert page.status_code == 401 and "<h1>Please sign in</h1>" in page.text


def test_a_role_that_may_not_is_told_so(client: TestClient) -> None:
    client.cookies.set(COOKIE, "mia's")
    answer = client.post("/say", json={"text": "hello"}, headers={"X-CSRF-Token": token_of("mia's")})
    assert answer.status_code == 403
    assert answer.json()["error"] == "This page is for a labeler, and you are signed in as a manager."


def test_signing_out_ends_the_session_everywhere(ann: TestClient, site: FastAPI) -> None:
    elsewhere = TestClient(site, base_url="http://127.0.0.1:7586", cookies=dict(ann.cookies))
    assert ann.post("/sign-out", data={"csrf": "forged"}).status_code == 403
    page = ann.post("/sign-out", data={"csrf": token_of(SESSION)}, headers=PAGE)
    assert page.status_code == 200 and "You are signed out" in page.text
    assert ann.get("/").status_code == elsewhere.get("/").status_code == 401


def test_a_name_is_text_on_the_page(ann: TestClient) -> None:
    assert "Ann &lt;b&gt;" in ann.get("/sign-in/another", headers=PAGE).text
