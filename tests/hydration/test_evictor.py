"""Trees that nobody uses leave the hot store by themselves, and nobody notices."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast_server.background import background
from holdfast_server.control import evictor as module
from holdfast_server.control.evictor import EvictionLimits, Evictor
from holdfast_server.control.reconcile import Reconciler
from holdfast_server.domain import operation as op
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.engine.trees import TreeReader
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.names import Audited
from holdfast_server.telemetry.recorder import Recorder
from tests.support.both import Both
from tests.support.waiting import until

NAMES = [("t", f"a{number}") for number in range(30)]
HOUR_S = 3_600
#: Less than 200 large trees take.
LARGE_BYTES = 300_000


def evictor(both: Both, idle_ms: int, memory_percent: int = 0) -> Evictor:
    store, keys = both.real.store, both.real.keys
    limits = EvictionLimits(idle_ms, memory_percent)
    watermarks = both.operations.watermarks
    reader = TreeReader(store, keys)
    return Evictor(TreeStore(store, keys), reader, watermarks, limits, Recorder())


async def start(both: Both) -> None:
    for _, name in NAMES:
        await both.account(name)
    await both.grant("a0", 10)
    await both.flushed()


async def rest(both: Both, seconds: int) -> None:
    """Leaves all trees as if nobody had used them for so long."""
    client: Any = both.real.store.client
    for key in [each async for each in client.scan_iter(match="*:t:*")]:
        dumped = await client.dump(key)
        await client.restore(key, 0, dumped, replace=True, idletime=seconds)


async def hot(both: Both) -> int:
    """How many trees are in the store."""
    client: Any = both.real.store.client
    return len([each async for each in client.scan_iter(match="*:t:*")])


async def test_only_what_rests_goes(both: Both) -> None:
    await start(both)
    evicting = evictor(both, idle_ms=HOUR_S * 1_000)
    assert await evicting.look() == 0
    await rest(both, HOUR_S + 10)

    async def all_gone() -> bool:
        await evicting.look()
        return not await hot(both)

    await until(all_gone)
    assert (await both.buckets("a0")).available == 10
    assert await hot(both) == 1


async def test_what_is_held_stays(both: Both) -> None:
    await start(both)
    assert (await both.reserve("a0", 1)).hold
    await both.flushed()
    assert await evictor(both, idle_ms=0).evict(NAMES) == len(NAMES) - 1


async def test_a_second_process_finds_nothing_left(both: Both) -> None:
    await start(both)
    assert await evictor(both, idle_ms=0).evict(NAMES) == len(NAMES)
    assert await evictor(both, idle_ms=0).evict(NAMES) == 0


async def test_a_tree_that_is_none_keeps_no_other(
    both: Both, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    await start(both)
    keys = both.real.keys
    key, _ = keys.tree_keys(keys.partition("t", "x"), 1, "t", "x")
    await both.real.store.client.set(key, "by hand")

    async def only_it_is_left() -> bool:
        return await hot(both) == 1 and "cannot be evicted" in caplog.text

    async with background(evictor(both, idle_ms=0).run()):
        await until(only_it_is_left)
        # It goes on looking, also at what comes later.
        assert (await both.buckets("a0")).available == 10
        await until(only_it_is_left)


async def test_keys_that_no_process_would_name_keep_no_tree(both: Both) -> None:
    await start(both)
    tree, _ = both.real.keys.tree_keys(both.real.keys.partition("t", "é"), 1, "t", "é")
    for key in (b"\xff", b"{p000}:e1:t:t/\xff", tree, "{p9999}:e1:t:t/a0"):
        await both.real.store.client.hset(key, "by", "hand")
    evicting = evictor(both, idle_ms=0)

    async def ours_are_gone() -> bool:
        await evicting.look()
        return await hot(both) == 3

    await until(ours_are_gone)


async def test_memory_is_known(both: Both) -> None:
    trees, client = TreeStore(both.real.store, both.real.keys), both.real.store.client
    assert await trees.memory_percent() == 0
    used = int((await both.real.store.information("memory"))[0]["used_memory"])
    await client.config_set("maxmemory", 2 * used)
    try:
        assert 40 <= await trees.memory_percent() <= 60
    finally:
        await client.config_set("maxmemory", 0)


async def test_trees_that_go_make_room_in_a_full_store(both: Both) -> None:
    """F20: nothing new is held while it is full; what rests can still leave it."""
    terms = op.AccountTerms(labels={f"label-{number}": "x" * 256 for number in range(16)})
    large = [("t", f"large{number}") for number in range(200)]
    await both.do_all([op.CreateAccount("t", name, terms, both.key()) for _, name in large])
    await start(both)
    placed = await both.reserve("a0", 5)
    await both.flushed()
    client = both.real.store.client
    used = int((await both.real.store.information("memory"))[0]["used_memory"])
    await client.config_set("maxmemory", used - LARGE_BYTES)
    try:
        refused = await both.reserve("a0", 1)
        assert refused.reason is Reason.STORE_OUT_OF_MEMORY
        assert (await both.commit(placed.hold)).applied.seq
        assert await evictor(both, idle_ms=0).evict(large) == len(large)

        async def has_room() -> bool:
            return not isinstance(await both.reserve("a0", 1), HoldfastError)

        await until(has_room)
    finally:
        await client.config_set("maxmemory", 0)


async def test_the_audit_tells_cold_from_lost(both: Both) -> None:
    await start(both)
    reader = TreeReader(both.real.store, both.real.keys)
    reconciler = Reconciler(reader, both.ledger, both.operations.watermarks)
    await evictor(both, idle_ms=0).evict(NAMES[:1])
    assert (await reconciler.compare(("t", "a0"))).result is Audited.COLD
    partition = both.real.keys.partition("t", "a1")
    await both.real.store.client.delete(both.real.keys.tree_keys(partition, 1, "t", "a1")[0])
    assert (await reconciler.compare(("t", "a1"))).result is Audited.DRIFTS
    assert (await both.do(op.GetBalance("t", "a0"))).open_holds == 0
