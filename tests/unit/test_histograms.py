"""Histograms: what is counted, and that both kinds of readers get it."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)

from holdfast_server.telemetry.histograms import ExportReader, Histogram
from holdfast_server.telemetry.names import Kind, Metric

METRIC = Metric("test.size", Kind.HISTOGRAM, "By", "Sizes.", ("method",), (1.0, 2.0, 4.0))


class Kept(MetricExporter):
    """An exporter that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[MetricsData] = []

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        self.given.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing is open."""


def points(histogram: Histogram) -> list[HistogramDataPoint]:
    collected = histogram.collected()
    return [] if collected is None else list(collected.data.data_points)  # type: ignore[arg-type]


def test_a_value_counts_below_the_bound_that_it_does_not_exceed() -> None:
    histogram = Histogram(METRIC)
    for value in (0.5, 1.0, 1.5, 4.0, 9.0):
        histogram.record(value, "Reserve")
    (point,) = points(histogram)
    assert point.bucket_counts == (2, 1, 1, 1)
    assert point.explicit_bounds == METRIC.bounds
    assert (point.count, point.sum, point.min, point.max) == (5, 16.0, 0.5, 9.0)


def test_each_set_of_labels_is_counted_by_itself() -> None:
    histogram = Histogram(METRIC)
    histogram.record(1.0, "Reserve")
    histogram.record(3.0, "Commit")
    histogram.record(3.0, "Commit")
    found = {tuple((each.attributes or {}).items()): each.count for each in points(histogram)}
    assert found == {(("method", "Reserve"),): 1, (("method", "Commit"),): 2}


def test_what_was_collected_before_is_counted_again() -> None:
    histogram = Histogram(METRIC)
    assert histogram.collected() is None
    for count in (1, 2):
        histogram.record(1.0, "Reserve")
        assert [each.count for each in points(histogram)] == [count]


def test_values_from_many_threads_are_all_counted() -> None:
    histogram = Histogram(METRIC)

    def count(_: int) -> None:
        for _ in range(1_000):
            histogram.record(1.0, "Burn")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    (point,) = points(histogram)
    assert point.bucket_counts == (8_000, 0, 0, 0)
    assert point.sum == 8_000


def test_an_exporter_gets_them_beside_what_the_sdk_collects() -> None:
    exporter, histogram = Kept(), Histogram(METRIC)
    reader = ExportReader(exporter, math.inf)
    reader.ours = (histogram,)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("test").create_counter("test.count").add(1)
    histogram.record(3.0, "Burn")
    provider.force_flush()
    provider.shutdown()
    (resource,) = exporter.given[0].resource_metrics
    (scope,) = resource.scope_metrics
    assert [each.name for each in scope.metrics] == ["test.count", "test.size"]
    assert (scope.metrics[1].description, scope.metrics[1].unit) == ("Sizes.", "By")
