"""An engine on an empty Valkey whose clock is the test's, alone or before a ledger."""

from collections.abc import AsyncIterator

import pytest

from tests.support.both import Both, both_stores
from tests.support.pair import Real, build


@pytest.fixture
async def real(valkey_url: str) -> AsyncIterator[Real]:
    """An engine alone."""
    built = build(valkey_url)
    yield built
    await built.store.close()


@pytest.fixture
async def both(valkey_url: str, migrated_postgres_url: str) -> AsyncIterator[Both]:
    """An engine with a ledger and a flusher."""
    async with both_stores(valkey_url, migrated_postgres_url) as started:
        yield started
