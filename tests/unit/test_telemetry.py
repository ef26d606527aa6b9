"""Metrics and traces: closed lists of labels, bounded sizes, and nobody waits for them."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

import holdfast_server
from holdfast_server.domain.operation import Durability, Mode
from holdfast_server.domain.reply import Outcome, WarningKind
from holdfast_server.errors import Reason
from holdfast_server.recovery.verdict import Verdict
from holdfast_server.telemetry import names
from holdfast_server.telemetry.metrics import Metrics
from holdfast_server.telemetry.names import (
    Alert,
    Attribute,
    Audited,
    Cause,
    Delivery,
    Hydrated,
    Kind,
    Replayed,
    Snapshotted,
)
from holdfast_server.telemetry.recorder import Recorder
from holdfast_server.telemetry.tracing import (
    ATTRIBUTE_BYTES_MAX,
    LINKS_MAX,
    NO_TRACE,
    TraceContext,
    Tracing,
    open_tracing,
    parse_traceparent,
)
from tests.support.server import eventually

RESOURCE = {"service.name": "holdfast", "holdfast.role": "worker"}
PACKAGE = Path(holdfast_server.__file__).parent
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    found = Metrics(RESOURCE)
    yield found
    found.close()


def report_everything(recorder: Recorder) -> None:
    recorder.decision("Reserve", Outcome.DENIED, Reason.LIMIT_EXCEEDED, Mode.ENFORCE)
    recorder.refused("Commit", Reason.HOLD_NOT_FOUND)
    recorder.warned(WarningKind.LIMIT_THRESHOLD)
    recorder.bypassed("Burn", Cause.KILL)
    recorder.rpc("Reserve", "OK", 0.003)
    recorder.batch(12, 0.001)
    recorder.sessions(2)
    recorder.queued(7)
    recorder.flushed(100, 0.25)
    recorder.outbox(5, 1.5)
    recorder.waited(Durability.REPLICATED, is_reached=False)
    recorder.replicas(1)
    recorder.holds_open(3)
    recorder.sweep_failed(Reason.FENCED, 4)
    recorder.killed(True)
    recorder.policies({Mode.SHADOW: 2})
    recorder.config(41)
    recorder.spool(8, 900)
    recorder.replayed(Replayed.BOOKED)
    recorder.hydrated(Hydrated.WARM_UP, 3)
    recorder.snapshot(Snapshotted.SAVED)
    recorder.evicted(2)
    recorder.audited(Audited.AGREES)
    recorder.drift(2)
    recorder.delivered(Delivery.FAILED)
    recorder.checkpointed()
    recorder.fenced(3)
    recorder.recovered(Verdict.REBUILT, 0.4)
    recorder.alert(Alert.FAIL_OPEN)


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[sample.name, labels] = sample.value
    return found


def test_who_stands_by_shows_nothing_of_what_waits(metrics: Metrics) -> None:
    """An old figure beside the true one would be taken for it."""
    report_everything(metrics)
    metrics.stands_by()
    shown = {name for name, _ in samples(metrics)}
    hidden = {
        "holdfast_outbox_entries",
        "holdfast_outbox_lag_seconds",
        "holdfast_fenced_partitions",
    }
    assert shown.isdisjoint(hidden)
    metrics.outbox(1, 0.5)
    assert samples(metrics)["holdfast_outbox_entries", ""] == 1


def test_every_report_is_on_the_page(metrics: Metrics) -> None:
    report_everything(metrics)
    metrics.flushed(11, 0.5)
    found = samples(metrics)
    denied = "method=Reserve,mode=ENFORCE,outcome=DENIED,reason=LIMIT_EXCEEDED"
    assert found["holdfast_decisions_total", denied] == 1
    assert found["holdfast_refusals_total", "method=Commit,reason=HOLD_NOT_FOUND"] == 1
    assert found["holdfast_bypassed_total", "cause=kill,method=Burn"] == 1
    assert found["holdfast_rpc_duration_seconds_count", "method=Reserve,status=OK"] == 1
    assert found["holdfast_batch_operations_sum", ""] == 12
    assert found["holdfast_batch_duration_seconds_bucket", "le=0.001"] == 1
    assert found["holdfast_queue_operations", ""] == 7
    assert found["holdfast_hydrated_total", "why=warm_up"] == 3
    assert found["holdfast_snapshots_total", "result=saved"] == 1
    assert found["holdfast_evicted_total", ""] == 2
    assert found["holdfast_flush_rows_total", ""] == 111
    assert found["holdfast_flush_lag_seconds", ""] == 0.5
    assert found["holdfast_outbox_entries", ""] == 5
    assert found["holdfast_outbox_lag_seconds", ""] == 1.5
    assert found["holdfast_holds_open", ""] == 3
    assert found["holdfast_sweep_failed_total", "reason=FENCED"] == 4
    assert found["holdfast_kill", ""] == 1
    assert found["holdfast_policies", "mode=SHADOW"] == 2
    assert found["holdfast_config_version", ""] == 41
    assert 0 <= found["holdfast_config_age_seconds", ""] < 60
    assert found["holdfast_spool_records", ""] == 8
    assert found["holdfast_spool_bytes", ""] == 900
    assert found["holdfast_spool_replayed_total", "result=booked"] == 1
    assert found["holdfast_alerts_total", "alert=fail_open"] == 1


def test_a_recovery_that_waits_for_somebody_is_told_from_a_prompt_one(metrics: Metrics) -> None:
    for seconds in (0.24, 6.0, 400.0):
        metrics.recovered(Verdict.KEPT, seconds)
    found = samples(metrics)
    counts = [
        found["holdfast_recovery_duration_seconds_bucket", f"le={bound}"]
        for bound in ("0.2", "0.5", "5.0", "10.0", "300.0", "600.0")
    ]
    assert counts == [0, 1, 1, 2, 2, 3]


def test_every_attribute_of_a_span_is_set_somewhere() -> None:
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    set_ones = {name for text in sources for name in re.findall(r"\.set\(Attribute\.(\w+)", text)}
    assert set_ones == set(Attribute.__members__)


def test_alerts_are_on_the_page_before_they_happen(metrics: Metrics) -> None:
    """Prometheus sees an increase only of what was there before."""
    before = samples(metrics)
    assert {before["holdfast_alerts_total", f"alert={alert}"] for alert in Alert} == {0}
    metrics.alert(Alert.LOSS_REPORT)
    assert samples(metrics)["holdfast_alerts_total", "alert=loss_report"] == 1


def test_every_metric_that_is_named_can_be_reported(metrics: Metrics) -> None:
    report_everything(metrics)
    found = {name for name, _ in samples(metrics)}
    for metric in names.METRICS:
        begin = metric.name.replace(".", "_")
        assert any(name.startswith(begin) for name in found), metric.name
        assert metric.meaning.endswith("."), metric.name
        assert bool(metric.bounds) == (metric.kind is Kind.HISTOGRAM), metric.name


def test_labels_are_those_that_are_named_and_nothing_else(metrics: Metrics) -> None:
    report_everything(metrics)
    allowed = {label for metric in names.METRICS for label in metric.labels} | {"le"}
    page = metrics.page().decode()
    assert set(re.findall(r'[{,](\w+)="', page)) <= allowed


def test_counts_from_many_threads_are_all_counted(metrics: Metrics) -> None:
    def count(_: int) -> None:
        for _ in range(1_000):
            metrics.bypassed("Burn", Cause.KILL)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert samples(metrics)["holdfast_bypassed_total", "cause=kill,method=Burn"] == 8_000


def test_the_recorder_without_a_backend_takes_every_report() -> None:
    report_everything(Recorder())
    ours = {name for name in vars(Recorder) if not name.startswith("_")}
    assert ours <= set(vars(Metrics))


def test_a_collector_that_never_answers_costs_a_call_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is sent in the background gives up sooner, so that its threads end sooner.
    monkeypatch.setattr("holdfast_server.telemetry.tracing.EXPORT_TIMEOUT_MS", 1_000)
    others = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        tracing = open_tracing(RESOURCE, 1.0, endpoint)
        started = time.perf_counter()
        for _ in range(5_000):
            with tracing.rpc(NO_TRACE) as span:
                span.set(Attribute.METHOD, "Reserve")
        tracing.close()
        assert time.perf_counter() - started < 10.0
    # It goes on trying for a while, and draws random numbers that other tests would notice.
    eventually(lambda: set(threading.enumerate()) <= others, "its threads have ended")


# --- Traces -------------------------------------------------------------------------------------


def test_a_traceparent_is_read() -> None:
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-01") == TraceContext(TRACE, SPAN)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01" * 200,
        f"00-{TRACE}-{SPAN}-0\n",
    ],
)
def test_what_is_no_traceparent_is_no_place(header: str | None) -> None:
    assert parse_traceparent(header) is NO_TRACE


@given(st.text(max_size=60))
def test_no_header_raises(header: str) -> None:
    parse_traceparent(header)


class _Kept(InMemorySpanExporter):
    """Keeps spans after its tracing is closed."""

    def shutdown(self) -> None:
        """Nothing is to be stopped."""


def recorded(exporter: _Kept, tracing: Tracing) -> dict[str, ReadableSpan]:
    tracing.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_leads_to_its_batch_and_flush() -> None:
    exporter = _Kept()
    tracing = Tracing(RESOURCE, 1.0, exporter)
    other = TraceContext("f" * 32, "e" * 16)
    with tracing.rpc(TraceContext(TRACE, SPAN)) as rpc:
        rpc.set(Attribute.METHOD, "Reserve")
        with tracing.batch([rpc.place, other]) as batch:
            batch.set(Attribute.OPERATIONS, 2)
    with tracing.flush([rpc.place]):
        pass
    spans = recorded(exporter, tracing)
    contexts = {name: span.get_span_context() for name, span in spans.items()}
    assert all(context is not None for context in contexts.values())
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    assert spans["holdfast.rpc"].parent is not None
    assert f"{spans['holdfast.rpc'].parent.span_id:016x}" == SPAN
    linked = {f"{link.context.trace_id:032x}" for link in spans["holdfast.batch"].links}
    assert linked == {TRACE, other.trace_id}
    assert dict(spans["holdfast.rpc"].attributes or {}) == {"rpc.method": "Reserve"}


def test_the_callers_sampled_flag_does_not_count_and_verdicts_agree() -> None:
    exporter = _Kept()
    tracing, twin = Tracing(RESOURCE, 0.5, exporter), Tracing(RESOURCE, 0.5, _Kept())
    kept, dropped = f"{'a' * 16}{'0' * 16}", f"{'a' * 16}{'f' * 16}"
    for trace_id in (kept, dropped):
        parent = parse_traceparent(f"00-{trace_id}-{SPAN}-01")
        with tracing.rpc(parent) as span:
            # The ledger keeps the caller's trace id whether it is recorded here or not.
            assert span.place.trace_id == trace_id
        assert tracing.sampled(trace_id) == twin.sampled(trace_id) == (trace_id == kept)
    twin.close()
    tracing.close()
    assert len(exporter.get_finished_spans()) == 1


def test_nothing_is_recorded_when_it_is_off() -> None:
    tracing = open_tracing(RESOURCE, 1.0, "")
    place = TraceContext(TRACE, SPAN)
    with tracing.rpc(place) as rpc, tracing.batch([place]) as batch, tracing.rpc(NO_TRACE) as none:
        rpc.set(Attribute.METHOD, "Reserve")
        assert (rpc.place, batch.place, none.place) == (place, NO_TRACE, NO_TRACE)
    tracing.close()


def test_links_attributes_and_errors_are_bounded_and_silent() -> None:
    exporter = _Kept()
    tracing = Tracing(RESOURCE, 1.0, exporter)
    many = [TraceContext(f"{number:032x}", SPAN) for number in range(1, 1_000)]

    def fail() -> None:
        with tracing.batch(many) as span:
            span.set(Attribute.METHOD, "x" * 10_000)
            raise ValueError("password=hunter2")

    with pytest.raises(ValueError, match="hunter2"):
        fail()
    batch = recorded(exporter, tracing)["holdfast.batch"]
    assert len(batch.links) == LINKS_MAX
    assert len(str((batch.attributes or {})["rpc.method"])) == ATTRIBUTE_BYTES_MAX
    assert "hunter2" not in batch.to_json()


class _Dead(SpanExporter):
    """A collector that refuses everything."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing is to be stopped."""


def test_a_dead_collector_raises_nowhere() -> None:
    tracing = Tracing(RESOURCE, 1.0, _Dead())
    for _ in range(5_000):
        with tracing.rpc(NO_TRACE):
            pass
    tracing.close()
