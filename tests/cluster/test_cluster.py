"""The hot store as a cluster of three masters: every operation, and slots that move under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from holdfast import AsyncClient, GrantSource
from holdfast_server.domain import operation as op
from holdfast_server.embedded.process import free_port
from holdfast_server.engine.address import Address, parse
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.outbox import Outbox
from holdfast_server.engine.request import NeedsLedger
from holdfast_server.engine.stores import open_store
from holdfast_server.engine.trees import TreeReader
from holdfast_server.errors import HoldfastError, Reason
from tests.property.test_oracle import Oracle, run_histories
from tests.support.arming import arm
from tests.support.both import both_stores
from tests.support.cluster import Cluster, ask
from tests.support.forgotten import ask_unchecked, time_ordered_key, use_and_forget
from tests.support.pair import Real, build
from tests.support.server import call_json, environment, serving
from tests.support.waiting import until

PARTITIONS = 12
#: What a call is told while its partition is on its way, or on a master that is not armed yet.
UNDECIDED = {Reason.STORE_UNAVAILABLE, Reason.FENCED}
#: Random histories on the cluster: what decides is the same script.
HISTORIES = 15


@pytest.fixture
def unused_url() -> str:
    """Where no node is."""
    return f"redis+cluster://127.0.0.1:{free_port()}"


class ClusterOracle(Oracle):
    """Holds the engine on a cluster against the twin."""

    cluster: Cluster

    def empty(self) -> None:
        self.cluster.empty()


@pytest.mark.timeout(0)
def test_the_engine_on_a_cluster_agrees_with_the_twin(cluster: Cluster) -> None:
    """Every kind of operation, in batches that touch several nodes."""
    machine = type("Machine", (ClusterOracle,), {"cluster": cluster})
    run_histories(machine, cluster.url, HISTORIES)


async def make_accounts(real: Real, count: int) -> list[str]:
    """Accounts with 1,000 credits each, in all partitions."""
    names = [f"a{number}" for number in range(count)]
    await real.decide([op.CreateAccount("t", name, op.AccountTerms(), name) for name in names])
    terms = op.GrantTerms("ai", 1_000, op.GrantSource.PURCHASE)
    await real.decide([op.Grant("t", name, terms, f"g{name}") for name in names])
    return names


def burn(account: str, key: str, amount: int = 1) -> op.Burn:
    return op.Burn("t", account, (op.Line("ai", amount),), key)


async def available(real: Real, names: list[str]) -> list[int]:
    answers = await real.decide([op.GetBalance("t", name) for name in names])
    return [answer.credits[0].buckets.available for answer in answers]


async def test_a_key_counts_in_one_partition_only(cluster: Cluster) -> None:
    """Its claim lies on another node than its record, and is made before the decision."""
    real = build(cluster.url, partitions=PARTITIONS)
    names = await make_accounts(real, 30)
    answers = await real.decide([burn(name, "one key") for name in names])
    reused = [each for each in answers if isinstance(each, HoldfastError)]
    assert {each.reason for each in reused} == {Reason.IDEMPOTENCY_KEY_REUSED}
    spent = 1_000 * len(names) - sum(await available(real, names))
    assert spent == len(names) - len(reused)
    assert len({real.keys.partition("t", name) for name in names}) > 1
    (again,) = await real.decide([burn(names[0], "fresh"), burn(names[0], "fresh")][:1])
    assert not again.applied.replayed
    (again,) = await real.decide([burn(names[0], "fresh")])
    assert again.applied.replayed
    await real.store.close()


async def test_a_forgotten_key_is_not_new_in_another_partition(cluster: Cluster) -> None:
    real = build(cluster.url, partitions=PARTITIONS)
    used, resting, key = await use_and_forget(real)
    assert isinstance(await ask_unchecked(real, burn(resting, key)), NeedsLedger)
    for account in (used, resting):
        new = burn(account, time_ordered_key(real.clock.now_ms))
        assert not isinstance(await ask_unchecked(real, new), NeedsLedger | HoldfastError)
    await real.store.close()


async def test_a_slot_moves_while_it_is_used(cluster: Cluster) -> None:
    """MOVED, ASK and TRYAGAIN: nothing is lost, and nothing is decided twice."""
    real = build(cluster.url, partitions=PARTITIONS)
    names = await make_accounts(real, 24)
    slots = {
        ask(cluster.clients[0], "CLUSTER", "KEYSLOT", real.keys.state(each, 1))
        for each in range(PARTITIONS)
    }
    done: dict[str, Any] = {}
    moving, moved = asyncio.Event(), Counter[int]()

    async def spend(name: str) -> None:
        number = 0
        while not moving.is_set() or number < 20:
            key = f"{name}-{number}"
            (answer,) = await real.decide([burn(name, key)])
            if isinstance(answer, HoldfastError):
                assert answer.reason in UNDECIDED | {Reason.RESULT_UNKNOWN}
                continue
            done[key], number = answer, number + 1

    async def move() -> None:
        for slot in sorted(slots):
            target = (cluster.owner(slot) + 1) % 3
            source = cluster.begin_move(slot, target)
            # One by one: for a while a partition's keys are on both nodes.
            while await asyncio.to_thread(cluster.move_keys, slot, source, target, 1):
                moved[slot] += 1
            cluster.end_move(slot, source, target)
            await asyncio.to_thread(arm, cluster.url, real.keys)
        moving.set()

    await asyncio.gather(move(), *(spend(name) for name in names))
    assert all(moved[slot] > 1 for slot in slots)
    left = await available(real, names)
    spent = {name: sum(key.startswith(f"{name}-") for key in done) for name in names}
    assert left == [1_000 - spent[name] for name in names]
    await real.store.close()


async def decided_while_moving(cluster: Cluster, partitions: int) -> tuple[set[str], set[str]]:
    """Which of 24 accounts are decided for while the slot of the first is on its way, and which
    have their partition there. What was not decided is, once, when the slot has arrived."""
    cluster.empty()
    real = build(cluster.url, partitions=partitions)
    names = await make_accounts(real, 24)
    moving = real.keys.partition("t", names[0])
    slot = ask(cluster.clients[0], "CLUSTER", "KEYSLOT", real.keys.state(moving, 1))
    target = (cluster.owner(slot) + 1) % 3
    source = cluster.begin_move(slot, target)
    burns = [burn(name, f"meanwhile-{name}") for name in names]
    during = await real.decide(burns)
    while await asyncio.to_thread(cluster.move_keys, slot, source, target, 1_000):
        pass
    cluster.end_move(slot, source, target)
    await asyncio.to_thread(arm, cluster.url, real.keys)
    assert all(answer.applied.seq for answer in await real.decide(burns))
    assert await available(real, names) == [999] * len(names)
    await real.store.close()
    failed = [each.reason for each in during if isinstance(each, HoldfastError)]
    assert set(failed) <= UNDECIDED
    pairs = list(zip(names, during, strict=True))
    decided = {name for name, answer in pairs if not isinstance(answer, HoldfastError)}
    return decided, {name for name in names if real.keys.partition("t", name) == moving}


async def test_a_slot_on_its_way_keeps_nobody_waiting_but_its_own(cluster: Cluster) -> None:
    """Finding 10: a call with one key that is there and one that is new waits for the whole move.

    The naive way is one tag for everything: then everybody waits.
    """
    decided, in_it = await decided_while_moving(cluster, PARTITIONS)
    assert decided == {f"a{number}" for number in range(24)} - in_it
    assert in_it
    decided, in_it = await decided_while_moving(cluster, 1)
    assert decided == set()
    assert len(in_it) == 24


async def test_a_cluster_out_of_memory_lets_go_of_what_it_has(cluster: Cluster) -> None:
    """F20: there, keys are claimed by calls of their own, which need room as well."""
    real = build(cluster.url, partitions=PARTITIONS)
    names = await make_accounts(real, 12)
    lines = (op.Line("ai", 10),)
    placed = [op.Reserve("t", name, lines, 60_000, f"h-{name}") for name in names]
    holds = [answer.hold for answer in await real.decide(placed)]
    new = [burn(name, f"new-{name}") for name in names]
    commits = [op.Commit("t", hold, f"c-{hold[-8:]}") for hold in holds]
    try:
        for client in cluster.clients:
            client.config_set("maxmemory", 1)
        mixed = [each for pair in zip(new, commits, strict=True) for each in pair]
        answers = await real.decide(mixed)
    finally:
        for client in cluster.clients:
            client.config_set("maxmemory", 0)
    assert {answer.reason for answer in answers[0::2]} == {Reason.STORE_OUT_OF_MEMORY}
    assert all(answer.applied.seq for answer in answers[1::2])
    assert await available(real, names) == [990] * len(names)
    await real.store.close()


async def test_reads_leave_calls_alone_while_slots_move(cluster: Cluster) -> None:
    """What a read does to find a slot breaks neither calls nor other reads."""
    real = build(cluster.url, partitions=PARTITIONS)
    names = await make_accounts(real, 24)
    places = [real.keys.state(each, 1) for each in range(PARTITIONS)]
    slots = {ask(cluster.clients[0], "CLUSTER", "KEYSLOT", place) for place in places}
    moved, reasons = asyncio.Event(), set[Reason]()

    async def read() -> None:
        while not moved.is_set():
            await real.store.read_all([("HGET", place, "f") for place in places])

    async def spend(name: str) -> None:
        number = 0
        while not moved.is_set():
            (answer,) = await real.decide([burn(name, f"{name}-{number}")])
            number += 1
            if isinstance(answer, HoldfastError):
                reasons.add(answer.reason)

    async def move() -> None:
        for slot in sorted(slots) * 2:
            target = (cluster.owner(slot) + 1) % 3
            source = cluster.begin_move(slot, target)
            while await asyncio.to_thread(cluster.move_keys, slot, source, target, 1_000):
                pass
            cluster.end_move(slot, source, target)
            await asyncio.to_thread(arm, cluster.url, real.keys)
        moved.set()

    await asyncio.gather(move(), read(), read(), *map(spend, names))
    assert reasons <= UNDECIDED
    await real.store.close()


async def test_a_node_that_hung_up_is_called_again(cluster: Cluster) -> None:
    """Nothing was sent on a connection that has ended since: the outcome is not in doubt."""
    real = build(cluster.url, partitions=PARTITIONS)
    names = await make_accounts(real, 30)
    for client in cluster.clients:
        ask(client, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    answers = await real.decide([burn(name, f"after-{name}") for name in names])
    assert not [each for each in answers if isinstance(each, HoldfastError)]
    await real.store.close()


async def test_many_reads_wait_for_each_other(cluster: Cluster) -> None:
    real = build(cluster.url, partitions=PARTITIONS)
    place = real.keys.state(0, 1)
    # Once the nodes are known, nothing else makes them wait.
    await real.store.read("HGET", place, "f")
    assert not any(await asyncio.gather(*(real.store.read("HGET", place, "f") for _ in range(500))))
    await real.store.close()


async def test_a_cluster_that_is_away(unused_url: str) -> None:
    """Callers, the flusher and the sweeper know what to do about this error, and no other."""
    store, keys = open_store(unused_url), Keys(2)
    outbox, positions = Outbox(store.client, keys), {0: (1, 0), 1: (1, 0)}
    for attempt in (
        store.read("GET", "x"),
        store.read_all([("GET", "x")]),
        outbox.read(positions, 10, 0),
        outbox.publish_flushed(positions),
        outbox.trim(positions),
        outbox.states(positions),
    ):
        with pytest.raises(HoldfastError) as raised:
            await attempt
        assert raised.value.reason is Reason.STORE_UNAVAILABLE
    await store.close()


async def test_the_ledger_gets_everything(cluster: Cluster, migrated_postgres_url: str) -> None:
    async with both_stores(cluster.url, migrated_postgres_url) as both:
        names = await make_accounts(both.real, 30)
        await both.real.decide([burn(name, f"b{name}", 7) for name in names])
        assert len(await both.real.entries()) == 90
        await both.flushed()
        positions = await both.ledger.flushed()
        assert sum(seq for _, seq in positions.values()) == 90


async def test_a_whole_service_on_a_cluster(
    cluster: Cluster, postgres_url: str, tmp_path: Path
) -> None:
    variables = environment(cluster.url, postgres_url, tmp_path / "state")
    with serving(variables) as service:
        async with AsyncClient(service.target) as client:
            await client.create_credit_type("credits")
            for number in range(20):
                name = f"acct-{number}"
                await client.create_account(name)
                await client.grant(name, 100, source=GrantSource.PURCHASE)
                async with client.hold(name, 30) as hold:
                    hold.commit(10)
                assert (await client.balance(name)).spendable("credits") == 90
            child = await client.create_account("below", parent="acct-3")
            assert child.account.root == "acct-3"
            assert (await client.burn("below", 5)).decision.allowed
            burned = await client.burn("acct-1", 5)
            await client.refund(burned.applied.transaction_id)

            async def is_verified() -> bool:
                return (await client.verify()).ok

            await until(is_verified)
        checks = await asyncio.to_thread(call_json, ["doctor"], service.environment)
        masters = {each["name"] for each in checks if each["name"].startswith("store role ")}
        assert masters == {f"store role 127.0.0.1:{port}" for port in cluster.ports}


def test_addresses() -> None:
    assert parse("redis://:pw@here:1/0") == Address("redis://:pw@here:1/0")
    cluster = parse("rediss+cluster://me:p%40ss@one:1,[::1]:2,three")
    assert cluster.nodes == (("one", 1), ("::1", 2), ("three", 6379))
    assert cluster.credentials == {"username": "me", "password": "p@ss"}
    assert cluster.tls
    assert parse("redis+sentinel://:pw@one:1/mymaster").master == "mymaster"
    for wrong in ("redis+sentinel://one:1", "redis+cluster://", "redis+cluster://one:x"):
        with pytest.raises(ValueError, match=r"node|sentinels"):
            parse(wrong)


async def test_trees_are_found_by_chance_on_every_node(cluster: Cluster) -> None:
    """The auditor asks one node at a time, which chance chooses too, and passes over keys that
    somebody wrote by hand.
    """
    real = build(cluster.url, partitions=PARTITIONS)
    names = await make_accounts(real, 40)
    for number in range(20):
        await real.store.client.set(b"\xff%d" % number, "by hand")
    reader, found = TreeReader(real.store, real.keys), set[str]()

    async def found_all() -> bool:
        found.update(root for _, root in await reader.sample(20))
        return found == set(names)

    await until(found_all)
    await real.store.close()
