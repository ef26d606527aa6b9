"""Waits until the ledger has an entry: what Durability.LEDGER means.

The flusher publishes, per partition, the last sequence number that Postgres has committed. One task
asks for the partitions somebody waits for, and only while somebody does.
"""

from __future__ import annotations

import asyncio

from holdfast_server.engine.keys import FENCE_FIELD, FLUSHED_FIELD, Keys
from holdfast_server.engine.store import Store
from holdfast_server.engine.waiters import Waiters
from holdfast_server.errors import HoldfastError

#: How often the watermarks are asked for while somebody waits.
POLL_INTERVAL_S = 0.005
#: How long to wait after the store did not answer.
STORE_AWAY_INTERVAL_S = 0.25


class Watermarks:
    """Knows how far the ledger is, for those who wait for it."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys
        self._waiters = Waiters()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, partition: int, epoch: int, seq: int, timeout_s: float) -> bool:
        """Whether the ledger had the entry within the time.

        What comes in a later epoch says nothing about this one: its sequence numbers may be used
        again. An epoch that has ended is in the ledger up to its end, and not beyond.
        """
        ended = self._keys.epochs.end(partition, epoch)
        if ended is not None:
            return seq <= ended
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        return await self._waiters.wait(partition, epoch, seq, timeout_s)

    async def _poll(self) -> None:
        while partitions := self._waiters.partitions:
            try:
                await self._look(partitions)
                await asyncio.sleep(POLL_INTERVAL_S)
            except HoldfastError:
                await asyncio.sleep(STORE_AWAY_INTERVAL_S)

    async def _look(self, partitions: list[int]) -> None:
        commands = [
            (
                "HMGET",
                self._keys.state(partition, self._keys.epoch(partition)),
                FLUSHED_FIELD,
                FENCE_FIELD,
            )
            for partition in partitions
        ]
        answers = await self._store.read_all(commands)
        for partition, (flushed, fence) in zip(partitions, answers, strict=True):
            epoch = int(fence.split()[0]) if fence else self._keys.epoch(partition)
            judge = self._keys.epochs.judge(partition, epoch, int(flushed or 0))
            self._waiters.tell(partition, judge)
