"""A stale replica takes over from a store that a whole service works with.

What the old master acknowledged last is in no store any more. It is reported to the entry, and who
has the token of a hold that was lost with it is served nevertheless, once.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import pytest_asyncio
import redis

from holdfast import (
    AsyncClient,
    Durability,
    EntryKind,
    GrantSource,
    HoldfastError,
    ReserveResult,
    new_key,
)
from holdfast_server import embedded
from holdfast_server.chaos.proxy import LOOPBACK, Proxy
from holdfast_server.chaos.stack import Stack, send
from holdfast_server.embedded.process import Server
from tests.faults.conftest import folder_of_servers
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

CREDITS = "faults"
GRANTED = 1_000
#: How long a caller waits for a store that is recovered meanwhile.
RECOVERY_MS = 60_000


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[Stack]:
    """Of its own: in the end another server is its store."""
    with folder_of_servers() as folder:
        async with Stack(folder) as stack:
            yield stack


@contextmanager
def replica_of(store: Server, line: Proxy) -> Iterator[Server]:
    """A replica that hears by `line`, with the password of its master, whose place it can take."""
    password = urlsplit(store.url).password or ""
    with folder_of_servers() as folder:
        (folder / "password").write_text(password)
        options = ("--masterauth", password, "--replicaof", f"{LOOPBACK} {line.port}")
        with embedded.start_valkey(folder, extra_args=options) as replica:
            yield replica


def ask(server: Server, *command: str) -> Any:
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*command)


def has_all_of(replica: Server, store: Server) -> bool:
    theirs, ours = ask(store, "INFO", "replication"), ask(replica, "INFO", "replication")
    is_up: bool = ours["master_link_status"] == "up"
    return is_up and bool(ours["slave_repl_offset"] == theirs["master_repl_offset"])


def rows(stack: Stack, query: str, *values: object) -> Sequence[tuple[Any, ...]]:
    with psycopg.connect(stack.ledger.url) as connection:
        return connection.execute(query, values).fetchall()


def is_recorded(stack: Stack, held: ReserveResult) -> bool:
    asked = "SELECT 1 FROM holdfast.entry WHERE partition = %s AND epoch = %s AND seq = %s"
    return bool(rows(stack, asked, *place(held)))


def place(held: ReserveResult) -> tuple[int, int, int]:
    return held.applied.partition, held.applied.epoch, held.applied.seq


async def take_over(stack: Stack, replica: Server) -> None:
    """The master dies with what only it had, and everybody goes to its replica."""
    await stack.kill_store()
    ask(replica, "REPLICAOF", "NO", "ONE")
    stack.store_proxy.lead_to(replica.port)
    stack.ledger_proxy.heal()


async def test_a_hold_that_only_the_old_master_had_is_committed_once(stack: Stack) -> None:
    """F14: the lost Reserve is reported to the entry; its Commit is booked, and then replayed."""
    async with AsyncExitStack() as running:
        line = await running.enter_async_context(Proxy(stack.store.port))
        replica = running.enter_context(replica_of(stack.store, line))
        client = await running.enter_async_context(
            AsyncClient(stack.target, credit_type=CREDITS, timeout_ms=RECOVERY_MS)
        )
        await client.create_credit_type(CREDITS)
        await client.create_account("ada")
        await client.grant("ada", GRANTED, source=GrantSource.PURCHASE)
        kept = await client.reserve("ada", 100)
        await until(lambda: is_recorded(stack, kept))
        await until(lambda: has_all_of(replica, stack.store))
        # From here on neither the replica nor the ledger learns of anything. A flusher that had
        # read an entry would bring it to the ledger afterwards.
        line.cut()
        stack.ledger_proxy.cut()
        for flusher in stack.processes("flush"):
            send(flusher, signal.SIGKILL)
        lost = await client.reserve("ada", 200)
        await take_over(stack, replica)

        key = new_key()
        committed = await client.commit(lost.hold_id, 150, key=key, durability=Durability.LEDGER)
        again = await client.commit(lost.hold_id, 150, key=key)
        with pytest.raises(HoldfastError) as refused:
            await client.commit(lost.hold_id, 150)
        await client.commit(kept.hold_id, 60, durability=Durability.LEDGER)
        (credit,) = (await client.balance("ada")).credits

    assert again.applied.replayed
    assert again.applied.transaction_id == committed.applied.transaction_id
    assert refused.value.reason == "HOLD_ALREADY_COMMITTED"
    assert (credit.buckets.burned, credit.buckets.held) == (210, 0)
    assert credit.buckets.available == GRANTED - 210
    assert not is_recorded(stack, lost)
    partition, epoch, seq = place(lost)
    reported = "SELECT partition, epoch, first_seq, last_seq FROM holdfast.loss_report"
    assert rows(stack, reported) == [(partition, epoch, seq, seq)]
    booked = "SELECT delta_burned FROM holdfast.entry WHERE kind = %s"
    assert rows(stack, booked, int(EntryKind.RECOVERED_COMMIT)) == [(150,)]
