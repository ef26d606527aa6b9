"""Both stores, with a flusher between them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.both import Both, both_stores


@pytest.fixture
async def both(valkey_url: str, migrated_postgres_url: str) -> AsyncIterator[Both]:
    """The engine, the ledger and a flusher."""
    async with both_stores(valkey_url, migrated_postgres_url) as opened:
        yield opened
