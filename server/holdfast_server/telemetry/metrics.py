"""Metrics with the OpenTelemetry SDK: a Prometheus page, and OTLP where an endpoint is set.

Figures are kept in plain dictionaries and read when somebody asks: one count costs well under a
microsecond, where a call into the SDK costs several.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, StrEnum

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from holdfast_server.telemetry import names
from holdfast_server.telemetry.histograms import ExportReader, Histogram, PageReader
from holdfast_server.telemetry.names import (
    Alert,
    Audited,
    Cause,
    Delivery,
    Hydrated,
    Kind,
    Metric,
    Replayed,
    Snapshotted,
)
from holdfast_server.telemetry.recorder import Recorder

#: Time between two exports by OTLP.
EXPORT_INTERVAL_MS = 10_000
#: Time that one export may take before it is given up.
EXPORT_TIMEOUT_MS = 5_000
#: Time for the last export when the process ends.
CLOSE_TIMEOUT_MS = 2_000

_Values = dict[tuple[str, ...], float]
_Callback = Callable[[CallbackOptions], Iterable[Observation]]


class Metrics(Recorder):
    """The figures of one process. Build it after a fork, and close it."""

    def __init__(self, resource: Mapping[str, str], otlp_endpoint: str = "") -> None:
        """`resource` says which process this is; `otlp_endpoint` is a URL, or empty for none."""
        self._registry = CollectorRegistry()
        self._rpc_duration = Histogram(names.RPC_DURATION)
        self._recovery_duration = Histogram(names.RECOVERY_DURATION)
        self._batch_operations = Histogram(names.BATCH_OPERATIONS)
        self._batch_duration = Histogram(names.BATCH_DURATION)
        readers: list[PageReader | ExportReader] = [_page_reader(self._registry)]
        if otlp_endpoint:
            readers.append(_otlp_reader(otlp_endpoint))
        for reader in readers:
            reader.ours = (
                self._rpc_duration,
                self._recovery_duration,
                self._batch_operations,
                self._batch_duration,
            )
        self._provider = MeterProvider(
            readers, Resource.create(dict(resource)), shutdown_on_exit=False
        )
        self._lock = threading.Lock()
        self._values: dict[str, _Values] = {metric.name: {} for metric in names.METRICS}
        # A count that begins with its first event is not seen to increase by that.
        self._values[names.ALERTS.name] = {(alert,): 0 for alert in Alert}
        # Ages are taken when somebody asks: a task that hangs would leave a young one behind.
        self._since = {names.CONFIG_AGE.name: time.monotonic()}
        self._create(self._provider.get_meter("holdfast"))

    def page(self) -> bytes:
        """All figures in the Prometheus text format."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Sends what was not sent yet, for at most `CLOSE_TIMEOUT_MS`."""
        self._provider.shutdown(timeout_millis=CLOSE_TIMEOUT_MS)

    def decision(
        self, method: str, outcome: Enum, reason: Enum, mode: Enum, operations: int = 1
    ) -> None:
        self._add(names.DECISIONS, operations, method, outcome.name, reason.name, mode.name)

    def refused(self, method: str, reason: Enum) -> None:
        self._add(names.REFUSALS, 1, method, reason.name)

    def warned(self, kind: Enum) -> None:
        self._add(names.WARNINGS, 1, kind.name)

    def bypassed(self, method: str, cause: Cause) -> None:
        self._add(names.BYPASSED, 1, method, cause)

    def rpc(self, method: str, status: str, seconds: float) -> None:
        self._rpc_duration.record(seconds, method, status)

    def batch(self, operations: int, seconds: float) -> None:
        self._batch_operations.record(operations)
        self._batch_duration.record(seconds)

    def sessions(self, streams: int) -> None:
        self._set(names.SESSIONS, streams)

    def queued(self, operations: int) -> None:
        self._set(names.QUEUE_OPERATIONS, operations)

    def flushed(self, rows: int, lag_seconds: float) -> None:
        self._add(names.FLUSH_ROWS, rows)
        self._set(names.FLUSH_LAG, lag_seconds)

    def outbox(self, entries: int, lag_seconds: float) -> None:
        self._set(names.OUTBOX_ENTRIES, entries)
        self._set(names.OUTBOX_LAG, lag_seconds)

    def stands_by(self) -> None:
        for metric in (names.OUTBOX_ENTRIES, names.OUTBOX_LAG, names.FENCED_PARTITIONS):
            self._values[metric.name] = {}

    def waited(self, wanted: Enum, *, is_reached: bool) -> None:
        self._add(names.DURABILITY_WAITS, 1, wanted.name, str(is_reached).lower())

    def replicas(self, keeping_up: int) -> None:
        self._set(names.REPLICAS, keeping_up)

    def holds_open(self, holds: int) -> None:
        self._set(names.HOLDS_OPEN, holds)

    def killed(self, on: bool) -> None:
        self._set(names.KILL_SWITCH, int(on))

    def policies(self, by_mode: Mapping[Enum, int]) -> None:
        values: _Values = {(mode.name,): count for mode, count in by_mode.items()}
        self._values[names.POLICIES.name] = values

    def config(self, version: int) -> None:
        self._set(names.CONFIG_VERSION, version)
        self._since[names.CONFIG_AGE.name] = time.monotonic()

    def spool(self, records: int, size_bytes: int) -> None:
        self._set(names.SPOOL_RECORDS, records)
        self._set(names.SPOOL_BYTES, size_bytes)

    def replayed(self, result: Replayed) -> None:
        self._add(names.REPLAYED, 1, result)

    def sweep_failed(self, reason: Enum, trees: int) -> None:
        self._add(names.SWEEP_FAILED, trees, reason.name)

    def hydrated(self, why: Hydrated, trees: int) -> None:
        self._add(names.HYDRATED, trees, why)

    def snapshot(self, result: Snapshotted) -> None:
        self._add(names.SNAPSHOTS, 1, result)

    def evicted(self, trees: int) -> None:
        self._add(names.EVICTED, trees)

    def audited(self, result: Audited) -> None:
        self._add(names.AUDITED, 1, result)

    def drift(self, figures: int) -> None:
        self._set(names.AUDIT_DRIFT, figures)

    def delivered(self, result: Delivery) -> None:
        self._add(names.CHECKPOINTS, 1, result)

    def checkpointed(self) -> None:
        self._since[names.CHECKPOINT_AGE.name] = time.monotonic()

    def fenced(self, partitions: int) -> None:
        self._set(names.FENCED_PARTITIONS, partitions)

    def recovered(self, verdict: StrEnum, seconds: float) -> None:
        self._add(names.RECOVERIES, 1, verdict)
        self._recovery_duration.record(seconds)

    def alert(self, alert: Alert) -> None:
        self._add(names.ALERTS, 1, alert)

    def _add(self, metric: Metric, count: float, *labels: str) -> None:
        values = self._values[metric.name]
        with self._lock:
            values[labels] = values.get(labels, 0) + count

    def _set(self, metric: Metric, value: float) -> None:
        self._values[metric.name][()] = value

    def _create(self, meter: Meter) -> None:
        for metric in names.METRICS:
            callbacks = [self._reader_of(metric)]
            if metric.kind is Kind.COUNTER:
                meter.create_observable_counter(metric.name, callbacks, metric.unit, metric.meaning)
            elif metric.kind is Kind.GAUGE:
                meter.create_observable_gauge(metric.name, callbacks, metric.unit, metric.meaning)

    def _reader_of(self, metric: Metric) -> _Callback:
        def read(_: CallbackOptions) -> list[Observation]:
            if metric.name in self._since:
                self._set(metric, time.monotonic() - self._since[metric.name])
            with self._lock:
                values = dict(self._values[metric.name])
            return [
                Observation(value, dict(zip(metric.labels, labels, strict=True)))
                for labels, value in values.items()
            ]

        return read


def _page_reader(registry: CollectorRegistry) -> PageReader:
    return PageReader(disable_target_info=True, scope_info_enabled=False, registry=registry)


def _otlp_reader(endpoint: str) -> ExportReader:
    exporter = OTLPMetricExporter(
        endpoint, insecure=endpoint.startswith("http://"), timeout=EXPORT_TIMEOUT_MS / 1000
    )
    return ExportReader(exporter, EXPORT_INTERVAL_MS, EXPORT_TIMEOUT_MS)
