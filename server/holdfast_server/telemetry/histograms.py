"""Histograms in plain numbers: one value costs half a microsecond, where the SDK takes seven.

The SDK has no histogram that is read when somebody asks, as it has counters. So its readers get
ours beside what it collects itself. They are cumulative: what was counted since the process began.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.export import Histogram as Points
from opentelemetry.sdk.metrics.export import Metric as Collected

from holdfast_server.telemetry.names import Metric


@dataclass(slots=True)
class _Series:
    """The values of one set of labels."""

    #: Values up to each bound and above the one before it; the last are above all bounds.
    counts: list[int]
    since_ns: int = field(default_factory=time.time_ns)
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")


class Histogram:
    """One metric of that kind. May be used from any thread."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._bounds = metric.bounds
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], _Series] = {}

    def record(self, value: float, *labels: str) -> None:
        """Counts a value. Labels are in the order of the metric's, and from closed lists."""
        place = bisect_left(self._bounds, value)
        with self._lock:
            series = self._series.get(labels)
            if series is None:
                counts = [0] * (len(self._bounds) + 1)
                series = self._series[labels] = _Series(counts)
            series.counts[place] += 1
            series.total += value
            series.least = min(series.least, value)
            series.most = max(series.most, value)

    def collected(self) -> Collected | None:
        """All that was counted, as the SDK's readers take it; None where there is nothing."""
        now_ns = time.time_ns()
        with self._lock:
            points = [self._point(labels, each, now_ns) for labels, each in self._series.items()]
        metric = self._metric
        data = Points(points, AggregationTemporality.CUMULATIVE)
        return Collected(metric.name, metric.meaning, metric.unit, data) if points else None

    def _point(self, labels: tuple[str, ...], series: _Series, now_ns: int) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=dict(zip(self._metric.labels, labels, strict=True)),
            start_time_unix_nano=series.since_ns,
            time_unix_nano=now_ns,
            count=sum(series.counts),
            sum=series.total,
            bucket_counts=tuple(series.counts),
            explicit_bounds=self._bounds,
            min=series.least,
            max=series.most,
        )


class PageReader(PrometheusMetricReader):
    """Reads for the metrics page, with `ours`: set before anything is collected."""

    ours: Sequence[Histogram] = ()

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        super()._receive_metrics(_joined(metrics_data, self.ours), timeout_millis, **kwargs)


class ExportReader(PeriodicExportingMetricReader):
    """The same for an exporter, again and again."""

    ours: Sequence[Histogram] = ()

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        super()._receive_metrics(_joined(metrics_data, self.ours), timeout_millis, **kwargs)


def _joined(data: MetricsData, ours: Sequence[Histogram]) -> MetricsData:
    """What was collected, with ours in the first scope: that of our counters, never empty."""
    resource, *resources = data.resource_metrics
    scope, *scopes = resource.scope_metrics
    found = [each for each in (one.collected() for one in ours) if each]
    scope = replace(scope, metrics=[*scope.metrics, *found])
    return MetricsData([replace(resource, scope_metrics=[scope, *scopes]), *resources])
