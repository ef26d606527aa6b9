"""What is measured: accounts with grants, and callers that reserve and commit."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast import (
    AsyncClient,
    Denied,
    Durability,
    GrantSource,
    HoldfastError,
    Outcome,
    operations,
)
from holdfast_server.bench.rounds import Done

CREDIT_TYPE: Final = "credits"
#: Enough for any run.
GRANTED: Final = 10**12
GRANTS: Final = 3
RESERVED: Final = 100
COMMITTED: Final = 80
#: Seconds between two looks at how many callers a steady pace asks for.
TICK_SECONDS: Final = 0.002
#: How long grants live: longer than any run.
GRANT_LIVES_MS: Final = 10**9


@dataclass(slots=True)
class Traffic:
    """Callers on some accounts. `hot_percent` of what they do is about one account."""

    client: AsyncClient
    accounts: Sequence[str]
    hot_percent: int = 0
    #: A source of its own, so that runs are alike.
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def account(self) -> str:
        """The next one to spend from."""
        if self.hot_percent and self.chance.randrange(100) < self.hot_percent:
            return self.accounts[0]
        return self.chance.choice(self.accounts)

    async def pairs(self, in_flight: int, total: int) -> Done:
        """Reserve, then commit, by so many callers, each doing one after the other."""
        latencies: list[float] = []

        async def spend() -> None:
            while 2 * len(latencies) < total:
                began = time.perf_counter()
                hold = await self._reserve()
                latencies.append(time.perf_counter() - began)
                await self._commit(hold)

        await asyncio.gather(*(spend() for _ in range(in_flight)))
        return Done(2 * len(latencies), latencies)

    async def paced(self, rate: float, total: int) -> Done:
        """The same at a steady pace of so many operations a second, however long each takes."""
        began, done = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while done < total:
                due = min(total, int((time.perf_counter() - began) * rate) + 1)
                for _ in range(done, due, 2):
                    group.create_task(self._spend())
                    done += 2
                await asyncio.sleep(TICK_SECONDS)
        return Done(done)

    async def _spend(self) -> None:
        await self._commit(await self._reserve())

    async def _reserve(self) -> str:
        asked = self.client.reserve(self.account(), RESERVED, feature="chat")
        return str(granted(await asked).hold_id)

    async def _commit(self, hold: str) -> None:
        granted(await self.client.commit(hold, COMMITTED))

    async def batches(self, size: int, total: int) -> Done:
        """The same in batches: one that reserves, then one that commits. At least so many."""
        rounds = range(0, total, 2 * size)
        for _ in rounds:
            await self.settle_batch(await self.reserve_batch(size))
        return Done(len(rounds) * 2 * size)

    async def reserve_batch(self, size: int) -> list[str]:
        """Places so many holds in one call."""
        asked = [operations.reserve(self.account(), RESERVED, feature="chat") for _ in range(size)]
        return [granted(answer).hold_id for answer in await self.client.batch(asked)]

    async def settle_batch(self, holds: Sequence[str]) -> None:
        """Commits holds in one call."""
        asked = [operations.commit(each, COMMITTED) for each in holds]
        for answer in await self.client.batch(asked):
            granted(answer)


def granted(answer: Any) -> Any:
    """The same answer. Raises what it says where nothing was done: it is a denial, or an error."""
    if isinstance(answer, HoldfastError):
        raise answer
    if answer.decision.outcome is not Outcome.GRANTED:
        raise Denied(answer.decision)
    return answer


async def prepare_below(client: AsyncClient, count: int, levels: int) -> list[str]:
    """Makes accounts that spend what is so many levels above, counting their own."""
    leaves = []
    for number in range(count):
        root = parent = ""
        for level in range(levels):
            name = f"level-{levels}-{number:03d}-{level}"
            await client.create_account(name, parent=parent)
            root, parent = root or name, name
        expires_ms = time.time_ns() // 1_000_000 + GRANT_LIVES_MS
        for grant in range(GRANTS):
            await _grant(client, root, expires_ms + grant)
        leaves.append(parent)
    return leaves


async def _grant(client: AsyncClient, account: str, expires_at_ms: int) -> None:
    await client.grant(
        account,
        GRANTED,
        source=GrantSource.PURCHASE,
        expires_at_ms=expires_at_ms,
        durability=Durability.MEMORY,
    )
