"""Requests as spans of OpenTelemetry: one for each, with one below it for each of its steps, told to a collector.

    traces = "http://127.0.0.1:4318"      in plumb.toml

Every request notes when its steps begin and end (`Draft.step`), which costs a look at the clock. What makes spans of
that is here and imports OpenTelemetry only where it is asked for. No span holds a word that anybody typed or was
answered, and no user's name.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from plumbline import __version__
from plumbline.errors import MissingExtra
from plumbline.serve.draft import Draft

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

OPERATIONS = {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"}
"""Our kinds of requests as the conventions for generative models call them."""


class Traces:
    """Makes spans of requests that have ended, and hands them to a processor."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        about = Resource.create({"service.name": "plumbline", "service.version": __version__})
        self._provider = TracerProvider(resource=about)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("plumbline.serve", __version__)

    def tell(self, draft: Draft) -> None:
        """The spans of a request, below the caller's own where that said which it is (`traceparent`)."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        above = TraceContextTextMapPropagator().extract({"traceparent": draft.caller.traceparent})
        operation = OPERATIONS[draft.asked.kind]
        whole = self._tracer.start_span(
            f"{operation} {draft.version}".rstrip(),
            context=above,
            kind=SpanKind.SERVER,
            start_time=draft.began,
            attributes=attributes(draft, operation),
        )
        for name, (begin, end) in draft.steps.items():
            self._tracer.start_span(name, context=set_span_in_context(whole), start_time=begin).end(end)
        if draft.status in ("failed", "blocked"):
            # What a fault says may repeat what was typed; its kind does not.
            whole.set_status(Status(StatusCode.ERROR, (draft.fault or "").partition(":")[0]))
        whole.end(time.time_ns())

    def close(self) -> None:
        """Sends what waits."""
        self._provider.shutdown()


def open_traces(collector: str) -> Traces:
    """Spans for the collector at this address, sent from a thread of their own."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise MissingExtra("traces", f"telling {collector!r} of requests") from None
    return Traces(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector.rstrip("/") + "/v1/traces")))


def attributes(draft: Draft, operation: str) -> dict[str, Any]:
    """Numbers and names of ours."""
    asked = draft.asked
    told = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "plumbline",
        "gen_ai.response.model": draft.version,
        "gen_ai.response.id": draft.exchange_id,
        "gen_ai.response.finish_reasons": [each.finish_reason for each in draft.answers],
        "gen_ai.request.temperature": asked.sampling.temperature,
        "gen_ai.request.max_tokens": asked.sampling.max_new_tokens,
        "gen_ai.usage.input_tokens": draft.prompt_tokens,
        "gen_ai.usage.output_tokens": draft.completion_tokens,
        "plumbline.tenant": draft.caller.tenant,
        "plumbline.status": draft.status,
        "plumbline.cached": draft.cached is not None,
        "plumbline.streamed": asked.stream,
    }
    return {name: value for name, value in told.items() if value not in ("", [])}
