"""Traces by hand: W3C context in, sampled by trace id, next to free when off.

Whether a trace is kept is a function of its id and our own ratio alone. A caller's `sampled` flag
is not followed, since callers could force any cost on us; and because every process comes to the
same verdict from the id, a batch or flush knows by itself which of its requests are traced.

An entry of the ledger keeps the trace id of its request, so it leads to its spans.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from holdfast_server.telemetry.names import Attribute, SpanName

#: Spans that wait for export; more are dropped, so that a dead collector costs nothing.
SPANS_WAITING_MAX = 2_048
#: Time that one export may take before it is given up.
EXPORT_TIMEOUT_MS = 5_000
#: Time for the last export when the process ends.
CLOSE_SECONDS_MAX = 2.0
#: Links of one span: a batch may have a thousand requests, of which few are traced.
LINKS_MAX = 64
#: Bytes of a text attribute.
ATTRIBUTE_BYTES_MAX = 256
#: Characters of a `traceparent` header.
TRACEPARENT_CHARACTERS = 55

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
#: The ratio is compared with the low 8 bytes of the trace id, as OpenTelemetry does.
_RATIO_RANGE = 1 << 64


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: 32 and 16 hexadecimal digits, both empty where there is none."""

    trace_id: str = ""
    span_id: str = ""


#: No place in any trace.
NO_TRACE = TraceContext()


def parse_traceparent(header: str | None) -> TraceContext:
    """What a W3C `traceparent` header says; `NO_TRACE` for anything that is not a valid one."""
    if header is None or len(header) != TRACEPARENT_CHARACTERS:
        return NO_TRACE
    match = _TRACEPARENT.fullmatch(header)
    if match is None or match[1] == "ff" or not int(match[2], 16) or not int(match[3], 16):
        return NO_TRACE
    return TraceContext(match[2], match[3])


class Span:
    """One span as our code sees it. This one records nothing."""

    def __init__(self, place: TraceContext = NO_TRACE) -> None:
        self.place = place

    def set(self, attribute: Attribute, value: int | str) -> None:
        """Notes an attribute; its value is a number or a name from a closed list."""


class _RecordedSpan(Span):
    def __init__(self, span: trace.Span) -> None:
        place = span.get_span_context()
        super().__init__(TraceContext(f"{place.trace_id:032x}", f"{place.span_id:016x}"))
        self._span = span

    def set(self, attribute: Attribute, value: int | str) -> None:
        short = value[:ATTRIBUTE_BYTES_MAX] if isinstance(value, str) else value
        self._span.set_attribute(attribute, short)


class _Running(AbstractContextManager[Span]):
    """A recorded span from its start to the end of its block."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        return _RecordedSpan(self._span)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        # The error's text is not recorded: it may hold what a caller sent.
        if error is not None:
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


#: What is used where nothing is recorded: shared, so that it costs nothing.
_NOTHING: AbstractContextManager[Span] = nullcontext(Span())


class Tracing:
    """Starts spans. Build it after a fork, and close it."""

    def __init__(
        self, resource: Mapping[str, str], ratio: float, exporter: SpanExporter | None = None
    ) -> None:
        """Records the share `ratio` of all traces; none when there is no `exporter`."""
        self._bound = round(ratio * _RATIO_RANGE) if exporter else 0
        self._provider = TracerProvider(
            sampler=TraceIdRatioBased(ratio),
            resource=Resource.create(dict(resource)),
            shutdown_on_exit=False,
        )
        if exporter is not None:
            processor = BatchSpanProcessor(
                exporter,
                max_queue_size=SPANS_WAITING_MAX,
                export_timeout_millis=EXPORT_TIMEOUT_MS,
            )
            self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("holdfast")

    def is_silent(self, parent: TraceContext) -> bool:
        """Whether a call has no span here: what `rpc` would give is none."""
        return self._bound == 0 or (bool(parent.trace_id) and not self.sampled(parent.trace_id))

    def rpc(self, parent: TraceContext) -> AbstractContextManager[Span]:
        """The span of one call; `parent` comes from the caller and may be `NO_TRACE`.

        The span's place goes into the ledger whether it is recorded or not.
        """
        if self.is_silent(parent):
            return nullcontext(Span(parent)) if parent.trace_id else _NOTHING
        above = _under(parent) if parent.trace_id else otel_context.Context()
        span = self._tracer.start_span(SpanName.RPC, above, trace.SpanKind.SERVER)
        return _Running(span) if span.is_recording() else _NOTHING

    def batch(self, requests: Iterable[TraceContext]) -> AbstractContextManager[Span]:
        """The span of one script call for many requests."""
        return self._linked(SpanName.BATCH, requests)

    def flush(self, requests: Iterable[TraceContext]) -> AbstractContextManager[Span]:
        """The span of one ledger transaction for the entries of many requests."""
        return self._linked(SpanName.FLUSH, requests)

    def sampled(self, trace_id: str) -> bool:
        """Whether a trace is kept: the same verdict in every process with the same ratio."""
        return bool(trace_id) and int(trace_id[16:], 16) < self._bound

    def close(self) -> None:
        """Sends what was not sent yet, for at most `CLOSE_SECONDS_MAX`."""
        # Its own way to stop waits for every retry, half a minute with a dead collector.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS_MAX)

    def _linked(
        self, name: SpanName, requests: Iterable[TraceContext]
    ) -> AbstractContextManager[Span]:
        if self._bound == 0:
            return _NOTHING
        places = dict.fromkeys(place for place in requests if self.sampled(place.trace_id))
        if not places:
            return _NOTHING
        # It serves many traces and can be below one only: it is linked to all of them.
        first = next(iter(places))
        links = [trace.Link(_remote(place)) for place in islice(places, LINKS_MAX)]
        return _Running(self._tracer.start_span(name, _under(first), links=links))


def open_tracing(resource: Mapping[str, str], ratio: float, otlp_endpoint: str) -> Tracing:
    """Tracing that exports by OTLP; without an endpoint nothing is recorded."""
    if not otlp_endpoint or ratio == 0:
        return Tracing(resource, 0.0)
    exporter = OTLPSpanExporter(
        otlp_endpoint,
        insecure=otlp_endpoint.startswith("http://"),
        timeout=EXPORT_TIMEOUT_MS / 1000,
    )
    return Tracing(resource, ratio, exporter)


def _remote(place: TraceContext) -> trace.SpanContext:
    return trace.SpanContext(
        int(place.trace_id, 16),
        int(place.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )


def _under(place: TraceContext) -> otel_context.Context:
    return trace.set_span_in_context(trace.NonRecordingSpan(_remote(place)))
