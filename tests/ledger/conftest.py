"""A ledger with a few entries in it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from holdfast_server.ledger.store import Ledger
from tests.support.ledger import open_ledger


@pytest.fixture
async def ledger(migrated_postgres_url: str) -> AsyncIterator[Ledger]:
    """A ledger whose deployment has started, without entries."""
    async with open_ledger(migrated_postgres_url) as opened:
        yield opened
