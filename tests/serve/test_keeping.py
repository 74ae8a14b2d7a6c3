"""How long exchanges are kept, and what leaves no row at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from collecting import an_exchange
from plumbline.feedback.store import Store
from plumbline.project import Project
from serving import PATIENCE, Running


def test_what_is_older_than_it_is_kept_goes_and_the_rest_stays(
    serve: Callable[..., Running], script: str, tmp_path: Path
) -> None:
    with Store.open(Project.create(tmp_path)) as store:
        now = store.clock()
        old, young = (an_exchange(name, at=now - timedelta(days=days)) for name, days in (("old", 8), ("young", 6)))
        store.add_exchanges([old, young])
    server = serve(script, keep_days=7)
    end = time.monotonic() + PATIENCE
    while len(server.stored()) > 1:
        assert time.monotonic() < end, "what is too old is still there"
    assert [each.exchange_id for each in server.stored()] == ["young"]


def test_who_comes_too_often_is_counted_and_leaves_no_row(serve: Callable[..., Running], script: str) -> None:
    server = serve(script, keys=True)
    key, _ = server.store.add_key("shop", requests_a_minute=1)
    statuses = [server.ask(key=key).status_code for _ in range(5)]
    assert statuses == [200, 429, 429, 429, 429]
    server.stop()
    assert [row.status for row in server.stored()] == ["answered"]


def test_one_request_leaves_one_row_however_it_ends(serve: Callable[..., Running], script: str) -> None:
    server = serve(script, keys=True)
    (kept, _), (bare, _) = server.store.add_key("a"), server.store.add_key("b", keeps_content=False)
    for key in (kept, bare):
        for more in (
            {},
            {"stream": True},
            {"prompt": "What is unknown"},
            {"model": "none"},
            {"n": 3, "temperature": 0},
        ):
            server.ask(**{"key": key, **more})  # type: ignore[arg-type]
    server.stop()
    rows: list[Any] = server.stored()
    assert [row.status for row in rows if row.tenant == "a"].count("answered") == 3
    assert [row.status for row in rows].count("failed") == 4 and len(rows) == 10
    silent = str([row for row in rows if row.tenant == "b"])
    assert "unknown" not in silent and "Knock" not in silent and "UserError" in silent
