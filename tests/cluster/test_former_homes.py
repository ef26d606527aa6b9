"""What a partition had before it was rebuilt is removed from every master of a cluster."""

from __future__ import annotations

from holdfast_server.domain.bounds import FORMER_HOME_MS
from tests.support.both import both_stores
from tests.support.cluster import Cluster
from tests.support.former import Later, given_up_at, homes, rebuilt_twice, remove, remover_of
from tests.support.rebuilding import rebuild


async def test_every_master_of_a_cluster_is_cleared(
    cluster: Cluster, migrated_postgres_url: str
) -> None:
    async with both_stores(cluster.url, migrated_postgres_url) as both:
        await rebuilt_twice(both, migrated_postgres_url)
        await rebuild(both, migrated_postgres_url, 0, 3)
        clock = Later(given_up_at(migrated_postgres_url, 3) + FORMER_HOME_MS)
        assert len(await both.real.store.places()) == 3

        await remove(remover_of(both, clock))
        assert [set(each) for each in (await homes(both)).values()] == [{2}, {3}, {2}, {2}]
