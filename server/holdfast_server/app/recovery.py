"""`holdfast recovery`, and the coordinator as the service has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from holdfast_server.app.deployment import learn_facts
from holdfast_server.app.problem import Problem
from holdfast_server.app.stores import open_ledger
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.stores import open_store
from holdfast_server.ledger.store import Ledger
from holdfast_server.recovery.coordinator import Coordinator, Stores
from holdfast_server.settings import Settings
from holdfast_server.telemetry.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Recovering:
    """Both stores, opened for a command."""

    ledger: Ledger
    coordinator: Coordinator


@asynccontextmanager
async def recovering(settings: Settings) -> AsyncIterator[Recovering]:
    """Opens both stores. Raises `Problem` where one is not named."""
    if not settings.redis_url:
        raise Problem("HOLDFAST_REDIS_URL is not set: give the URL of the hot store")
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(open_ledger(settings))
        facts = await learn_facts(settings, ledger)
        store = open_store(settings.redis_url)
        stack.push_async_callback(store.close)
        stores = Stores(ledger, store, Keys(facts.partitions), settings.postgres_url, facts.name)
        yield Recovering(ledger, Coordinator(stores, Recorder()))
