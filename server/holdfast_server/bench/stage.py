"""What a benchmark is given: how much to do, and a service that runs for this alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from holdfast import AsyncClient
from holdfast_server.api.auth.principal import DEVELOPMENT
from holdfast_server.bench.population import Population
from holdfast_server.bench.report import Found
from holdfast_server.bench.traffic import CREDIT_TYPE, GRANTS, Traffic
from holdfast_server.engine.keys import Keys
from holdfast_server.ledger.store import Ledger

#: A benchmark may have more in one answer than a service would: it waits that long.
TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class Options:
    """How much is done."""

    accounts: int
    operations: int
    rounds: int
    in_flight: int
    batch: int
    hot_percent: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A service that runs for this alone, and how to see what it uses."""

    target: str
    redis_url: str
    postgres_url: str
    partitions: int
    processes: Mapping[str, int]
    on_round: Callable[[], None]


Bench = Callable[[Stage, Options], Awaitable[Found]]


def connect(stage: Stage, transport: Literal["session", "unary"]) -> AsyncClient:
    """A client of the service."""
    return AsyncClient(stage.target, transport=transport, timeout_ms=TIMEOUT_MS)


@asynccontextmanager
async def traffic_of(
    stage: Stage, options: Options, transport: Literal["session", "unary"]
) -> AsyncIterator[Traffic]:
    """Callers on accounts that were made for this."""
    async with connect(stage, transport) as client:
        names = [f"bench-{number:07d}" for number in range(options.accounts)]
        await populate(stage, client, names)
        yield Traffic(client, names, options.hot_percent)


async def populate(
    stage: Stage,
    client: AsyncClient,
    names: Sequence[str],
    grants: int = GRANTS,
) -> None:
    """Makes accounts with so many grants each."""
    await client.create_credit_type(CREDIT_TYPE)
    async with populating(stage) as population:
        await population.add(names, grants)


@asynccontextmanager
async def populating(stage: Stage) -> AsyncIterator[Population]:
    """Makes accounts and holds beside the service."""
    population = Population(stage.redis_url, await _keys(stage), DEVELOPMENT.default_tenant)
    try:
        yield population
    finally:
        await population.close()


async def _keys(stage: Stage) -> Keys:
    """Names of keys in the epochs that the partitions are in."""
    keys, ledger = Keys(stage.partitions), await Ledger.open(stage.postgres_url)
    keys.epochs.learn(await ledger.epochs())
    await ledger.close()
    return keys
