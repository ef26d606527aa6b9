"""Both stores, a deployment, and a flusher between them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from holdfast_server.ledger.store import Ledger
from tests.flusher.stage import Stage, open_store
from tests.support.ledger import open_ledger


@pytest.fixture
async def ledger(migrated_postgres_url: str) -> AsyncIterator[Ledger]:
    """A ledger whose deployment has started, without entries."""
    async with open_ledger(migrated_postgres_url) as opened:
        yield opened


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    """The hot store, as the engine connects to it."""
    async with open_store(valkey_url) as opened:
        yield opened


@pytest.fixture
def stage(ledger: Ledger, client: Redis, migrated_postgres_url: str, valkey_url: str) -> Stage:
    """Everything that a test of the flusher needs."""
    return Stage(ledger, client, migrated_postgres_url, valkey_url)
