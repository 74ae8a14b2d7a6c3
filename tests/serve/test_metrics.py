"""What Prometheus reads, and what `/health` says."""

from __future__ import annotations

import re
from collections.abc import Callable

from plumbline.serve.metrics import Metrics
from serving import Running


def test_counts_times_and_gauges_in_prometheus_format() -> None:
    metrics = Metrics()
    metrics.add("plumbline_feedback_total", kind='a "b"\n\\')
    metrics.add("plumbline_feedback_total", 2, kind="up")
    for seconds in (0.001, 0.005, 0.02, 1000.0):
        metrics.observe("plumbline_answer_seconds", seconds)
    metrics.watch("plumbline_waiting", "Those who wait.", lambda: 3)
    lines = metrics.text().splitlines()
    assert 'plumbline_feedback_total{kind="a \\"b\\"\\n\\\\"} 1' in lines
    assert 'plumbline_feedback_total{kind="up"} 2' in lines
    assert 'plumbline_answer_seconds_bucket{le="0.005"} 2' in lines  # a bound belongs to its bucket
    assert 'plumbline_answer_seconds_bucket{le="0.025"} 3' in lines
    assert 'plumbline_answer_seconds_bucket{le="300.0"} 3' in lines
    assert 'plumbline_answer_seconds_bucket{le="+Inf"} 4' in lines
    assert "plumbline_answer_seconds_count 4" in lines and "plumbline_waiting 3" in lines
    assert all(
        re.fullmatch(r'# (HELP|TYPE) .+|[a-z_]+(\{[a-z]+="([^"\\]|\\.)*"\})? [-+.\deinf]+', line) for line in lines
    )


def test_a_server_counts_what_it_did(server: Running) -> None:
    server.ask()
    answered = server.ask(stream=True, user="ann")
    server.post("/v1/feedback", {"id": answered.headers["X-Exchange-Id"], "thumb": "up"})
    text = server.http.get(f"{server.address}/metrics").text
    assert 'plumbline_requests_total{kind="chat",status="answered"' in text
    assert re.search(r'plumbline_tokens_total\{kind="completion"\} \d+', text)
    assert 'plumbline_feedback_total{kind="thumb"} 1' in text
    assert "plumbline_first_piece_seconds_count 1" in text and "plumbline_answer_seconds_count 2" in text
    assert "plumbline_journal_rows 2" in text
    health = server.http.get(f"{server.address}/health").json()
    assert (health["status"], health["models"], health["faults"]) == ("ok", [server.settings.model], [])


def test_where_keys_are_needed_nobody_without_one_reads_names_and_paths(
    serve: Callable[..., Running], script: str
) -> None:
    server = serve(script, keys=True)
    server.store.add_key("shop")
    assert server.http.get(f"{server.address}/health").json()["status"] == "ok"
    server.serving.versions.fault = "the promotion changes nothing: '/srv/ann/models' is damaged"
    health = server.http.get(f"{server.address}/health")
    assert health.json()["status"] == "degraded"
    assert "/srv/ann" not in health.text and "script" not in health.text
