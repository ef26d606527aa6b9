"""Callers of accounts whose trees the store has lost, and of those that are back."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast import AsyncClient
from holdfast_server.bench.rounds import Done
from holdfast_server.bench.traffic import COMMITTED, RESERVED, granted
from holdfast_server.domain.bounds import TTL_MS_MAX

#: Reserves a second on accounts that are back, each committed; few, so that they measure and do
#: not load.
STEADY_PER_SECOND: Final = 50
#: Seconds between two looks at how many trees are back.
LOOK_SECONDS: Final = 0.5


@dataclass(slots=True)
class Returning:
    """One round: accounts are used once each, by callers that share some streams, until all trees
    are back.
    """

    clients: Sequence[AsyncClient]
    names: Sequence[str]
    #: How many trees are in the store.
    count: Callable[[], Awaitable[int]]
    #: A source of its own, so that runs are alike.
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    back: list[str] = field(default_factory=list)
    #: Seconds from the loss to the first answer, and that calls took on accounts that were back.
    first: float = 0.0
    waited: list[float] = field(default_factory=list)
    entries: int = 0
    is_over: bool = False

    async def run(self, in_flight: int) -> Done:
        """Uses accounts, so many at a time, in no order that the ledger would know.

        Raises the first error of any call.
        """
        shuffled = self.chance.sample(self.names, len(self.names))
        left, began = iter(shuffled), time.perf_counter()
        clients = itertools.islice(itertools.cycle(self.clients), in_flight)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._go_on(group))
                for client in clients:
                    group.create_task(self._use(client, left, began))
                await self._all_back()
                self.is_over = True
        except ExceptionGroup as several:
            # Without what failed there is nothing to wait for, and times lack the worst.
            raise several.exceptions[0] from several
        return Done(len(self.names))

    async def _all_back(self) -> None:
        """Waits until all trees are in the store, and something can be said of calls meanwhile."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.waited and await self.count() >= len(self.names):
                return

    def facts(self) -> dict[str, Any]:
        """What callers saw."""
        ordered = sorted(self.waited) or [0.0]

        def percentile_ms(percent: int) -> float:
            return round(ordered[(len(ordered) - 1) * percent // 100] * 1e3, 1)

        return {
            "used": len(self.back),
            "first_answer_s": round(self.first, 2),
            "back_p50_ms": percentile_ms(50),
            "back_p99_ms": percentile_ms(99),
            "back_calls": len(self.waited),
        }

    async def _use(self, client: AsyncClient, left: Iterator[str], began: float) -> None:
        for name in left:
            if self.is_over:
                return
            granted(await client.reserve(name, RESERVED, ttl_ms=TTL_MS_MAX, feature="chat"))
            self.first = self.first or time.perf_counter() - began
            self.back.append(name)
            self.entries += 1

    async def _go_on(self, group: asyncio.TaskGroup) -> None:
        while not self.is_over:
            await asyncio.sleep(1 / STEADY_PER_SECOND)
            if self.back:
                group.create_task(self._spend())

    async def _spend(self) -> None:
        client, name = self.chance.choice(self.clients), self.chance.choice(self.back)
        began = time.perf_counter()
        held = granted(await client.reserve(name, RESERVED, ttl_ms=TTL_MS_MAX, feature="chat"))
        granted(await client.commit(held.hold_id, COMMITTED))
        self.waited.append(time.perf_counter() - began)
        self.entries += 2
