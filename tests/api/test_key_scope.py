"""An idempotency key is scoped by tenant and method, wherever its accounts are decided (row A19).

On a service of its own: what goes wrong here would stop the ledger of others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from holdfast_server import embedded
from holdfast_server.engine.keys import Keys
from holdfast_server.errors import Reason
from tests.api.service import PARTITIONS, ROOT_TOKEN, api_service
from tests.api.world import World, uuid7
from tests.fixtures.databases import database
from tests.support.stubs import stubs
from tests.support.wire import refused


@pytest.fixture
async def alone(stores_dir: Path, postgres_server_url: str) -> AsyncIterator[World]:
    """A tenant of a service that nobody else uses."""
    folder = stores_dir / f"alone-{uuid4().hex}"
    folder.mkdir(mode=0o711)
    with (
        embedded.start_valkey(folder / "valkey") as valkey,
        database(postgres_server_url, template="template0") as postgres_url,
        api_service(folder, valkey.url, postgres_url) as service,
    ):
        async with stubs(service.port, token=ROOT_TOKEN) as client:
            world = World(service, client, "alone")
            await world.create_credit_type("ai")
            yield world


async def accounts_apart(world: World) -> tuple[str, str]:
    """Two roots in different partitions."""
    keys, first = Keys(PARTITIONS), await world.create_account(credits=100)
    for number in range(PARTITIONS):
        second = f"b{number}"
        if keys.partition(world.tenant, first) != keys.partition(world.tenant, second):
            return first, await world.create_account(credits=100, account=second)
    raise AssertionError("every account is in one partition")


async def test_a19_same_key_for_an_account_that_is_decided_elsewhere(alone: World) -> None:
    first, second = await accounts_apart(alone)
    key, client = uuid7(), alone.client.balance
    await client.Burn(alone.burn(first, 10, idempotency_key=key))
    await refused(
        client.Burn(alone.burn(second, 10, idempotency_key=key)), Reason.IDEMPOTENCY_KEY_REUSED
    )
    assert (await alone.buckets(second)).burned == 0
    # Whatever the answer is, the ledger of neither partition may come to a stop.
    for account in (first, second):
        await client.Burn(alone.burn(account, 1))
    assert len(await alone.entries(first, at_least=4)) == 4
    assert len(await alone.entries(second, at_least=3)) == 3
