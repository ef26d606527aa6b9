"""Barriers: FSYNCED and REPLICATED mean what they say, whichever connection wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import redis

from holdfast_server.domain import operation as op
from holdfast_server.domain.epoch import Epoch
from holdfast_server.domain.operation import Durability
from holdfast_server.engine.barrier import Barrier, mark_of
from holdfast_server.engine.keys import FENCE_FIELD
from holdfast_server.engine.levels import StoreLevels
from tests.durability.conftest import frozen
from tests.support.cluster import PASSWORD, Followed
from tests.support.pair import Real, build
from tests.support.waiting import until

#: Long enough for a busy machine, and short where nothing will come.
PATIENT_S, BRIEF_S = 20.0, 0.2


@pytest.fixture
def master(followed_store: Followed) -> Iterator[redis.Redis]:
    with redis.Redis(port=followed_store.master.port, password=PASSWORD) as client:
        yield client


@asynccontextmanager
async def barrier(url: str, level: Durability) -> AsyncIterator[tuple[Real, Barrier]]:
    """An engine and a barrier on the store at `url`."""
    real = build(url, partitions=4)
    waiting = Barrier(real.store, real.keys, mark_of(level, 1))
    try:
        yield real, waiting
    finally:
        await waiting.close()
        await real.store.close()


async def placed(real: Real, account: str, key: str) -> tuple[int, int, int]:
    """Creates an account: where its entry is."""
    (answer,) = await real.decide([op.CreateAccount("t", account, op.AccountTerms(), key)])
    return answer.applied.partition, answer.applied.epoch, answer.applied.seq


async def test_replicated_is_never_said_of_what_no_replica_has(
    followed_store: Followed, master: redis.Redis
) -> None:
    """WAIT on a connection that wrote nothing says 1; the barrier waits for the replica."""
    async with barrier(followed_store.url, Durability.REPLICATED) as (real, waiting):
        assert await waiting.wait(*await placed(real, "a", "1"), PATIENT_S)
        with frozen(followed_store):
            place = await placed(real, "b", "2")
            # What a naive implementation does: it would have said REPLICATED now.
            assert master.wait(1, 100) == 1
            assert not await waiting.wait(*place, BRIEF_S)
        assert await waiting.wait(*place, PATIENT_S)


async def test_a_repeated_request_waits_as_the_first_one_did(followed_store: Followed) -> None:
    """It writes nothing itself, so that its own connection has nothing to wait for."""
    async with barrier(followed_store.url, Durability.REPLICATED) as (real, waiting):
        with frozen(followed_store):
            place = await placed(real, "a", "1")
            assert await placed(real, "a", "1") == place
            assert not await waiting.wait(*place, BRIEF_S)
        assert await waiting.wait(*place, PATIENT_S)


async def test_many_share_one_wait(followed_store: Followed, master: redis.Redis) -> None:
    async with barrier(followed_store.url, Durability.REPLICATED) as (real, waiting):
        places = [await placed(real, f"a{number}", f"k{number}") for number in range(16)]
        reached = await asyncio.gather(
            *(waiting.wait(*place, PATIENT_S) for place in places for _ in range(10))
        )
        assert all(reached)
        assert len({partition for partition, _, _ in places}) == 4
        assert master.info("commandstats")["cmdstat_wait"]["calls"] == 1


async def test_who_waits_on_a_connection_that_breaks_is_told_nothing(
    followed_store: Followed, master: redis.Redis
) -> None:
    async with barrier(followed_store.url, Durability.REPLICATED) as (real, waiting):
        with frozen(followed_store):
            place = await placed(real, "a", "1")
            task = asyncio.create_task(waiting.wait(*place, PATIENT_S))

            async def is_blocked() -> bool:
                return bool(master.info("clients")["blocked_clients"])

            await until(is_blocked)
            master.client_kill_filter(_type="normal", skipme=True)
            assert not await task
        assert await waiting.wait(*place, PATIENT_S)


async def test_a_connection_that_was_closed_meanwhile_is_made_anew(
    followed_store: Followed, master: redis.Redis
) -> None:
    async with barrier(followed_store.url, Durability.REPLICATED) as (real, waiting):
        place = await placed(real, "a", "1")
        assert await waiting.wait(*place, PATIENT_S)
        master.client_kill_filter(_type="normal", skipme=True)
        assert await waiting.wait(*place, PATIENT_S)


async def test_what_the_store_does_not_have_is_never_reached(followed_store: Followed) -> None:
    """Neither what is yet to come, nor what another epoch had beyond its end."""
    async with barrier(followed_store.url, Durability.REPLICATED) as (real, waiting):
        partition, epoch, seq = await placed(real, "a", "1")
        assert not await waiting.wait(partition, epoch, seq + 1, BRIEF_S)
        assert not await waiting.wait(partition, epoch + 1, seq, BRIEF_S)
        real.keys.epochs.begin(partition, Epoch(epoch + 1, seq, epoch))
        assert await waiting.wait(partition, epoch, seq, BRIEF_S)
        assert not await waiting.wait(partition, epoch, seq + 1, PATIENT_S)


@pytest.mark.parametrize("fence", ["2 {history} ARMED", "1 {history} FENCED", "1 another ARMED"])
async def test_nothing_is_reached_in_a_store_that_the_epoch_was_not_armed_for(
    followed_store: Followed, master: redis.Redis, fence: str
) -> None:
    """A replica that took over has other entries under the same numbers."""
    async with barrier(followed_store.url, Durability.REPLICATED) as (real, waiting):
        place = await placed(real, "a", "1")
        history = master.info("replication")["master_replid"]
        state = real.keys.state(place[0], 1)
        master.hset(state, FENCE_FIELD, f"1 {history} ARMED")
        assert await waiting.wait(*place, PATIENT_S)
        master.hset(state, FENCE_FIELD, fence.format(history=history))
        assert not await waiting.wait(*place, PATIENT_S)


async def test_fsynced_needs_an_append_only_file(
    followed_store: Followed, master: redis.Redis
) -> None:
    async with barrier(followed_store.url, Durability.FSYNCED) as (real, waiting):
        place = await placed(real, "a", "1")
        assert await waiting.wait(*place, PATIENT_S)
        levels = StoreLevels(real.store)
        await levels.look()
        assert levels.now.gives(Durability.FSYNCED, 1)
        master.config_set("appendonly", "no")
        assert not await waiting.wait(*place, PATIENT_S)
        await levels.look()
        assert not levels.now.gives(Durability.FSYNCED, 1)


async def test_a_replica_that_is_silent_does_not_keep_up(followed_store: Followed) -> None:
    async with barrier(followed_store.url, Durability.REPLICATED) as (real, _):
        levels = StoreLevels(real.store)

        async def keeps_up() -> bool:
            await levels.look()
            return levels.now.replicas_keeping_up == 1

        async def is_behind() -> bool:
            return not await keeps_up()

        await until(keeps_up)
        with frozen(followed_store):
            await until(is_behind)
            # It is still there, so that who asks for it waits for it.
            assert levels.now.gives(Durability.REPLICATED, 1)
        await until(keeps_up)
        assert not levels.now.gives(Durability.REPLICATED, 2)
