"""How much waits for the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable

from holdfast_server.flusher.events import FlushedBatch, Halt
from holdfast_server.ledger.prepare import Fault
from holdfast_server.telemetry.names import Alert
from holdfast_server.telemetry.recorder import Recorder

#: Besides the quarantine: faults that say that acknowledged work may be gone.
_ALERTS = {Fault.GAP: Alert.LOSS_REPORT, Fault.REGRESSED: Alert.LOSS_REPORT}


class Backlog:
    """How far the ledger is behind, as far as one flusher can tell without reading what waits."""

    def __init__(self, recorder: Recorder, clock: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
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

    def waiting(self, entries: int) -> None:
        """So many entries wait now.

        The oldest is as old as the last batch's was, and the time since then.
        """
        if entries == 0:
            self._moved_at, self._lag_seconds = self._clock(), 0.0
        since = self._clock() - self._moved_at
        self._recorder.outbox(entries, self._lag_seconds + since if entries else 0.0)
