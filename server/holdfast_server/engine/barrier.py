"""Waits until entries are on the hot store's disk or replicas: FSYNCED and REPLICATED.

Each primary has one connection for each level. While somebody waits, it leaves a mark and reads
how far the partitions are that are waited for (lua/barrier.lua), and then waits, on the same
connection, until enough disks or replicas have the mark. A store's history is one stream, so what
has the mark has everything before it. While one such round runs, the next gathers: there is no
timer.

The connection of a request is of no use for that. WAIT answers at once where its own connection has
written nothing: after a reconnect, and after a repeated request, which only reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio.connection import Connection

from holdfast_server.background import cancel
from holdfast_server.domain.operation import Durability
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import load
from holdfast_server.engine.store import AWAY, Store
from holdfast_server.engine.waiters import Waiters
from holdfast_server.engine.wire import Argument
from holdfast_server.errors import HoldfastError

#: How long one round lasts at most. What is not reached by then is asked for again.
ROUND_MS_MAX: Final = 1_000

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a barrier waits for: the store's command, and how many it must count."""

    command: tuple[Argument, ...]
    enough: int

    def reached(self, answer: Any) -> bool:
        """Whether the command counted enough. WAITAOF counts our disk first, then replicas."""
        counted = answer[0] if isinstance(answer, list) else answer
        return isinstance(counted, int) and counted >= self.enough


def mark_of(level: Durability, replicas: int) -> Mark:
    """The barrier of FSYNCED, or of REPLICATED with that many replicas."""
    if level is Durability.FSYNCED:
        return Mark(("WAITAOF", 1, 0, ROUND_MS_MAX), 1)
    return Mark(("WAIT", replicas, ROUND_MS_MAX), replicas)


class Barrier:
    """One level, on every primary."""

    def __init__(self, store: Store, keys: Keys, mark: Mark) -> None:
        self._store, self._keys, self._mark = store, keys, mark
        self._lines: dict[str, _Line] = {}

    async def wait(self, partition: int, epoch: int, seq: int, timeout_s: float) -> bool:
        """Whether it was reached within the time. False says nothing: it may still come.

        An epoch that has ended is in the ledger up to its end, which is more than any level here.
        """
        ended = self._keys.epochs.end(partition, epoch)
        if ended is not None:
            return seq <= ended
        try:
            place = await self._store.place_of(self._keys.state(partition, epoch))
        except HoldfastError:
            return False
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = _Line(self._store, place, self._keys, self._mark)
        return await line.wait(partition, epoch, seq, timeout_s)

    async def close(self) -> None:
        """Closes every connection. Whoever still waits is told that it was not reached."""
        for line in self._lines.values():
            await line.close()


class _Line:
    """One connection to one primary, and who waits for it."""

    def __init__(self, store: Store, place: str, keys: Keys, mark: Mark) -> None:
        self._store, self._place, self._keys, self._mark = store, place, keys, mark
        self._script = load("barrier")
        self._waiters = Waiters()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def wait(self, partition: int, epoch: int, seq: int, timeout_s: float) -> bool:
        """See `Barrier.wait`."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await self._waiters.wait(partition, epoch, seq, timeout_s)

    async def close(self) -> None:
        """See `Barrier.close`."""
        if self._task is not None:
            await cancel(self._task)
        await self._hang_up(self._waiters.partitions)

    async def _run(self) -> None:
        """Rounds, until nobody waits."""
        # Everything that became ready in this turn of the event loop shall share the first.
        await asyncio.sleep(0)
        fresh = False
        while partitions := self._waiters.partitions:
            try:
                await self._round(await self._connected(fresh=fresh), partitions)
                fresh = True
            except (*AWAY, HoldfastError) as error:
                _LOG.warning("hot store: a barrier broke: %s", type(error).__name__)
                self._store.look_again()
                await self._hang_up(partitions)

    async def _round(self, connection: Connection, partitions: Sequence[int]) -> None:
        """A mark behind all partitions, and one wait for it."""
        lives = [(partition, self._keys.epoch(partition)) for partition in partitions]
        # In a cluster a call sees one partition.
        calls = [[life] for life in lives] if self._store.is_cluster else [lives]
        commands: Any = [*map(self._command, calls), self._mark.command]
        await connection.send_packed_command(connection.pack_commands(commands))
        newest = [seq for _ in calls for seq in await connection.read_response()]
        if not self._mark.reached(await connection.read_response()):
            return
        for life, seq in zip(lives, newest, strict=True):
            judge = _unknown if seq < 0 else self._keys.epochs.judge(*life, seq)
            self._waiters.tell(life[0], judge)

    def _command(self, lives: Sequence[tuple[int, int]]) -> Sequence[Argument]:
        """One call of the script, for partitions and their epochs."""
        states = [self._keys.state(*life) for life in lives]
        epochs = [epoch for _, epoch in lives]
        keys = self._keys.barrier(*lives[0]), *states
        return (self._script.command, self._script.called, len(keys), *keys, *epochs)

    async def _connected(self, *, fresh: bool) -> Connection:
        """The connection; another one where the server hung up while nobody waited."""
        if self._connection is not None and not fresh and await self._connection.can_read():
            await self._connection.disconnect(nowait=True)
            self._connection = None
        if self._connection is None:
            self._connection = self._store.connection(self._place)
            await self._connection.connect()  # type: ignore[no-untyped-call]
            await self._connection.send_command(*self._script.loading)
            await self._connection.read_response()
        return self._connection

    async def _hang_up(self, partitions: Sequence[int]) -> None:
        """Nothing is known any more of what was waited for."""
        for partition in partitions:
            self._waiters.tell(partition, _unknown)
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
            self._connection = None


def _unknown(epoch: int, seq: int) -> bool:
    """Nothing is known of any entry."""
    return False
