"""One real service for all tests of this folder, and a tenant of its own for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from holdfast_server import embedded
from tests.api.service import ROOT_TOKEN, ApiService, api_service
from tests.api.world import World
from tests.fixtures.databases import database
from tests.support.stubs import stubs


@pytest.fixture(scope="package")
def service(stores_dir: Path, postgres_server_url: str) -> Iterator[ApiService]:
    """The service. Its Valkey is its own, because other tests empty theirs."""
    folder = stores_dir / f"api-{uuid4().hex}"
    folder.mkdir(mode=0o711)
    with (
        embedded.start_valkey(folder / "valkey") as valkey,
        database(postgres_server_url, template="template0") as postgres_url,
        api_service(folder, valkey.url, postgres_url) as running,
    ):
        yield running


@pytest.fixture
async def world(service: ApiService) -> AsyncIterator[World]:
    """A new tenant with a credit type, seen by a credential that may do everything.

    Afterwards the service must be as healthy as before.
    """
    async with stubs(service.port, token=ROOT_TOKEN) as client:
        world = World(service, client, f"t-{uuid4().hex[:12]}")
        await world.create_credit_type("ai")
        yield world
        assert service.is_healthy()
        await world.balance_is_answered()
