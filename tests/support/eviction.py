"""Trees that leave the hot store."""

from __future__ import annotations

from holdfast_server.engine.cold import Name
from holdfast_server.engine.keys import COLD_FLOOR_FIELD
from holdfast_server.engine.tree_store import Evicted, TreeStore
from tests.support.pair import Real


async def evict(real: Real, tenant: str, root: str) -> Evicted:
    """Evicts a tree, if it may go."""
    trees = TreeStore(real.store, real.keys)
    found = await trees.see([(tenant, root)])
    return (await trees.evict(found))[tenant, root]


async def lose(real: Real, *names: Name) -> None:
    """Leaves partitions as a rebuild does: the trees are gone, and may be behind the cold floor."""
    client = real.store.client
    for tenant, root in names:
        partition = real.keys.partition(tenant, root)
        hot, number = real.keys.hot(partition, 1, tenant, root)
        await client.unlink(*real.keys.tree_keys(partition, 1, tenant, root))
        await client.srem(hot, str(number))
        seq = await real.engine.current_seq(partition)
        await client.hset(real.keys.state(partition, 1), COLD_FLOOR_FIELD, str(seq))
