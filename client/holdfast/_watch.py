"""One timer for the deadlines of all operations: most are answered long before theirs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable

from holdfast._stream import Asked

#: How much later than its deadline an operation may end, so that many deadlines share one look.
LATENESS_S = 0.01


class Watch:
    """Ends operations whose time is over. For one event loop."""

    def __init__(self, waiting: Callable[[], Iterable[Asked]]) -> None:
        """`waiting` answers all operations that have no answer yet."""
        self._waiting = waiting
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at_s = math.inf

    def add(self, deadline_s: float) -> None:
        """Looks at the operations at this time at the latest, by the monotone clock."""
        if deadline_s >= self._looks_at_s:
            return
        self.cancel()
        self._looks_at_s = deadline_s
        wait_s = max(0.0, deadline_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def cancel(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now_s, self._looks_at_s = time.monotonic(), math.inf
        next_s = math.inf
        for asked in list(self._waiting()):
            if asked.deadline_s <= now_s:
                asked.expire()
            else:
                next_s = min(next_s, asked.deadline_s)
        if next_s < math.inf:
            self.add(max(next_s, now_s + LATENESS_S))
