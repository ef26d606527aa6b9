"""What time it should be in the hot store, going by what it said a moment ago.

The store's clock alone counts, and holds and grants that it ends by mistake stay ended. So each
process counts on from what the store last said, by a clock of the machine that never jumps, and the
scripts are told: a store that is further ahead than any drift explains has jumped, and time goes on
as if it had not (`lua/lib/clock_store.lua`). The clock that people set is asked only whether the
store came to agree with it. A process that has just started believes the store, unless it is ahead
of both the machine's clock and the ledger's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

#: A clock that is further ahead than this has jumped: `CLOCK_JUMP_MS` of the scripts.
JUMP_MS_MAX: Final = 60_000


def steady_ms() -> int:
    """Milliseconds since some time ago, which go on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    """What the clock of this machine shows, right or not."""
    return time.time_ns() // 1_000_000


class StoreClock:
    """Remembers how far the store's clock was from this machine's count."""

    def __init__(
        self, steady: Callable[[], int] = steady_ms, wall: Callable[[], int] = wall_ms
    ) -> None:
        self._steady, self._wall = steady, wall
        self._ahead_ms: int | None = None
        #: The same of another clock, where its owner was asked.
        self._other_ahead_ms: int | None = None
        #: Some server's clock has jumped, as it was last seen.
        self.is_suspect = False

    def hear(self, other_ms: int) -> None:
        """What another clock shows now, such as the ledger's."""
        self._other_ahead_ms = other_ms - self._steady()

    def saw(self, servers_ms: Iterable[int]) -> None:
        """What the clocks of the servers show now."""
        steady, wall = self._steady(), self._wall()
        ahead = [each - steady for each in servers_ms]
        believed = [each for each in ahead if self._is_credible(each, wall - steady)]
        self.is_suspect = len(believed) < len(ahead)
        if believed:
            self._ahead_ms = max(believed)

    def expected_ms(self) -> int:
        """What it should show now; 0 where nobody has said so far."""
        steady = self._steady()
        ahead = self._known_ahead_ms(self._wall() - steady)
        return 0 if ahead is None else ahead + steady

    def _known_ahead_ms(self, wall_ahead_ms: int) -> int | None:
        """How far the store's clock should be ahead: before it was seen, as far as the later of two
        others. One of them may be wrong.
        """
        if self._ahead_ms is not None or self._other_ahead_ms is None:
            return self._ahead_ms
        return max(self._other_ahead_ms, wall_ahead_ms)

    def _is_credible(self, ahead_ms: int, wall_ahead_ms: int) -> bool:
        known = self._known_ahead_ms(wall_ahead_ms)
        has_jumped = known is not None and ahead_ms - known > JUMP_MS_MAX
        return not has_jumped or abs(ahead_ms - wall_ahead_ms) <= JUMP_MS_MAX
