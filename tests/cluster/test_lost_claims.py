"""On a cluster, claims of keys may be lost where no entry is: they lie on other nodes."""

from __future__ import annotations

import time

from holdfast_server.domain import operation as op
from holdfast_server.engine.fences import Fences
from holdfast_server.engine.keys import CLAIM_SHARDS
from holdfast_server.errors import Reason
from holdfast_server.recovery.verdict import Verdict
from tests.support.both import PARTITIONS, Both, both_stores
from tests.support.cluster import Cluster
from tests.support.due import names_in
from tests.support.forgotten import time_ordered_key
from tests.support.rebuilding import coordinator_of


async def take_over(both: Both, postgres_url: str) -> None:
    """Every partition goes on with all that it had, as on replicas that have taken over."""
    keys = both.real.keys
    await Fences(both.real.store, keys).close(
        {each: keys.epoch(each) for each in range(PARTITIONS)}
    )
    done = await coordinator_of(both, postgres_url).recover()
    assert [each.verdict for each in done if each.armed] == [Verdict.KEPT] * PARTITIONS


def burn(account: str, key: str) -> op.Burn:
    return op.Burn("t", account, (op.Line("ai", 1),), key)


async def test_a_key_is_not_new_elsewhere_though_a_replica_lacks_its_claim(
    cluster: Cluster, migrated_postgres_url: str
) -> None:
    async with both_stores(cluster.url, migrated_postgres_url) as both:
        both.real.clock.now_ms = time.time_ns() // 1_000_000
        await take_over(both, migrated_postgres_url)
        names = [names_in(both.real.keys, partition, 1)[0] for partition in range(2)]
        for name in names:
            await both.account(name)
            await both.grant(name, 100)
        key = time_ordered_key(both.real.clock.now_ms)
        assert (await both.do(burn(names[0], key))).applied.seq
        await both.flushed()

        for shard in range(CLAIM_SHARDS):
            await both.real.store.client.unlink(*both.real.keys.claim_keys(shard))
        await take_over(both, migrated_postgres_url)

        elsewhere = await both.do(burn(names[1], key))
        assert elsewhere.reason is Reason.IDEMPOTENCY_KEY_REUSED
        await both.flushed()
