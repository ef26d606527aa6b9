"""How far the outbox may be trimmed: never above what the ledger has, and not at once."""

from __future__ import annotations

from collections import deque

from holdfast_server.engine.outbox import Positions


class Retention:
    """Remembers what was flushed when, and lets go of it `retain_ms` later."""

    def __init__(self, retain_ms: int) -> None:
        self._retain_ms = retain_ms
        self._latest: dict[int, tuple[int, int]] = {}
        self._waiting: deque[tuple[float, Positions]] = deque()

    def flushed(self, positions: Positions) -> None:
        """The ledger has everything up to these positions."""
        self._latest.update(positions)

    def due(self, now_ms: float) -> Positions:
        """What may be trimmed now; each position is answered once. Call it at a steady pace."""
        if self._latest:
            self._waiting.append((now_ms, self._latest))
            self._latest = {}
        trimmable: dict[int, tuple[int, int]] = {}
        while self._waiting and self._waiting[0][0] + self._retain_ms <= now_ms:
            trimmable.update(self._waiting.popleft()[1])
        return trimmable

    def put_back(self, positions: Positions) -> None:
        """These could not be trimmed: they are due again, before what was flushed later."""
        if positions:
            self._waiting.appendleft((-self._retain_ms, positions))
