"""A whole service under load, while one thing after the other goes wrong.

Each test breaks something, mends it, and then has everything checked: by the checkers of attempts,
and by the audit of both stores.
"""

from __future__ import annotations

import asyncio
import random
import resource
import shutil
import signal
import socket
import time
from contextlib import ExitStack
from functools import partial

import psycopg
import pytest
import redis.asyncio as redis

from holdfast import (
    AsyncClient,
    BurnResult,
    Durability,
    GrantSource,
    HoldfastError,
    Outcome,
    new_key,
)
from holdfast_server.chaos.inject import Injector
from holdfast_server.chaos.plan import Kind
from holdfast_server.chaos.proxy import LOOPBACK
from holdfast_server.chaos.stack import Stack, alive, send
from holdfast_server.chaos.trial import Trial
from holdfast_server.domain.entry import EntryKind
from tests.faults.conftest import under_load
from tests.support.waiting import until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.asyncio(loop_scope="module"),
    # The first test also starts a whole service.
    pytest.mark.timeout(300),
]

#: How long a fault lasts; long beside a call, short for a test.
LASTS_S = 1.0
CREDITS = "faults"
GRANTED = 1_000
BURNS = 12
#: How long a process may take to be replaced, on a machine that does other things as well.
RESTART_S = 120.0
#: How long a caller waits for a store that is recovered meanwhile.
RECOVERY_MS = 60_000
#: How long a hold lives that nobody ends.
HOLD_MS = 5_000
#: As many as the service has.
WORKERS = 2
#: Descriptors that a starved worker may have, and connections that then knock.
DESCRIPTORS_MAX = 64
KNOCKS = 200
#: A worker that gets a fifth of a core: stopped and continued in turns.
STARVED_S, FED_S = 0.08, 0.02
STORM = 5


def new_client(
    stack: Stack, timeout_ms: int = 20_000, attempt_timeout_ms: int = 5_000
) -> AsyncClient:
    return AsyncClient(
        stack.target,
        credit_type=CREDITS,
        timeout_ms=timeout_ms,
        attempt_timeout_ms=attempt_timeout_ms,
    )


async def funded(client: AsyncClient) -> str:
    """An account with credits."""
    account = f"account-{new_key()}"
    await client.create_credit_type(CREDITS)
    await client.create_account(account)
    await client.grant(account, GRANTED, source=GrantSource.PURCHASE, durability=Durability.MEMORY)
    return account


async def burned(client: AsyncClient, account: str) -> int:
    (credit,) = (await client.balance(account)).credits
    return credit.buckets.burned


def gone(process: int) -> bool:
    return not alive(process)


def recorded(stack: Stack, receipt: BurnResult) -> bool:
    """Whether the ledger has it."""
    asked = "SELECT 1 FROM holdfast.entry WHERE partition = %s AND epoch = %s AND seq = %s"
    with psycopg.connect(stack.ledger.url) as connection:
        where = receipt.applied.partition, *place(receipt)
        return connection.execute(asked, where).fetchone() is not None


def place(receipt: BurnResult) -> tuple[int, int]:
    """Where it stands in its partition."""
    return receipt.applied.epoch, receipt.applied.seq


async def go_on(one: Trial, answers: int = 20) -> None:
    """Waits until the callers have so many more answers."""
    before = len(one.attempts.made)

    def gone_on() -> bool:
        return sum(each.seq > 0 for each in one.attempts.made[before:]) >= answers

    await until(gone_on, RESTART_S)


# --- Processes ----------------------------------------------------------------------------------


async def test_a_rolling_restart_under_load(stack: Stack) -> None:
    """F4: every worker is asked to end and replaced; every call is answered or sent again."""
    async with under_load(stack) as one:
        for worker in stack.processes("worker"):
            await go_on(one)
            send(worker, signal.SIGTERM)
            await until(partial(gone, worker))
        await go_on(one)


async def test_a_worker_that_hangs_does_not_hang_its_callers(stack: Stack) -> None:
    """F5: its port stays open and nobody answers; calls end at their deadline, and go on after."""
    injector = Injector(stack, random.Random(1))
    async with under_load(stack):
        await injector.inject(Kind.WORKER_STOP, LASTS_S)


async def test_a_worker_that_hangs_is_replaced(stack: Stack) -> None:
    """F5: its supervisor hears nothing of it any more; what it had is done by another one."""
    async with under_load(stack) as one:
        worker = stack.processes("worker")[0]
        send(worker, signal.SIGSTOP)
        try:
            await until(partial(gone, worker), RESTART_S)
        finally:
            send(worker, signal.SIGCONT)
        await go_on(one)
        await until(lambda: len(stack.processes("worker")) == WORKERS, RESTART_S)


async def test_a_second_service_is_refused(stack: Stack) -> None:
    """F6: no version shares the port with another by accident; the first goes on."""
    second = Stack(stack.folder, port=stack.port)
    second.store, second.ledger = stack.store, stack.ledger
    second.store_proxy, second.ledger_proxy = stack.store_proxy, stack.ledger_proxy
    await second._serve_once()
    assert not second._ready.is_set()
    async with new_client(stack) as client:
        assert await funded(client)


