"""A ledger, and room for hot stores of one's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.recovery.stage import Stage
from tests.support.ledger import open_ledger


@pytest.fixture
async def stage(stores_dir: Path, migrated_postgres_url: str) -> AsyncIterator[Stage]:
    """One server "a", armed for the first time."""
    async with open_ledger(migrated_postgres_url) as ledger:
        opened = Stage(ledger, migrated_postgres_url, stores_dir / uuid4().hex[:8])
        try:
            opened.start("a")
            await opened.recover()
            yield opened
        finally:
            await opened.close()
