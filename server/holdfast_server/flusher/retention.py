"""How far the outbox may be trimmed: never above what the ledger has, and not at once.

What a fail-over of Postgres loses is sent again from there. It takes memory of the hot store, 410
bytes for each entry, and a recovery compares all of it with the ledger, up to 100,000 entries in
a second: so it is bounded in number too, which counts where much is written.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from holdfast_server.engine.outbox import Positions


@dataclass(frozen=True, slots=True)
class _Flushed:
    """How far the ledger was when it was looked at, and how many entries that were since before."""

    at_ms: float
    positions: Positions
    entries: int


class Retention:
    """Remembers what was flushed when, and lets go of it later."""

    def __init__(self, retain_ms: int, entries_max: int) -> None:
        """Keeps entries for `retain_ms`, and of all that the ledger has about `entries_max`."""
        self._retain_ms, self._entries_max = retain_ms, entries_max
        self._latest: dict[int, tuple[int, int]] = {}
        self._seqs: dict[int, int] = {}
        self._waiting: deque[_Flushed] = deque()
        self._kept = 0

    def flushed(self, positions: Positions) -> None:
        """The ledger has everything up to these positions."""
        self._latest.update(positions)

    def bring_down(self, recorded: Positions) -> None:
        """The ledger says that it is there. What it had beyond, or in another epoch, is forgotten:
        a fail-over may have lost it.
        """
        self._latest = _within(self._latest, recorded)
        self._waiting = deque(
            replace(each, positions=_within(each.positions, recorded)) for each in self._waiting
        )

    def due(self, now_ms: float) -> Positions:
        """What may be trimmed now; each position is answered once. Call it at a steady pace."""
        if self._latest:
            self._wait(now_ms)
        trimmable: dict[int, tuple[int, int]] = {}
        while self._waiting and self._may_go(self._waiting[0], now_ms):
            flushed = self._waiting.popleft()
            self._kept -= flushed.entries
            trimmable.update(flushed.positions)
        return trimmable

    def put_back(self, positions: Positions) -> None:
        """These could not be trimmed: they are due again, before what was flushed later."""
        if positions:
            self._waiting.appendleft(_Flushed(-self._retain_ms, positions, 0))

    def _wait(self, now_ms: float) -> None:
        seqs = {partition: seq for partition, (_, seq) in self._latest.items()}
        # What was there before this process had looked is counted by nobody, and goes with it.
        entries = sum(max(0, seq - self._seqs.get(each, seq)) for each, seq in seqs.items())
        self._waiting.append(_Flushed(now_ms, self._latest, entries))
        self._kept += entries
        self._seqs |= seqs
        self._latest = {}

    def _may_go(self, flushed: _Flushed, now_ms: float) -> bool:
        return flushed.at_ms + self._retain_ms <= now_ms or self._kept > self._entries_max


def _within(positions: Positions, recorded: Positions) -> dict[int, tuple[int, int]]:
    """Those up to which the ledger is. Of an epoch before, it does not say how far it came."""
    return {
        partition: (epoch, seq)
        for partition, (epoch, seq) in positions.items()
        if epoch == recorded[partition][0] and seq <= recorded[partition][1]
    }
