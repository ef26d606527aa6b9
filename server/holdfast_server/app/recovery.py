"""`holdfast recovery`, and the coordinator as the service has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from holdfast_server.app.deployment import learn_facts
from holdfast_server.app.problem import Problem
from holdfast_server.app.stores import open_hot_store, open_ledger
from holdfast_server.control.hydration import Hydrator
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.store import Store
from holdfast_server.engine.tree_store import Installed, TreeStore
from holdfast_server.engine.trees import TreeReader
from holdfast_server.engine.watermark import Watermarks
from holdfast_server.ledger.store import Ledger
from holdfast_server.recovery.coordinator import Coordinator, Stores
from holdfast_server.settings import Settings
from holdfast_server.telemetry.recorder import Recorder

#: How long the ledger may take to get what the hot store has.
LEDGER_WAIT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Recovering:
    """Both stores, opened for a command."""

    ledger: Ledger
    coordinator: Coordinator
    store: Store
    keys: Keys

    async def bring_back(self, tenant: str, account: str) -> str:
        """Brings back a tree that somebody removed from the hot store by hand; answers its root.

        Raises `Problem` where it is there, where there is none, or where the ledger is behind.
        """
        found = await self.ledger.get_account(tenant, account)
        if found is None:
            raise Problem(f"the ledger knows no account {account} of tenant {tenant}")
        partition = self.keys.partition(tenant, found.root)
        seq = (await TreeReader(self.store, self.keys).seqs([partition]))[partition]
        watermarks = Watermarks(self.store, self.keys)
        await watermarks.wait(partition, self.keys.epoch(partition), seq, LEDGER_WAIT_SECONDS)
        hydrator = Hydrator(self.ledger, TreeStore(self.store, self.keys), Recorder())
        became = await hydrator.restore((tenant, found.root), seq)
        if became is Installed.PRESENT:
            raise Problem(f"the tree of {found.root} is in the hot store: nothing is amiss")
        if became is not Installed.INSTALLED:
            raise Problem("the ledger is behind the hot store: look at the flusher, and try again")
        return found.root


@asynccontextmanager
async def recovering(settings: Settings) -> AsyncIterator[Recovering]:
    """Opens both stores. Raises `Problem` where one is not named."""
    async with open_hot_store(settings) as store, open_ledger(settings) as ledger:
        facts = await learn_facts(settings, ledger)
        keys = Keys(facts.partitions)
        keys.epochs.learn(await ledger.epochs())
        stores = Stores(ledger, store, keys, settings.postgres_url, facts.name)
        yield Recovering(ledger, Coordinator(stores, Recorder()), store, keys)
