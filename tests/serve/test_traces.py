"""Spans of requests: which there are, how they nest, and that none holds a word that was typed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from plumbline.errors import MissingExtra
from plumbline.serve.traces import Traces, open_traces
from serving import KNOCK, WHO, Running

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed: pip install 'plumbline[traces]'")


class Traced:
    """A server whose spans stay in memory."""

    def __init__(self, server: Running) -> None:
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.server = server
        self.memory = InMemorySpanExporter()
        server.serving.service.traces = Traces(SimpleSpanProcessor(self.memory))

    def spans(self) -> tuple[Any, dict[str, Any]]:
        """The span of the one request, and those below it by name. They are told just after the row is written."""
        self.server.on_loop(settled())
        (whole,) = [span for span in self.memory.get_finished_spans() if span.kind.name == "SERVER"]
        parts = [span for span in self.memory.get_finished_spans() if span is not whole]
        assert all(span.parent.span_id == whole.context.span_id for span in parts)
        return whole, {span.name: span for span in parts}


async def settled() -> None:
    """Runs when what was ready on the loop before has run."""


@pytest.fixture
def traced(serve: Callable[..., Running], script: str) -> Callable[..., Traced]:
    return lambda **more: Traced(serve(script, **more))


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_with_one_for_each_step(traced: Callable[..., Traced], stream: bool) -> None:
    here = traced(rails=("length=1000",))
    assert here.server.ask(stream=stream, user="ann").status_code == 200
    whole, parts = here.spans()
    assert set(parts) == {"guard", "queue", "engine", "guard output", "store"}
    for part in parts.values():
        assert whole.start_time <= part.start_time <= part.end_time <= whole.end_time
    assert parts["guard"].start_time <= parts["queue"].start_time <= parts["engine"].start_time
    assert parts["engine"].end_time <= parts["store"].start_time or stream
    (row,) = here.server.stored()
    assert whole.attributes["gen_ai.response.id"] == row.exchange_id
    assert whole.attributes["gen_ai.usage.output_tokens"] == row.completion_tokens > 0
    assert whole.attributes["plumbline.status"] == "answered" and whole.status.is_ok


def test_no_span_holds_what_was_typed_or_answered_or_by_whom(traced: Callable[..., Traced]) -> None:
    here = traced()
    here.server.ask(user="ann of Austria")
    here.server.ask("A secret that the script does not know", user="ann of Austria")
    here.server.on_loop(settled())
    told = "".join(span.to_json() for span in here.memory.get_finished_spans())
    assert "gen_ai.operation.name" in told
    for word in (KNOCK, WHO, "secret", "Austria"):
        assert word not in told


def test_a_request_that_fails_is_an_error_and_one_from_the_cache_asks_no_engine(traced: Callable[..., Traced]) -> None:
    here = traced()
    here.server.ask("unknown")
    whole, parts = here.spans()
    assert not whole.status.is_ok and whole.status.description == "UserError" and "store" not in parts
    here.memory.clear()
    here.server.ask(temperature=0)
    here.server.on_loop(settled())
    here.memory.clear()
    here.server.ask(temperature=0)
    whole, parts = here.spans()
    assert whole.attributes["plumbline.cached"] is True and {"cache", "store"} <= set(parts) and "engine" not in parts


def test_it_hangs_below_the_callers_own_span(traced: Callable[..., Traced]) -> None:
    here = traced()
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    body = {"messages": [{"role": "user", "content": KNOCK}]}
    here.server.post("/v1/chat/completions", body, traceparent=f"00-{trace}-{span}-01")
    whole, _ = here.spans()
    assert f"{whole.context.trace_id:032x}" == trace and f"{whole.parent.span_id:016x}" == span


def test_a_traceparent_that_is_none_changes_nothing(traced: Callable[..., Traced]) -> None:
    here = traced()
    body = {"messages": [{"role": "user", "content": KNOCK}]}
    assert here.server.post("/v1/chat/completions", body, traceparent="00-zz-zz-01").status_code == 200
    whole, _ = here.spans()
    assert whole.parent is None


def test_nothing_is_imported_where_nobody_asked() -> None:
    # FastAPI looks by itself whether the empty half of OpenTelemetry, its API, is there.
    code = "import sys, plumbline.serve.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "opentelemetry.sdk" not in done.stdout and "opentelemetry.exporter" not in done.stdout


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(MissingExtra, match=r"plumbline\[traces\]"):
        open_traces("http://127.0.0.1:4318")


def test_spans_reach_a_collector(serve: Callable[..., Running], script: str) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the exporter is not installed")
    came: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        server = serve(script, traces=f"http://127.0.0.1:{collector.server_address[1]}")
        server.ask()
        server.stop()  # sends what waits
        collector.shutdown()
    ((path, content),) = came
    assert path == "/v1/traces" and b"gen_ai.response.id" in content
