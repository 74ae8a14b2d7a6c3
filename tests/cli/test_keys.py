"""`plumb keys`: a key is shown once, listed without its secret, and revoked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from plumbline.feedback.store import Store
from plumbline.project import Project

Plumb = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path)


def test_a_key_is_made_listed_and_revoked(project: Project, plumb: Plumb) -> None:
    made = plumb("keys", "add", "shop", "--scope", "chat", "--requests", "5", "--days", "2", "--no-content")
    secret = made.stdout.strip()
    assert made.exit_code == 0 and secret.startswith("plumb-") and secret not in made.stderr
    with Store.open(project) as store:
        (key,) = store.keys()
    assert (key.name, key.scopes, key.requests_a_minute, key.keeps_content) == ("shop", {"chat"}, 5, False)
    assert key.until is not None and (key.until - key.at).days in (1, 2)
    shown = plumb("keys", "list", "--json")
    (listed,) = json.loads(shown.stdout)
    assert listed["key_id"] == key.key_id and listed["state"].startswith("works until")
    assert secret not in shown.stdout and key.key_hash not in shown.stdout
    assert plumb("keys", "revoke", key.key_id).exit_code == 0
    assert "revoked" in plumb("keys", "list").stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["add", "shop", "--scope", "fly"], "give some of chat, feedback, label, manage, admin"),
        (["add", "shop", "--requests", "0"], "requests_a_minute is 0"),
        (["add", "a/b"], "a slash parts it from its users"),
        (["revoke", "nope"], "there is no key 'nope': `plumb keys list` shows them"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(project: Project, plumb: Plumb, args: list[str], said: str) -> None:
    result = plumb("keys", *args)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr
