"""Who waits for which entries, partition by partition."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

#: Epoch, sequence number, and who waits for them.
Waiter = tuple[int, int, "asyncio.Future[bool]"]

#: What is known of an epoch and sequence number: yes, no, or None for not yet.
Judge = Callable[[int, int], bool | None]


class Waiters:
    """Callers that wait until something is true of an entry and of all entries before it."""

    def __init__(self) -> None:
        self._of: defaultdict[int, list[Waiter]] = defaultdict(list)

    @property
    def partitions(self) -> list[int]:
        """The partitions that somebody waits for."""
        return list(self._of)

    async def wait(self, partition: int, epoch: int, seq: int, timeout_s: float) -> bool:
        """Whether it became true of an entry within the time."""
        loop = asyncio.get_running_loop()
        reached: asyncio.Future[bool] = loop.create_future()
        self._of[partition].append((epoch, seq, reached))
        # A timer of its own costs a tenth of what `asyncio.wait_for` does.
        timer = loop.call_later(timeout_s, _give_up, reached)
        try:
            return await reached
        finally:
            timer.cancel()
            self._forget(partition)

    def tell(self, partition: int, judge: Judge) -> None:
        """Tells those who wait for a partition what is known of their entries."""
        for epoch, seq, reached in self._of.get(partition, ()):
            known = judge(epoch, seq)
            if known is not None and not reached.done():
                reached.set_result(known)
        self._forget(partition)

    def _forget(self, partition: int) -> None:
        """Those who have been told, or have stopped waiting."""
        left = [waiter for waiter in self._of.get(partition, ()) if not waiter[2].done()]
        if left:
            self._of[partition] = left
        else:
            self._of.pop(partition, None)


def _give_up(reached: asyncio.Future[bool]) -> None:
    if not reached.done():
        reached.set_result(False)
