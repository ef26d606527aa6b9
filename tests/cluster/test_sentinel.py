"""A master with a replica, watched by a sentinel: when it goes, the replica takes its place."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis

from holdfast_server.domain import operation as op
from holdfast_server.engine.outbox import Outbox
from holdfast_server.errors import HoldfastError, Reason
from tests.support.arming import arm
from tests.support.cluster import PASSWORD, watched
from tests.support.pair import NothingCold, build
from tests.support.waiting import until


async def test_a_replica_takes_over(stores_dir: Path, tmp_path: Path) -> None:
    """What it was sent is there; while there is no master, errors say that nothing was decided."""
    with watched(stores_dir / "watched") as stores:
        real = build(stores.url, partitions=3)
        terms = op.GrantTerms("ai", 100, op.GrantSource.PURCHASE)
        await real.decide([op.CreateAccount("t", "a", op.AccountTerms(), "1")])
        await real.decide([op.Grant("t", "a", terms, "2")])

        def burn(key: str) -> op.Burn:
            return op.Burn("t", "a", (op.Line("ai", 10),), key)

        (first,) = await real.decide([burn("before")])
        many = (real.store.read("GET", "x") for _ in range(300))
        assert not any(await asyncio.gather(*many))
        with redis.Redis(port=stores.master.port, password=PASSWORD) as master:
            assert master.wait(1, 5_000) == 1
        os.kill(stores.master.pid, signal.SIGKILL)
        refused = set()

        async def is_decided() -> bool:
            # Whoever took over has another history.
            arm(stores.url, real.keys)
            (answer,) = await real.decide([burn("after")])
            if isinstance(answer, HoldfastError):
                refused.add(answer.reason)
                return False
            return True

        await until(is_decided)
        assert refused <= {Reason.STORE_UNAVAILABLE, Reason.RESULT_UNKNOWN, Reason.FENCED}
        (again,) = await real.decide([burn("before")])
        assert again.applied.replayed
        assert again.applied.transaction_id == first.applied.transaction_id
        (balance,) = await real.decide([op.GetBalance("t", "a")])
        assert balance.credits[0].buckets.available == 80
        await real.store.close()


async def test_a_master_that_is_one_no_more_says_that_nothing_was_decided(
    stores_dir: Path, tmp_path: Path
) -> None:
    """The driver hangs up on it, and asks the sentinel for another next time."""
    with watched(stores_dir / "demoted") as stores:
        real = build(stores.url, partitions=3)
        store, keys, cold = real.store, real.keys, NothingCold(real.store, real.keys)
        outbox = Outbox(store.client, keys)
        writes: list[Callable[[], Awaitable[None]]] = [
            lambda: real.directory.claim("t", "b", "a", cold),
            lambda: outbox.publish_flushed({0: (1, 0)}),
        ]
        with redis.Redis(port=stores.master.port, password=PASSWORD) as master:
            master.replicaof("127.0.0.1", 1)
            for write in writes:
                with pytest.raises(HoldfastError) as caught:
                    await write()
                assert caught.value.reason is Reason.STORE_WRITE_BLOCKED
            master.replicaof("NO", "ONE")
        # Its history is another one now.
        arm(stores.url, keys)
        for write in writes:
            await write()
        await store.close()