async def test_file_descriptors_run_out(stack: Stack) -> None:
    """F61: connections that cannot be taken cost nobody else their answer, and it heals.

    The workers are new: what they read when they first decide would take a descriptor.
    """
    for worker in stack.processes("worker"):
        send(worker, signal.SIGKILL)
        await until(partial(gone, worker))
    await until(lambda: len(stack.processes("worker")) == WORKERS, RESTART_S)
    before = {}
    for worker in stack.processes("worker"):
        before[worker] = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        few = DESCRIPTORS_MAX, before[worker][1]
        resource.prlimit(worker, resource.RLIMIT_NOFILE, few)
    async with under_load(stack) as one:
        with ExitStack() as knocks:
            for _ in range(KNOCKS):
                knocks.enter_context(socket.create_connection((LOOPBACK, stack.port)))
            await go_on(one)
        for worker, limit in before.items():
            resource.prlimit(worker, resource.RLIMIT_NOFILE, limit)
        async with new_client(stack) as client:
            assert await funded(client)


async def test_processor_time_runs_short(stack: Stack) -> None:
    """F62: workers get a fifth of a core, and nothing piles up that is not refused or done."""
    async with under_load(stack):
        workers = stack.processes("worker")
        ends_s = time.monotonic() + LASTS_S
        while time.monotonic() < ends_s:
            for number, pause_s in ((signal.SIGSTOP, STARVED_S), (signal.SIGCONT, FED_S)):
                for worker in workers:
                    send(worker, number)
                await asyncio.sleep(pause_s)


# --- Stores and lines ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(Kind.STORE_KILL, id="F7 the store dies"),
        pytest.param(Kind.STORE_DELAY, id="F24 the store is slow"),
        pytest.param(Kind.STORE_DROP_REPLY, id="F25 replies of the store are lost"),
        pytest.param(Kind.STORE_HALF_OPEN, id="F26 replies of the store are late"),
        pytest.param(Kind.LEDGER_KILL, id="F34 the ledger dies"),
        pytest.param(Kind.FLUSHER_KILL, id="F38 the flusher dies"),
        pytest.param(Kind.FLUSHER_STOP, id="F40 the flusher hangs"),
        pytest.param(Kind.STORE_CUT, id="F47 nobody reaches the store"),
        pytest.param(Kind.LEDGER_BLACKHOLE, id="F48 nobody hears of the ledger"),
        pytest.param(Kind.LEDGER_HALF_OPEN, id="F48 the ledger is heard of one way"),
    ],
)
async def test_one_thing_goes_wrong_under_load(stack: Stack, kind: Kind) -> None:
    """F7, F24, F25, F26, F34, F38, F40, F47, F48: nothing lost, doubled or stuck."""
    injector = Injector(stack, random.Random(1))
    async with under_load(stack) as one:
        await go_on(one)
        await injector.inject(kind, LASTS_S)
        await go_on(one)
    assert injector.done == {kind: 1}


async def test_the_store_forks_again_and_again(stack: Stack) -> None:
    """F28: rewriting the append-only file costs time, and no call is refused."""
    async with redis.Redis.from_url(stack.store.url) as store, under_load(stack) as one:
        before = (await store.info("persistence"))["rdb_last_save_time"]
        for _ in range(3):
            await store.bgrewriteaof()
            await go_on(one)
            await until(lambda: _rewritten(store))
    assert before
    assert "fail" not in {each.status.value for each in one.attempts.made}


async def _rewritten(store: object) -> bool:
    info = await store.info("persistence")  # type: ignore[attr-defined]
    return not info["aof_rewrite_in_progress"] and info["aof_last_bgrewrite_status"] == "ok"


async def test_the_store_is_away(stack: Stack) -> None:
    """F47: an error that says that nothing was decided and when to come back; then it goes on."""
    async with new_client(stack) as patient, new_client(stack, timeout_ms=800) as hasty:
        account = await funded(patient)
        stack.store_proxy.cut()
        with pytest.raises(HoldfastError) as caught:
            await hasty.reserve(account, 1)
        stack.store_proxy.heal()
        assert (await patient.reserve(account, 1)).decision.outcome is Outcome.GRANTED
    assert caught.value.reason in {"STORE_UNAVAILABLE", "RESULT_UNKNOWN"}


async def test_the_ledger_is_away(stack: Stack) -> None:
    """F30: holds go on, the ledger's word is not claimed without it, and it catches up."""
    async with new_client(stack) as client:
        account = await funded(client)
        # Now this worker knows the credit type.
        await client.burn(account, 1)
        await stack.kill_ledger()
        try:
            receipts = [await client.burn(account, 1) for _ in range(BURNS)]
            given = await client.grant(
                account, 1, source=GrantSource.SUPPORT, durability=Durability.LEDGER
            )
        finally:
            await stack.start_ledger()
        assert all(receipt.applied.seq for receipt in receipts)
        assert given.applied.durability is not Durability.LEDGER
        sure = await client.burn(account, 1, durability=Durability.LEDGER)
        assert sure.applied.seq
        assert await burned(client, account) == BURNS + 2


