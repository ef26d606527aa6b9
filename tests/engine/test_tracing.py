"""One trace from the request over the script call to the ledger transaction."""

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Caller
from holdfast_server.telemetry.names import Attribute, SpanName
from holdfast_server.telemetry.tracing import NO_TRACE, Tracing
from tests.support.both import both_stores


def linked_spans(
    spans: tuple[ReadableSpan, ...], name: SpanName, span_id: str
) -> list[ReadableSpan]:
    """The spans of that name that are linked to a span."""
    wanted = int(span_id, 16)
    return [
        span
        for span in spans
        if span.name == name and any(link.context.span_id == wanted for link in span.links)
    ]


async def test_script_and_flush_are_linked_to_the_request(
    valkey_url: str, migrated_postgres_url: str
) -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing({"service.name": "holdfast"}, 1.0, exporter)
    async with both_stores(valkey_url, migrated_postgres_url, tracing) as both:
        await both.account("a")
        await both.grant("a", 10)
        with tracing.rpc(NO_TRACE) as span:
            place = span.place
            caller = Caller("tester", place.trace_id, place.span_id)
            burn = op.Burn("t", "a", (op.Line("ai", 1),), both.key())
            (answer,) = await both.operations.submit(caller, [burn])
        await both.flushed()
        entries = await both.ledger.list_entries("t", "a", limit=1)
    tracing.close()

    spans = exporter.get_finished_spans()
    batches = linked_spans(spans, SpanName.BATCH, place.span_id)
    assert batches
    assert all(dict(batch.attributes or {}) == {Attribute.OPERATIONS: 1} for batch in batches)
    (flush,) = linked_spans(spans, SpanName.FLUSH, place.span_id)
    # What was there before may be written with it.
    assert 1 <= int(str((flush.attributes or {})[Attribute.ROWS])) <= 3
    assert entries[0].entry.context.trace_id == place.trace_id
    assert entries[0].entry.transaction_id == answer.applied.transaction_id  # type: ignore[union-attr]
