"""What the parts of Holdfast report, in plain calls. This one forgets everything."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum

from holdfast_server.telemetry.names import (
    Alert,
    Audited,
    Cause,
    Delivery,
    Hydrated,
    Replayed,
    Snapshotted,
)


class Recorder:
    """Takes reports and does nothing with them: for commands and tests, and the base of `Metrics`.

    Every method returns at once, never raises, and may be called from any thread. Labels are enums,
    so that no text of a caller becomes one; `method` is the name of an operation or RPC of ours.
    """

    def decision(
        self, method: str, outcome: Enum, reason: Enum, mode: Enum, operations: int = 1
    ) -> None:
        """So many operations were decided alike."""

    def refused(self, method: str, reason: Enum) -> None:
        """An operation was answered with an error."""

    def warned(self, kind: Enum) -> None:
        """An answer warns of something."""

    def bypassed(self, method: str, cause: Cause) -> None:
        """An operation passed without a decision."""

    def rpc(self, method: str, status: str, seconds: float) -> None:
        """A call was answered with a gRPC status, by its name."""

    def sessions(self, streams: int) -> None:
        """So many Session streams are open."""

    def batch(self, operations: int, seconds: float) -> None:
        """A script call came back."""

    def queued(self, operations: int) -> None:
        """So many operations wait for a batch."""

    def flushed(self, rows: int, lag_seconds: float) -> None:
        """Rows were committed to the ledger; the oldest was so old."""

    def outbox(self, entries: int, lag_seconds: float) -> None:
        """So many entries wait for the ledger; the oldest is so old."""

    def stands_by(self) -> None:
        """Another process flushes: only that one knows how much waits, and what for recovery."""

    def waited(self, wanted: Enum, *, is_reached: bool) -> None:
        """Somebody waited for a durability, and it was reached in time or not."""

    def replicas(self, keeping_up: int) -> None:
        """So many replicas keep up with the hot store."""

    def holds_open(self, holds: int) -> None:
        """So many holds are open."""

    def sweep_failed(self, reason: Enum, trees: int) -> None:
        """What is due in so many trees could not be ended."""

    def hydrated(self, why: Hydrated, trees: int) -> None:
        """So many trees were brought from the ledger into the hot store."""

    def snapshot(self, result: Snapshotted) -> None:
        """A snapshot of a tree was kept or used, or was not."""

    def evicted(self, trees: int) -> None:
        """So many trees that nobody used were removed from the hot store."""

    def killed(self, on: bool) -> None:
        """The kill switch is on or off."""

    def policies(self, by_mode: Mapping[Enum, int]) -> None:
        """So many policies count, by mode."""

    def config(self, version: int) -> None:
        """The newest change that is applied was confirmed just now."""

    def spool(self, records: int, size_bytes: int) -> None:
        """So much bypassed work waits to be booked."""

    def replayed(self, result: Replayed) -> None:
        """A record left the spool."""

    def audited(self, result: Audited) -> None:
        """A tree was compared with the ledger."""

    def drift(self, figures: int) -> None:
        """So many figures are known not to be the same in both stores."""

    def delivered(self, result: Delivery) -> None:
        """A checkpoint was brought to its place, or was not."""

    def checkpointed(self) -> None:
        """All that the ledger has is vouched for outside of it, just now."""

    def fenced(self, partitions: int) -> None:
        """So many partitions wait for recovery."""

    def recovered(self, verdict: StrEnum, seconds: float) -> None:
        """A partition was recovered, and this is what became of it."""

    def alert(self, alert: Alert) -> None:
        """Something happened that a person must look at."""
