"""Brings a tree in a process of its own, to be killed: `bring_process.py VALKEY_URL POSTGRES_URL
ROOT`. Prints what became of it.
"""

from __future__ import annotations

import asyncio
import sys

from holdfast_server.control.hydration import Hydrator
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.stores import open_store
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.failpoint import check_allowed
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.recorder import Recorder
from tests.support.both import PARTITIONS


async def main(valkey_url: str, postgres_url: str, root: str) -> None:
    """Brings it once."""
    check_allowed()
    store, ledger = open_store(valkey_url), await Ledger.open(postgres_url)
    bringing = Hydrator(ledger, TreeStore(store, Keys(PARTITIONS)), Recorder())
    print(await bringing.bring([("t", root)]))
    await ledger.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
