"""How much waits for the ledger in all partitions, as the hot store itself knows it.

The ledger is not asked: it may be away, which is when this matters.
"""

from __future__ import annotations

from holdfast_server.engine.keys import FLUSHED_FIELD, NUMBERS_FIELD, Keys
from holdfast_server.engine.rows import unpack_row
from holdfast_server.engine.store import Store


async def entries_waiting(store: Store, keys: Keys) -> int:
    """Entries that the ledger is not known to have. Raises STORE_UNAVAILABLE."""
    found = await store.read_all(
        [
            ("HMGET", keys.state(each, keys.epoch(each)), NUMBERS_FIELD, FLUSHED_FIELD)
            for each in range(keys.partitions)
        ]
    )
    return sum(
        max(0, unpack_row(numbers)[0] - int(flushed or 0)) for numbers, flushed in found if numbers
    )
