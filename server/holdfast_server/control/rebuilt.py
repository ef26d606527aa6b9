"""Which partitions were rebuilt, so that there is something to be done about their trees."""

from __future__ import annotations

import time
from typing import Final, Protocol

from holdfast_server.domain.epoch import FIRST
from holdfast_server.engine.keys import Keys
from holdfast_server.ledger.due import Rebuilt

#: Seconds after which a partition is tried again with which nothing could be done.
AGAIN_SECONDS: Final = 10.0


class Rebuilds(Protocol):
    """Knows what was rebuilt."""

    async def rebuilt(self) -> list[Rebuilt]:
        """See `Dues.rebuilt`."""
        ...


class RebuiltPartitions:
    """What one process still has to do about partitions that were rebuilt.

    A partition that is rebuilt once more, in another home, is to be done again.
    """

    def __init__(self, ledger: Rebuilds, keys: Keys) -> None:
        self._ledger, self._keys = ledger, keys
        #: The homes of partitions that are done.
        self._done = dict[int, int]()
        #: When partitions are tried again that failed.
        self._resting = dict[int, float]()

    @property
    def are_done(self) -> bool:
        """Whether nothing is left to be done, as far as is known here."""
        return not self._undone()

    async def due(self) -> list[Rebuilt]:
        """Those that are not done, and do not rest. Raises LEDGER_UNAVAILABLE."""
        now = time.monotonic()
        wanted = {
            partition: home
            for partition, home in self._undone().items()
            if now >= self._resting.get(partition, 0.0)
        }
        found = await self._ledger.rebuilt() if wanted else []
        return [each for each in found if wanted.get(each.partition) == each.home]

    def finish(self, rebuilt: Rebuilt) -> None:
        """It is done."""
        self._done[rebuilt.partition] = rebuilt.home

    def rest(self, rebuilt: Rebuilt) -> None:
        """It is left alone for a while."""
        self._resting[rebuilt.partition] = time.monotonic() + AGAIN_SECONDS

    def _undone(self) -> dict[int, int]:
        epoch, home = self._keys.epoch, self._keys.epochs.home
        homes = {each: home(each, epoch(each)) for each in range(self._keys.partitions)}
        return {
            partition: home
            for partition, home in homes.items()
            if home > self._done.get(partition, FIRST.home)
        }
