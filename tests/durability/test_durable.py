"""What an answer waits for: what was asked, what is usual, what is demanded, what is possible."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from holdfast_server.control.durability import Durable, Promises
from holdfast_server.domain import operation as op
from holdfast_server.domain.epoch import Epochs
from holdfast_server.domain.operation import Durability, Operation
from holdfast_server.engine.barrier import Barrier, mark_of
from holdfast_server.engine.levels import Levels, StoreLevels
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.recorder import Recorder
from tests.durability.conftest import frozen
from tests.durability.test_recovered import arm_second_epoch, open_epoch
from tests.support.both import Both, both_stores
from tests.support.cluster import Followed
from tests.support.pair import CALLER

MEMORY, FSYNCED, REPLICATED, LEDGER = Durability

#: Long enough for a busy machine, and short where nothing will come.
PATIENT_S, BRIEF_S = 20.0, 0.5


@dataclass
class Never:
    """Waits for nothing, and never reaches anything."""

    asked: list[tuple[int, int, int]] = field(default_factory=list)

    async def wait(self, partition: int, epoch: int, seq: int, timeout_s: float) -> bool:
        self.asked.append((partition, epoch, seq))
        return False


@dataclass(frozen=True)
class Stage:
    """Both stores, and what waits for them."""

    both: Both
    durable: Durable
    levels: StoreLevels

    async def do(self, operation: Operation) -> Any:
        """The answer to one operation."""
        return (await self.durable.submit(CALLER, [operation]))[0]

    async def burn(self, level: Durability | None = None) -> Any:
        """Burns one credit of account `a`."""
        lines = (op.Line("ai", 1),)
        return await self.do(op.Burn("t", "a", lines, self.both.key(), durability=level))

    async def commit(self, level: Durability | None = None) -> Any:
        """Commits a hold of one credit of account `a`."""
        held = await self.both.reserve("a", 1)
        return await self.do(op.Commit("t", held.hold, self.both.key(), durability=level))

    async def used(self) -> int:
        """How much of `a` was burned or held."""
        buckets = await self.both.buckets("a")
        return int(buckets.burned + buckets.held)


async def nothing_new() -> bool:
    """The ledger was asked, and there is no other epoch."""
    return True


@asynccontextmanager
async def stage(
    redis_url: str,
    postgres_url: str,
    least: Mapping[type[Operation], Durability] | None = None,
    wait_s: float = PATIENT_S,
) -> AsyncIterator[Stage]:
    async with both_stores(redis_url, postgres_url) as both:
        real = both.real
        levels = StoreLevels(real.store)
        barriers = {
            level: Barrier(real.store, real.keys, mark_of(level, 1))
            for level in (FSYNCED, REPLICATED)
        }
        durable = Durable(
            both.operations,
            Promises(levels, 1, least or {}),
            {**barriers, LEDGER: both.operations.watermarks},
            real.engine,
            real.keys.epochs,
            nothing_new,
            Recorder(),
            wait_s,
        )
        await levels.look()
        await both.account("a")
        await both.grant("a", 100)
        try:
            yield Stage(both, durable, levels)
        finally:
            for each in barriers.values():
                await each.close()


async def test_each_level_is_reached_and_said(
    followed_store: Followed, migrated_postgres_url: str
) -> None:
    async with stage(followed_store.url, migrated_postgres_url) as one:
        for level in Durability:
            assert (await one.burn(level)).applied.durability is level
        assert (await one.burn()).applied.durability is MEMORY
        assert (await one.commit()).applied.durability is REPLICATED
        # A caller may ask for less than is usual.
        assert (await one.commit(MEMORY)).applied.durability is MEMORY
        given = op.GrantTerms("ai", 1, op.GrantSource.PURCHASE)
        granted = await one.do(op.Grant("t", "a", given, one.both.key()))
        assert granted.applied.durability is LEDGER


async def test_without_a_replica_a_commit_waits_for_nothing(
    valkey_url: str, migrated_postgres_url: str
) -> None:
    async with stage(valkey_url, migrated_postgres_url) as one:
        assert (await one.commit()).applied.durability is MEMORY
        assert not await one.both.real.store.read("KEYS", "*barrier")


async def test_what_cannot_be_given_is_refused_before_anything_is_decided(
    valkey_url: str, migrated_postgres_url: str
) -> None:
    async with stage(valkey_url, migrated_postgres_url) as one:
        refused = await one.burn(REPLICATED)
        assert isinstance(refused, HoldfastError)
        assert refused.reason is Reason.DURABILITY_UNAVAILABLE
        assert refused.metadata == {"durability": "REPLICATED"}
        assert await one.used() == 0
        lines = (op.Line("ai", 1),)
        burns = [
            op.Burn("t", "a", lines, one.both.key(), durability=level)
            for level in (MEMORY, REPLICATED, LEDGER)
        ]
        first, second, third = await one.durable.submit(CALLER, burns)
        assert first.applied.durability is MEMORY  # type: ignore[union-attr]
        assert isinstance(second, HoldfastError)
        assert third.applied.durability is LEDGER  # type: ignore[union-attr]
        assert await one.used() == 2


async def test_a_caller_cannot_ask_for_less_than_is_demanded(
    valkey_url: str, migrated_postgres_url: str
) -> None:
    least = {op.Burn: LEDGER, op.Commit: REPLICATED}
    async with stage(valkey_url, migrated_postgres_url, least) as one:
        assert (await one.burn(MEMORY)).applied.durability is LEDGER
        assert (await one.burn()).applied.durability is LEDGER
        assert (await one.commit(LEDGER)).applied.durability is LEDGER
        # Demanded, and not to be had.
        assert (await one.commit()).reason is Reason.DURABILITY_UNAVAILABLE


async def test_what_was_applied_is_answered_even_when_the_wait_takes_too_long(
    followed_store: Followed, migrated_postgres_url: str
) -> None:
    async with stage(followed_store.url, migrated_postgres_url, wait_s=BRIEF_S) as one:
        with frozen(followed_store):
            burned = await one.burn(REPLICATED)
            assert burned.applied.durability is MEMORY
            assert await one.used() == 1
        name, seq = burned.applied.transaction_id, burned.applied.seq
        patient = replace(one.durable, wait_s=PATIENT_S)
        assert await patient.await_durable(name, seq, REPLICATED) is REPLICATED
        assert await patient.await_durable(name, 0, LEDGER) is LEDGER
        assert await patient.await_durable(name, 0, MEMORY) is MEMORY


async def test_a_commit_does_not_wait_for_a_replica_that_is_silent(
    valkey_url: str, migrated_postgres_url: str
) -> None:
    async with stage(valkey_url, migrated_postgres_url) as one:
        one.levels.now = Levels(replicas=1, replicas_keeping_up=0, append_only=True)
        never = Never()
        one.durable.waits[REPLICATED] = never  # type: ignore[index]
        assert (await one.commit()).applied.durability is MEMORY
        assert not never.asked
        # Who asks for it waits for it.
        assert (await one.commit(REPLICATED)).applied.durability is MEMORY
        assert len(never.asked) == 1


async def test_a_batch_waits_once_for_each_partition(
    valkey_url: str, migrated_postgres_url: str
) -> None:
    async with stage(valkey_url, migrated_postgres_url) as one:
        never = Never()
        one.durable.waits[LEDGER] = never  # type: ignore[index]
        lines = (op.Line("ai", 1),)
        burns = [op.Burn("t", "a", lines, one.both.key(), durability=LEDGER) for _ in range(10)]
        answers = await one.durable.submit(CALLER, burns)
        last = max(answer.applied.seq for answer in answers)  # type: ignore[union-attr]
        assert [seq for _, _, seq in never.asked] == [last]


@pytest.mark.parametrize("name", ["0-1-999999", "3999-1-1", "nothing"])
async def test_nobody_waits_for_what_was_never_applied(
    valkey_url: str, migrated_postgres_url: str, name: str
) -> None:
    async with stage(valkey_url, migrated_postgres_url) as one:
        with pytest.raises(HoldfastError) as raised:
            await one.durable.await_durable(name, 0, LEDGER)
        assert raised.value.reason is Reason.TRANSACTION_NOT_FOUND
        with pytest.raises(HoldfastError) as raised:
            await one.durable.await_durable(name, 0, REPLICATED)
        assert raised.value.reason is Reason.DURABILITY_UNAVAILABLE


async def test_an_epoch_has_its_own_transactions_and_others_may_know_of_it_first(
    valkey_url: str, migrated_postgres_url: str
) -> None:
    async with both_stores(valkey_url, migrated_postgres_url) as both:
        await both.account("a")
        await both.grant("a", 100)
        partition = (await both.reserve("a", 1)).applied.partition
        await both.flushed()
        end = await both.real.engine.current_seq(partition)
    await open_epoch(migrated_postgres_url, partition)
    async with both_stores(valkey_url, migrated_postgres_url) as both:
        both.keys = 100
        await arm_second_epoch(both, partition)
        newer = (await both.reserve("a", 1)).applied

        async def reached(
            name: str, seq: int = 0, *, ledger_is_away: bool = False
        ) -> Durability | Reason:
            """What a process is told that knows of the first epoch alone."""
            epochs = Epochs()

            async def learn() -> bool:
                if not ledger_is_away:
                    epochs.learn(await both.ledger.epochs())
                return not ledger_is_away

            promises = Promises(StoreLevels(both.real.store), 1, {})
            waits, engine = {LEDGER: both.operations.watermarks}, both.real.engine
            durable = Durable(both.operations, promises, waits, engine, epochs, learn, Recorder())
            try:
                return await durable.await_durable(name, seq, LEDGER)
            except HoldfastError as error:
                return error.reason

        assert newer.transaction_id == f"{partition}-2-{end + 1}"
        assert await reached(newer.transaction_id) is LEDGER
        assert await reached(f"{partition}-1-{end}", end) is LEDGER
        for name in (f"{partition}-2-{end}", f"{partition}-99-1", f"{partition}-0-1"):
            assert await reached(name) is Reason.TRANSACTION_NOT_FOUND
        away = await reached(newer.transaction_id, ledger_is_away=True)
        assert away is Reason.LEDGER_UNAVAILABLE
