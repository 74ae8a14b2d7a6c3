"""Who may ask: keys by hash, scope, age and share; and without keys nobody but this machine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from plumbline.errors import UserError
from plumbline.serve import keys as keys_module
from plumbline.serve.app import check_public
from serving import Running, message_of

Serve = Callable[..., Running]


@pytest.fixture
def guarded(serve: Serve, script: str, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A server that needs keys and looks them up at every request."""
    monkeypatch.setattr(keys_module, "FRESH", -1.0)
    return serve(script, keys=True)


def test_a_key_opens_what_its_scopes_say(guarded: Running) -> None:
    chat, _ = guarded.store.add_key("shop", ["chat"])
    metrics, _ = guarded.store.add_key("watch", ["manage"])
    admin, _ = guarded.store.add_key("boss", ["admin"])
    assert guarded.ask(key=chat).status_code == guarded.ask(key=admin).status_code == 200
    refused = guarded.ask(key=metrics)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
    assert guarded.post("/v1/feedback", {"id": "x", "thumb": "up"}, chat).status_code == 403
    import httpx

    for key, status in ((chat, 403), (metrics, 200), (admin, 200)):
        assert httpx.get(f"{guarded.address}/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == status
    assert [row.tenant for row in guarded.stored()] == ["shop", "boss"]


@pytest.mark.parametrize(
    "changed",
    [
        lambda key: None,
        lambda key: key[:-1],
        lambda key: key[:-1] + ("a" if key[-1] != "a" else "b"),
        lambda key: key.replace("plumb-", "plumb-0"),
        lambda key: key.removeprefix("plumb-"),
        lambda key: "sk-" + key.removeprefix("plumb-"),
        lambda key: "ключ",
    ],
)
def test_what_is_no_key_is_refused_alike(guarded: Running, changed: Callable[[str], str | None]) -> None:
    key, _ = guarded.store.add_key("shop")
    given = changed(key)
    headers = {} if given is None else {"Authorization": f"Bearer {given}".encode()}
    import httpx

    body = {"model": "", "messages": [{"role": "user", "content": "Hi"}]}
    refused = httpx.post(f"{guarded.address}/v1/chat/completions", json=body, headers=headers)  # type: ignore[arg-type]
    assert refused.status_code == 401
    assert refused.json()["error"] == {
        "message": "The API key is missing, unknown, revoked or too old: send `Authorization: Bearer KEY`.",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert guarded.stored() == []


def test_a_revoked_key_and_one_that_is_too_old_open_nothing(guarded: Running) -> None:
    now = guarded.store.clock()
    revoked, known = guarded.store.add_key("shop")
    old, _ = guarded.store.add_key("shop", until=now - timedelta(seconds=1))
    young, _ = guarded.store.add_key("shop", until=now + timedelta(days=1))
    assert guarded.ask(key=revoked).status_code == 200
    guarded.store.revoke_key(known.key_id)
    assert [guarded.ask(key=key).status_code for key in (revoked, old, young)] == [401, 401, 200]


def test_a_guesser_is_told_to_wait_and_nobody_else_behind_that_address(guarded: Running) -> None:
    key, _ = guarded.store.add_key("shop")
    statuses = [guarded.ask(key="plumb-0-0").status_code for _ in range(25)]
    assert statuses[:20] == [401] * 20 and 429 in statuses[20:]
    assert guarded.ask(key=key).status_code == 200


def test_requests_tokens_and_requests_at_once_have_their_bounds(guarded: Running) -> None:
    few, _ = guarded.store.add_key("few", requests_a_minute=2)
    assert [guarded.ask(key=few).status_code for _ in range(3)] == [200, 200, 429]
    refused = guarded.ask(key=few)
    assert int(refused.headers["Retry-After"]) > 0 and "2 requests a minute" in message_of(refused)
    small, _ = guarded.store.add_key("small", tokens_a_minute=10)
    assert guarded.ask(key=small).status_code == 200
    refused = guarded.ask(key=small)
    assert refused.status_code == 200 or "10 tokens a minute" in message_of(refused)
    assert [guarded.ask(key=small).status_code for _ in range(2)][-1] == 429


def test_what_runs_at_once_is_bounded(serve: Serve, gate: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server = serve(gate.model, keys=True)  # type: ignore[attr-defined]
    key, _ = server.store.add_key("shop", at_once=2)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(server.ask, "Hi", key) for _ in range(2)]
        gate.wait_for(2)  # type: ignore[attr-defined]
        refused = server.ask("Hi", key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrency_limit")
        gate.open.set()  # type: ignore[attr-defined]
        assert [each.result().status_code for each in running] == [200, 200]
    assert server.ask("Hi", key).status_code == 200


def test_without_keys_only_this_machine_is_served(server: Running) -> None:
    assert server.ask().status_code == 200
    body = {"model": "", "messages": [{"role": "user", "content": "Knock, knock"}]}
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1"):
        refused = server.post("/v1/chat/completions", body, Host=host)
        assert refused.status_code == 403 and "only this machine is served" in message_of(refused)
    port = server.address.rpartition(":")[2]
    assert server.post("/v1/chat/completions", body, Host=f"localhost:{port}").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}, {"Origin": "http://["}],
)
def test_a_page_from_elsewhere_cannot_ask(server: Running, headers: dict[str, str]) -> None:
    body = {"model": "", "messages": [{"role": "user", "content": "Knock, knock"}]}
    refused = server.post("/v1/chat/completions", body, **{"Content-Type": "text/plain", **headers})
    assert refused.status_code == 403 and "caused by another site" in message_of(refused)
    assert server.stored() == []


def test_listening_to_others_without_a_key_is_refused(server: Running) -> None:
    store = server.store
    assert check_public("127.0.0.1", store, keys=False) is False
    for host, keys in (("0.0.0.0", False), ("192.168.1.5", False), ("127.0.0.1", True)):
        with pytest.raises(UserError, match="there is no key that works: make one with `plumb keys add NAME`"):
            check_public(host, store, keys=keys)
    _, key = store.add_key("shop")
    assert check_public("0.0.0.0", store, keys=False) is True
    store.revoke_key(key.key_id)
    with pytest.raises(UserError, match="no key that works"):
        check_public("0.0.0.0", store, keys=False)


def test_no_secret_is_logged(guarded: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    key, _ = guarded.store.add_key("shop")
    guarded.ask("What is unknown", key=key)
    guarded.ask(key=key + "x")
    assert key not in caplog.text and key.rpartition("-")[2] not in caplog.text