# --- Callers ------------------------------------------------------------------------------------


async def test_one_key_from_everywhere_at_once(stack: Stack) -> None:
    """F45: one application and one answer, whichever worker is asked."""
    async with new_client(stack) as first:
        account, key = await funded(first), new_key()
        clients = [new_client(stack) for _ in range(STORM)]
        try:
            answers = await asyncio.gather(
                *(client.reserve(account, 7, key=key) for client in clients)
            )
        finally:
            for client in clients:
                await client.close()
        (credit,) = (await first.balance(account)).credits
    assert len({answer.applied.transaction_id for answer in answers}) == 1
    assert len({answer.hold_id for answer in answers}) == 1
    assert sum(not answer.applied.replayed for answer in answers) == 1
    assert credit.buckets.held == 7


async def test_callers_that_do_not_wait(stack: Stack) -> None:
    """F46: a deadline of a millisecond, or a caller that leaves: the same key finds the result."""
    async with new_client(stack) as patient, new_client(stack, timeout_ms=1) as hasty:
        account = await funded(patient)
        keys = [new_key() for _ in range(BURNS)]
        for key in keys:
            leaving = asyncio.create_task(hasty.burn(account, 1, key=key))
            await asyncio.wait([leaving], timeout=0.002)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        for key in keys:
            assert (await patient.burn(account, 1, key=key)).applied.seq
        assert await burned(patient, account) == BURNS


# --- Losses -------------------------------------------------------------------------------------
# The last tests of this file: where a partition was rebuilt, the ledger is asked about every new
# key for some minutes, and must not be away.


async def test_the_store_is_restored_from_an_old_copy(stack: Stack) -> None:
    """F9, F65: the ledger's word counts; the service notices and rebuilds by itself."""
    async with new_client(stack, timeout_ms=RECOVERY_MS) as client:
        account = await funded(client)
        before = await client.burn(account, 1)
        await until(lambda: recorded(stack, before))
        await stack.stop_store()
        copy = stack.folder / "copy"
        shutil.copytree(stack.folder / "valkey", copy)
        await stack.start_store()
        key = new_key()
        after = await client.burn(account, 2, key=key)
        await until(lambda: recorded(stack, after))
        await stack.kill_store()
        shutil.rmtree(stack.folder / "valkey")
        copy.rename(stack.folder / "valkey")
        await stack.start_store()
        again = await client.burn(account, 2, key=key)
        later = await client.burn(account, 4)
        assert again.applied.replayed
        assert again.applied.transaction_id == after.applied.transaction_id
        assert place(before) < place(after) < place(later)
        assert await burned(client, account) == 7


async def test_somebody_deletes_everything(stack: Stack) -> None:
    """F11: what the ledger has comes back, and nothing is granted before it has."""
    async with new_client(stack, timeout_ms=RECOVERY_MS) as client:
        account = await funded(client)
        spent = await client.burn(account, GRANTED - 1)
        await until(lambda: recorded(stack, spent))
        async with redis.Redis.from_url(stack.store.url) as store:
            await store.flushall()
        denied = await client.burn(account, GRANTED - 1)
        granted = await client.burn(account, 1)
        assert denied.decision.outcome is Outcome.DENIED
        assert granted.decision.outcome is Outcome.GRANTED
        assert await burned(client, account) == GRANTED


def expired(stack: Stack, account: str) -> bool:
    """Whether the ledger says that a hold of an account has expired."""
    asked = "SELECT 1 FROM holdfast.entry WHERE account = %s AND kind = %s"
    with psycopg.connect(stack.ledger.url) as connection:
        where = account, int(EntryKind.HOLD_EXPIRED)
        return connection.execute(asked, where).fetchone() is not None


async def test_a_hold_expires_although_everything_was_deleted(stack: Stack) -> None:
    """F11: the index of what is due comes back too, without anybody asking for the account."""
    async with new_client(stack, timeout_ms=RECOVERY_MS) as client:
        account = await funded(client)
        await client.reserve(account, 7, ttl_ms=HOLD_MS, durability=Durability.LEDGER)
        assert not expired(stack, account)
        async with redis.Redis.from_url(stack.store.url) as store:
            await store.flushall()
        await until(lambda: expired(stack, account), RESTART_S)
        (credit,) = (await client.balance(account)).credits
        assert (credit.buckets.available, credit.buckets.held) == (GRANTED, 0)


async def is_stored(stack: Stack, account: str) -> bool:
    """Whether the tree of a root is in the store."""
    async with redis.Redis.from_url(stack.store.url) as store:
        return bool([key async for key in store.scan_iter(match=f"*:t:*/{account}")])


async def test_accounts_come_back_although_everything_was_deleted(stack: Stack) -> None:
    """F11, F54: those that were in use, without anybody asking for one."""
    async with new_client(stack, timeout_ms=RECOVERY_MS) as client:
        account = await funded(client)
        await client.burn(account, 7, durability=Durability.LEDGER)
        async with redis.Redis.from_url(stack.store.url) as store:
            await store.flushall()
        await until(lambda: is_stored(stack, account), RESTART_S)
        assert await burned(client, account) == 7
