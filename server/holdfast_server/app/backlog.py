"""How much waits for the ledger, and whether its times can be believed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from holdfast_server.flusher.events import FlushedBatch, Halt
from holdfast_server.ledger.prepare import Fault
from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

#: An entry that waits longer than this is an alert.
LAG_SECONDS_MAX = 30.0

#: Besides the quarantine: faults that say that acknowledged work may be gone.
_ALERTS = {Fault.GAP: Alert.LOSS_REPORT, Fault.REGRESSED: Alert.LOSS_REPORT}


class Backlog:
    """How far the ledger is behind, as far as one flusher can tell without reading what waits."""

    def __init__(
        self,
        recorder: Recorder,
        entries_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """More than `entries_max` that wait, or too old ones, are an alert."""
        self._recorder = recorder
        self._entries_max = entries_max
        self._behind = False
        self._is_suspect = False
        self._clock = clock
        self._moved_at = clock()
        self._lag_seconds = 0.0
        #: Epoch and sequence number up to which the ledger is complete, per partition. A flusher
        #: that stands by knows none, and so reports nothing.
        self.positions: dict[int, tuple[int, int]] = {}

    def reached(self, partition: int, epoch: int, seq: int) -> None:
        """The ledger is complete up to there."""
        self.positions[partition] = epoch, seq

    def flushed(self, batch: FlushedBatch) -> None:
        """Entries reached the ledger."""
        self._moved_at = self._clock()
        self._lag_seconds = batch.lag_ms / 1000
        self._recorder.flushed(batch.entries, self._lag_seconds)

    def halted(self, halt: Halt) -> None:
        """A partition cannot go on."""
        self._recorder.alert(Alert.QUARANTINE)
        if halt.fault in _ALERTS:
            self._recorder.alert(_ALERTS[halt.fault])

    def stand_by(self) -> None:
        """Another flusher leads: how far the ledger is, only that one knows."""
        self.positions.clear()
        self._behind = False
        self._moved_at, self._lag_seconds = self._clock(), 0.0
        self._recorder.stands_by()

    def waiting(self, entries: int) -> None:
        """So many entries wait now.

        The oldest is as old as the last batch's was, and the time since then.
        """
        if entries == 0:
            self._moved_at, self._lag_seconds = self._clock(), 0.0
        lag_seconds = self._lag_seconds + self._clock() - self._moved_at if entries else 0.0
        self._recorder.outbox(entries, lag_seconds)
        self._judge(entries > self._entries_max or lag_seconds > LAG_SECONDS_MAX, entries)

    def timed(self, *, is_suspect: bool) -> None:
        """The hot store's clock has jumped ahead, which is an alert, or shows what it should."""
        if is_suspect and not self._is_suspect:
            self._recorder.alert(Alert.CLOCK_SUSPECT)
            log.error("the hot store's clock has jumped ahead: it counts no more; set it right")
        self._is_suspect = is_suspect

    def _judge(self, behind: bool, entries: int) -> None:
        """Raises an alert once for each time that the ledger falls behind."""
        if behind and not self._behind:
            self._recorder.alert(Alert.FLUSH_LAG)
            log.error("the ledger is behind", extra={"facts": {"entries": entries}})
        self._behind = behind
