"""An engine on an empty Valkey whose clock is the test's, alone or before a ledger."""

from collections.abc import AsyncIterator

import pytest

from tests.support.pair import Real, build


@pytest.fixture
async def real(valkey_url: str) -> AsyncIterator[Real]:
    """An engine alone."""
    built = build(valkey_url)
    yield built
    await built.store.close()
