"""A master of a cluster goes: others go on, and its replica takes over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from holdfast_server.domain import operation as op
from holdfast_server.engine.pack import digest_of
from holdfast_server.errors import HoldfastError, Reason
from tests.support.arming import arm
from tests.support.cluster import Cluster, ask, copied, started
from tests.support.due import LIFE_MS, fund, names_in, sweeper_of
from tests.support.pair import Real, build
from tests.support.waiting import until

#: Enough that every node has some of their partitions and some of their claim shards.
ACCOUNTS = 48
#: Enough that some connections are always being made.
READERS = 40


def burn(account: str, key: str) -> op.Burn:
    return op.Burn("t", account, (op.Line("ai", 1),), key)


async def filled(real: Real) -> list[str]:
    """Accounts with 100 credits each."""
    names = [f"a{number}" for number in range(ACCOUNTS)]
    await real.decide([op.CreateAccount("t", name, op.AccountTerms(), name) for name in names])
    terms = op.GrantTerms("ai", 100, op.GrantSource.PURCHASE)
    await real.decide([op.Grant("t", name, terms, f"g{name}") for name in names])
    return names


def needs(cluster: Cluster, real: Real, operation: op.Burn) -> set[int]:
    """The nodes without which an operation cannot be decided."""
    partition = real.keys.partition("t", operation.account)
    shard = real.keys.claim_shard(digest_of(operation))
    keys = real.keys.state(partition, 1), real.keys.claim_keys(shard)[0]
    return {cluster.owner(ask(cluster.clients[1], "CLUSTER", "KEYSLOT", key), 1) for key in keys}


async def test_a_replica_takes_over_in_a_cluster(stores_dir: Path) -> None:
    with started(stores_dir / "failing") as cluster:
        for client in cluster.clients:
            client.config_set("cluster-require-full-coverage", "no")
        with copied(cluster, 0, stores_dir / "failing" / "copy"):
            await lose_a_master(cluster)


async def lose_a_master(cluster: Cluster) -> None:
    """Only what needs the node that went is refused, and nothing is in doubt after the first."""
    real = build(cluster.url, partitions=12)
    names = await filled(real)
    burns = [burn(name, f"during-{name}") for name in names]
    lost = {each.key for each in burns if 0 in needs(cluster, real, each)}
    assert 0 < len(lost) < len(burns)
    assert cluster.clients[0].wait(1, 5_000) == 1
    os.kill(cluster.clients[0].info()["process_id"], signal.SIGKILL)

    # Each by itself, all in one batch: nobody has to wait for somebody before.
    answers = [each[0] for each in await asyncio.gather(*(real.decide([it]) for it in burns))]
    refused = {it.key for it, answer in zip(burns, answers, strict=True) if is_refused(answer)}
    assert refused == lost

    async def are_decided() -> bool:
        # Whoever took over has another history.
        arm(cluster.url, real.keys)
        return not any(map(is_refused, await real.decide(burns)))

    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(keep_reading(real, over))
        try:
            await until(are_decided)
        finally:
            over.set()
    assert all(answer.applied.replayed for answer in await real.decide(burns))
    balances = await real.decide([op.GetBalance("t", name) for name in names])
    assert {each.credits[0].buckets.available for each in balances} == {99}
    await real.store.close()


async def keep_reading(real: Real, over: asyncio.Event) -> None:
    """Reads until it is over; raises what is no answer to somebody who reads."""
    place, part = real.keys.state(0, 1), 0
    while not over.is_set():
        part = (part + 1) % real.keys.partitions
        with contextlib.suppress(HoldfastError):
            await real.store.read("HGET", real.keys.state(part, 1), "f")
            await real.store.read_all([("HGET", place, "f"), ("HGET", place, "m")])


async def test_nothing_overtakes_what_was_refused(stores_dir: Path) -> None:
    """Within one submission; what other callers send to the same partition goes on."""
    with started(stores_dir / "ordered") as cluster:
        for client in cluster.clients:
            client.config_set("cluster-require-full-coverage", "no")
        real = build(cluster.url, partitions=12)
        names = await filled(real)
        name = next(each for each in names if 0 not in partition_of(cluster, real, each))
        keys = [burn(name, f"key-{number}") for number in range(200)]
        free = [each for each in keys if 0 not in needs(cluster, real, each)]
        stuck = next(each for each in keys if 0 in needs(cluster, real, each))
        os.kill(cluster.clients[0].info()["process_id"], signal.SIGKILL)
        answers, (other,) = await asyncio.gather(
            real.decide([free[0], stuck, free[1]]), real.decide([free[2]])
        )
        assert [is_refused(each) for each in (*answers, other)] == [False, True, True, False]
        await real.store.close()


async def test_what_is_due_ends_where_a_node_is_left(stores_dir: Path) -> None:
    """One that does not answer keeps the sweeper from its own partitions only."""
    with started(stores_dir / "sweeping") as cluster:
        for client in cluster.clients:
            client.config_set("cluster-require-full-coverage", "no")
        real = build(cluster.url, partitions=12)
        names = [names_in(real.keys, partition, 1)[0] for partition in range(12)]
        await fund(real, names)
        left = [each for each in names if 0 not in partition_of(cluster, real, each)]
        real.clock.now_ms += LIFE_MS
        os.kill(cluster.clients[0].info()["process_id"], signal.SIGKILL)
        assert await sweeper_of(real).sweep() == (0, len(left))
        assert 0 < len(left) < len(names)
        await real.store.close()


def partition_of(cluster: Cluster, real: Real, account: str) -> set[int]:
    """The node of an account's partition."""
    key = real.keys.state(real.keys.partition("t", account), 1)
    return {cluster.owner(ask(cluster.clients[1], "CLUSTER", "KEYSLOT", key), 1)}


def is_refused(answer: Any) -> bool:
    """Whether nothing was decided; any other error fails."""
    if not isinstance(answer, HoldfastError):
        return False
    assert answer.reason in {Reason.STORE_UNAVAILABLE, Reason.RESULT_UNKNOWN, Reason.FENCED}
    return True
