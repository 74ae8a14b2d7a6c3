"""The page of what a served model does."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta

from collecting import an_exchange
from plumbline.serve.traffic import HEIGHT, bars, by_version
from serving import Running, sign_in


def test_the_hours_become_bars_and_the_versions_rows(serve: Callable[..., Running], script: str) -> None:
    server = serve(script)
    now = server.store.clock()
    rows = [
        an_exchange("a", at=now, version="m@1", prompt_tokens=2, completion_tokens=3, latency_ms=10.0),
        an_exchange("b", at=now, version="m@1", status="failed", latency_ms=30.0),
        an_exchange("c", at=now - timedelta(hours=5), version="m@2"),
        an_exchange("d", at=now - timedelta(days=9), version="m@0"),
    ]
    server.store.add_exchanges(rows)
    hours = server.store.hours(now - timedelta(hours=48))
    first, second = by_version(hours, {"m@1": (4, 1)})
    assert (first.version, first.exchanges, first.failed, first.tokens, first.mean_ms) == ("m@1", 2, 1, 5, 20.0)
    assert (first.up, first.down, second.up) == (4, 1, 0)
    labels = [hours[0].hour, "1999-01-01 00"]
    drawn, empty = bars(labels, hours)
    assert (drawn["height"], drawn["failed"], empty["height"]) == (HEIGHT, HEIGHT / 2, 0)
    assert drawn["label"] == f"{labels[0]}:00 UTC: 2 requests, 1 failed"


def test_the_manager_sees_it_and_nobody_else(server: Running) -> None:
    answered = server.ask(user="<b>ann</b>").json()
    server.post("/v1/feedback", {"id": answered["id"], "thumb": "up"})
    with closing(sign_in(server, "mia", "manager")) as mia, closing(sign_in(server, "ann")) as ann:
        page = mia.get("/traffic")
        assert page.status_code == 200
        assert re.search(r'<td class="number">1</td><td class="number">0</td>', page.text)
        assert page.text.count("<rect") == 1 and "<b>ann</b>" not in page.text
        assert 'href="/traffic"' in mia.get("/playground").text
        assert ann.get("/traffic").status_code == 403
        assert 'href="/traffic"' not in ann.get("/playground").text


def test_a_fault_stands_on_top(server: Running) -> None:
    server.serving.versions.fault = "the promotion changes nothing: 'm@2' is <broken>"
    with closing(sign_in(server, "mia", "manager")) as mia:
        assert "&#39;m@2&#39; is &lt;broken&gt;" in mia.get("/traffic").text
