"""`hydrate`: how fast trees come back to a store that lost all, beside reading their rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import psycopg
from redis.asyncio import Redis

from holdfast_server.api.auth.principal import DEVELOPMENT
from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.report import Found
from holdfast_server.bench.returning import Returning
from holdfast_server.bench.rounds import Done, Round, middle, timed
from holdfast_server.bench.stage import Options, Stage, connect, populating
from holdfast_server.bench.traffic import CREDIT_TYPE
from holdfast_server.control.hydration import NAMES_MAX
from holdfast_server.engine.keys import Keys
from holdfast_server.ledger.store import Ledger

#: Streams that callers share. A stream stays with one worker, so several make all of them work.
SESSIONS: Final = 8
#: Entries of a tree before the first round: account, grant, hold, commit.
ENTRIES: Final = 4
#: Seconds between two looks at whether the ledger has everything, and until that is given up.
LOOK_SECONDS: Final = 0.1
FLUSHED_SECONDS: Final = 1_800.0

_PLAIN: Final = "SELECT * FROM holdfast.entry WHERE tenant = %s AND account = ANY(%s)"


async def hydrate(stage: Stage, options: Options) -> Found:
    """Trees a second until all are back, from the moment in which the store lost everything: the
    service finds that out, recovers, and brings them back by itself, while many callers use one
    account after the other, and others go on with accounts that are back. The floor reads the same
    rows, and makes nothing of them.
    """
    meter, measured, floor = Meter(stage.processes), list[Round](), list[Round]()
    names = [f"bench-{number:07d}" for number in range(options.accounts)]
    store = Redis.from_url(stage.redis_url)
    ledger = await Ledger.open(stage.postgres_url)
    rounds = list[Returning]()
    entries = await _load(stage, names)
    async with _clients(stage) as clients, await _reader(stage.postgres_url) as reader:
        for _ in range(options.rounds):
            await _flushed(ledger, entries)
            floor.append(await timed(meter, partial(_read, reader, names)))
            stage.on_round()
            rounds.append(Returning(clients, names, partial(_count, stage, store, ledger)))
            await store.flushall()
            measured.append(await timed(meter, partial(rounds[-1].run, options.in_flight)))
            stage.on_round()
            entries += rounds[-1].entries
    await store.aclose()
    await ledger.close()
    typical, below = middle(measured), middle(floor)
    facts = rounds[measured.index(typical)].facts() | {
        "accounts": options.accounts,
        "seconds": round(typical.seconds, 2),
        "in_flight": options.in_flight,
    }
    return Found(
        "hydrate", "trees/s", typical.rate, below.rate, typical.cpu_us, below.cpu_us, facts
    )


async def _load(stage: Stage, names: Sequence[str]) -> int:
    """Makes accounts that have spent a little; answers how many entries there are."""
    async with connect(stage, "unary") as client:
        await client.create_credit_type(CREDIT_TYPE)
    async with populating(stage) as population:
        await population.add(names, 1, stage.on_round)
        holds = await population.hold_each(names, stage.on_round)
        await population.settle(holds, stage.on_round)
    return ENTRIES * len(names)


@asynccontextmanager
async def _clients(stage: Stage) -> AsyncIterator[Sequence[Any]]:
    async with AsyncExitStack() as stack:
        opened = [connect(stage, "session") for _ in range(SESSIONS)]
        yield [await stack.enter_async_context(client) for client in opened]


async def _flushed(ledger: Ledger, entries: int) -> None:
    """Waits until the ledger has so many: what it lacks would be lost. Raises TimeoutError."""
    async with asyncio.timeout(FLUSHED_SECONDS):
        while True:
            flushed = await ledger.flushed()
            if sum(seq for _, seq in flushed.values()) >= entries:
                return
            await asyncio.sleep(LOOK_SECONDS)


async def _count(stage: Stage, store: Redis, ledger: Ledger) -> int:
    """How many trees are in the store."""
    keys = Keys(stage.partitions)
    keys.epochs.learn(await ledger.epochs())
    asked = store.pipeline(transaction=False)
    for partition in range(keys.partitions):
        for name in keys.hot_sets(partition, keys.epoch(partition)):
            asked.scard(name)
    return sum(await asked.execute())


async def _reader(postgres_url: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(postgres_url, autocommit=True)


async def _read(reader: psycopg.AsyncConnection[Any], names: Sequence[str]) -> Done:
    """Reads all entries of the accounts, so many accounts at a time as the service does."""
    cursor = reader.cursor(binary=True)
    for first in range(0, len(names), NAMES_MAX):
        some = list(names[first : first + NAMES_MAX])
        await cursor.execute(_PLAIN, (DEVELOPMENT.default_tenant, some))
        await cursor.fetchall()
    return Done(len(names))
