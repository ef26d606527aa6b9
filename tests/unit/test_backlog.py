"""How far the ledger is behind, as the flusher process tells it."""

from __future__ import annotations

from holdfast_server.app.backlog import LAG_SECONDS_MAX, Backlog
from holdfast_server.flusher.events import FlushedBatch, Halt
from holdfast_server.ledger.prepare import Fault
from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder


class Reports(Recorder):
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, float]] = []
        self.alerts: list[Alert] = []
        self.standbys = 0

    def stands_by(self) -> None:
        self.standbys += 1

    def outbox(self, entries: int, lag_seconds: float) -> None:
        self.waiting.append((entries, lag_seconds))

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)


class Clock:
    """Time that only moves when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lag_is_that_of_the_last_batch_and_the_time_since() -> None:
    reports, clock = Reports(), Clock()
    backlog = Backlog(reports, 10, clock)
    backlog.flushed(FlushedBatch(entries=5, partitions=1, lag_ms=250, seconds=0.01))
    clock.now += 2.0
    backlog.waiting(3)
    backlog.waiting(0)
    clock.now += 60.0
    backlog.waiting(0)
    assert reports.waiting == [(3, 2.25), (0, 0.0), (0, 0.0)]
    assert reports.alerts == []


def test_alert_is_raised_once_for_each_time_the_ledger_falls_behind() -> None:
    reports, clock = Reports(), Clock()
    backlog = Backlog(reports, 10, clock)
    for entries in (11, 12, 10, 11):
        backlog.waiting(entries)
    assert reports.alerts == [Alert.FLUSH_LAG] * 2
    backlog.waiting(0)
    clock.now += LAG_SECONDS_MAX + 1
    backlog.waiting(1)
    assert reports.alerts == [Alert.FLUSH_LAG] * 3


def test_lost_work_is_said_to_be_lost() -> None:
    reports = Reports()
    backlog = Backlog(reports, 10)
    backlog.halted(Halt(1, 1, 7, Fault.INVALID, "…"))
    backlog.halted(Halt(2, 1, 8, Fault.GAP, "…"))
    assert reports.alerts == [Alert.QUARANTINE, Alert.QUARANTINE, Alert.LOSS_REPORT]


def test_a_clock_that_jumped_is_said_once() -> None:
    reports = Reports()
    backlog = Backlog(reports, 10)
    for is_suspect in (False, True, True, False, True):
        backlog.timed(is_suspect=is_suspect)
    assert reports.alerts == [Alert.CLOCK_SUSPECT] * 2


def test_who_stands_by_knows_nothing_and_begins_anew() -> None:
    reports, clock = Reports(), Clock()
    backlog = Backlog(reports, 10, clock)
    backlog.reached(0, 1, 7)
    backlog.flushed(FlushedBatch(entries=5, partitions=1, lag_ms=250, seconds=0.01))
    backlog.stand_by()
    assert (backlog.positions, reports.standbys) == ({}, 1)
    clock.now += 2 * LAG_SECONDS_MAX
    backlog.stand_by()
    backlog.waiting(3)
    assert reports.waiting == [(3, 0.0)]
    assert reports.alerts == []
