"""Opens one store or the other as the settings name it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from holdfast_server.app.problem import Problem
from holdfast_server.engine.store import Store
from holdfast_server.engine.stores import open_store
from holdfast_server.ledger.store import Ledger
from holdfast_server.settings import Settings


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """The ledger; it connects when it is first used. Raises `Problem` without a URL."""
    if not settings.postgres_url:
        raise Problem("HOLDFAST_POSTGRES_URL is not set: give the URL of the ledger's database")
    ledger = await Ledger.open(settings.postgres_url, pool_size=settings.postgres_connections_max)
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def open_hot_store(settings: Settings) -> AsyncIterator[Store]:
    """The hot store; it connects when it is first used. Raises `Problem` without a URL."""
    if not settings.redis_url:
        raise Problem("HOLDFAST_REDIS_URL is not set: give the URL of the hot store")
    store = open_store(settings.redis_url)
    try:
        yield store
    finally:
        await store.close()


def known_partitions(asked: Iterable[int], count: int) -> list[int]:
    """The partitions that were asked for, each once. Raises `Problem` for one that is none."""
    chosen = sorted(set(asked))
    for partition in chosen:
        if not 0 <= partition < count:
            raise Problem(f"there is no partition {partition}: they are 0 to {count - 1}")
    return chosen
