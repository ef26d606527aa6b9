"""On a cluster too, what is due after a rebuild ends without anybody touching the account."""

from __future__ import annotations

from tests.support.both import PARTITIONS, both_stores
from tests.support.cluster import Cluster
from tests.support.due import names_in, sweeper_of
from tests.support.rebuilding import rebuild, search

TTL_MS = 60_000


async def test_holds_expire_in_every_partition(
    cluster: Cluster, migrated_postgres_url: str
) -> None:
    async with both_stores(cluster.url, migrated_postgres_url) as both:
        names = [names_in(both.real.keys, partition, 1)[0] for partition in range(PARTITIONS)]
        for name in names:
            await both.account(name)
            await both.grant(name, 100)
            assert (await both.reserve(name, 7, TTL_MS)).hold
        await both.flushed()
        await rebuild(both, migrated_postgres_url, *range(PARTITIONS))

        await search(both)
        both.real.clock.now_ms += TTL_MS
        assert await sweeper_of(both.real).sweep() == (PARTITIONS, 0)
        await both.flushed()
        for name in names:
            assert (await both.buckets(name)).available == 100
