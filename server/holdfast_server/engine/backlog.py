"""How much waits for the ledger in all partitions, as the hot store itself knows it.

The ledger is not asked: it may be away, which is when this matters.
"""

from __future__ import annotations

from holdfast_server.engine.fences import Fences
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.store import Store
from holdfast_server.errors import HoldfastError, Reason


async def entries_waiting(store: Store, keys: Keys) -> int:
    """Entries that the ledger is not known to have. Raises STORE_UNAVAILABLE where a part of the
    store does not answer: what the rest has is no answer.
    """
    epochs = {each: keys.epoch(each) for each in range(keys.partitions)}
    seen = await Fences(store, keys).read(epochs)
    if len(seen) < keys.partitions:
        message = "a part of the hot store does not answer; nothing was decided, retry"
        raise HoldfastError(Reason.STORE_UNAVAILABLE, message)
    return sum(max(0, each.seq - each.flushed) for each in seen.values())
