"""What goes wrong in the store leaves no trace: all or nothing, or an honest unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from zoneinfo import ZoneInfo

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.engine.backlog import entries_waiting
from holdfast_server.engine.batcher import RETRY_AFTER_MS, Limits
from holdfast_server.engine.keys import FLUSHED_FIELD
from holdfast_server.errors import HoldfastError, Reason
from tests.support.descriptors import no_descriptors
from tests.support.pair import GENERATION_MS, Real, build


def reserve(key: str, amount: int = 10, account: str = "a") -> op.Reserve:
    return op.Reserve("t", account, (op.Line("ai", amount),), 1_000, key)


async def prepare(real: Real) -> str:
    """An account with credits, an open hold and a grant that expires; answers the hold."""
    now_ms = real.clock.now_ms
    expiring = op.GrantTerms("ai", 50, op.GrantSource.PLAN, expires_at_ms=now_ms + 3_600_000)
    answers = await real.decide(
        [
            op.CreateAccount("t", "a", op.AccountTerms(), "1"),
            op.Grant("t", "a", op.GrantTerms("ai", 100, op.GrantSource.PURCHASE), "2"),
            op.Grant("t", "a", expiring, "3"),
            reserve("4"),
        ]
    )
    return str(answers[-1].hold)


async def publish_flushed(real: Real, seq: int) -> None:
    """Says that the ledger has the first partition up to there."""
    await real.store.client.hset(real.keys.state(0, 1), FLUSHED_FIELD, seq)


async def dump(real: Real) -> dict[bytes, bytes]:
    """Everything in the store."""
    client = real.store.client
    return {key: await client.dump(key) or b"" async for key in client.scan_iter()}


async def test_a_key_of_a_wrong_type_leaves_no_partial_write(valkey_url: str) -> None:
    """F22: every key in turn, for an operation that would write most of them."""
    real = build(valkey_url, partitions=1)
    await real.decide([op.CreateAccount("t", "b", op.AccountTerms(), "first")])
    await publish_flushed(real, 1)
    real.clock.now_ms += GENERATION_MS
    hold = await prepare(real)
    # So many holds that the tree's index of due times is a key of its own.
    await real.decide([reserve(f"more-{number}", 1) for number in range(20)])
    real.clock.now_ms += 1_500
    partition_keys = real.keys.partition_keys(0, 1)
    # Records of the former generation are only read for a key that somebody has claimed.
    partition_keys.remove(real.keys.prefix(0, 1) + "former")
    names = [*partition_keys, *real.keys.tree_keys(0, 1, "t", "a")]
    client = real.store.client
    refused = 0
    for name in names:
        saved = await client.dump(name)
        await client.delete(name)
        await client.sadd(name, "x")
        before = await dump(real)
        answers = await real.decide([reserve(f"wrong-{name}"), op.Commit("t", hold, f"c-{name}")])
        after = await dump(real)
        if all(isinstance(answer, HoldfastError) for answer in answers):
            refused += 1
            assert before == after, name
            assert {answer.reason for answer in answers} == {Reason.INTERNAL}
        await client.delete(name)
        if saved:
            await client.restore(name, 0, saved)
    assert refused == len(names)
    await real.store.close()


async def test_a_faulty_operation_does_not_take_others_with_it(
    real: Real, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch with a fault is taken apart: only the faulty operation fails, and its caller is told
    where the log has why.
    """
    await prepare(real)
    await real.decide([op.CreateAccount("t", "b", op.AccountTerms(), "b1")])
    tree = real.keys.tree_keys(real.keys.partition("t", "b"), 1, "t", "b")[0]
    await real.store.client.hset(tree, "ab", b"not msgpack at all \xc1")

    answers = await real.decide(
        [reserve("x1"), reserve("x2", account="b"), reserve("x3"), op.GetBalance("t", "a")]
    )

    assert [getattr(answer, "reason", None) for answer in answers] == [
        None,
        Reason.INTERNAL,
        None,
        None,
    ]
    assert answers[3].credits[0].buckets.held == 30
    reference = answers[1].metadata["reference"]
    assert reference in answers[1].message
    assert "fault" in next(each.message for each in caplog.records if reference in str(vars(each)))


async def test_a_zone_that_cannot_be_read_fails_its_account_alone(real: Real) -> None:
    """F61: the file of a zone that nobody has named before, and no descriptor to open it."""
    await prepare(real)
    # The first call of a script is made anew on another connection: this one is kept.
    await real.decide([reserve("5")])
    terms = op.AccountTerms(zone="Pacific/Marquesas")
    ZoneInfo.clear_cache()
    with no_descriptors():
        refused, held = await real.decide([op.CreateAccount("t", "z", terms, "z"), reserve("x")])
    assert refused.reason is Reason.OVERLOADED
    assert held.applied.seq

    (created,) = await real.decide([op.CreateAccount("t", "z", terms, "z")])
    assert created.applied.seq


async def test_a_store_that_no_connection_can_be_made_to_is_away(real: Real) -> None:
    """F61: no descriptor for another connection to the hot store."""
    await prepare(real)
    with no_descriptors():
        (refused,) = await real.decide([reserve("x")])
    assert refused.reason is Reason.STORE_UNAVAILABLE

    (held,) = await real.decide([reserve("x")])
    assert held.applied.seq


async def test_a_forgotten_script_is_loaded_again(real: Real) -> None:
    """F19: SCRIPT FLUSH and FUNCTION FLUSH cost one more round trip and nothing else."""
    await prepare(real)
    for number in range(5):
        await real.store.client.script_flush()
        await real.store.client.function_flush()
        (answer,) = await real.decide([reserve(f"after-flush-{number}", 1)])
        assert answer.applied.seq


async def test_a_store_out_of_memory_refuses_and_changes_nothing(real: Real) -> None:
    """F20, for new holds."""
    await prepare(real)
    client = real.store.client
    before = await dump(real)
    await client.config_set("maxmemory", 1)
    try:
        (answer,) = await real.decide([reserve("full")])
    finally:
        await client.config_set("maxmemory", 0)
    assert answer.reason is Reason.STORE_OUT_OF_MEMORY
    assert await dump(real) == before
    (again,) = await real.decide([reserve("full")])
    assert again.applied.seq


async def test_a_read_only_store_refuses_and_changes_nothing(real: Real) -> None:
    """F18."""
    await prepare(real)
    client = real.store.client
    await client.replicaof("127.0.0.1", 1)
    try:
        (answer,) = await real.decide([reserve("demoted")])
    finally:
        await client.replicaof("NO", "ONE")
    assert answer.reason is Reason.STORE_WRITE_BLOCKED


@asynccontextmanager
async def proxied(
    url: str, drop_replies: int, commands: Sequence[bytes] = (b"EVALSHA", b"FCALL")
) -> AsyncIterator[str]:
    """A proxy that breaks the connection in place of the first replies to commands: to scripts."""
    parts = urlsplit(url)
    left = [drop_replies]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(
            _pipe(reader, upstream[1], commands, None, asked := [False]),
            _pipe(upstream[0], writer, commands, left, asked),
            return_exceptions=True,
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    credentials = parts.netloc.rpartition("@")[0]
    netloc = f"{credentials}@127.0.0.1:{port}" if credentials else f"127.0.0.1:{port}"
    async with server:
        yield urlunsplit(parts._replace(netloc=netloc))


async def _pipe(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    commands: Sequence[bytes],
    drops: list[int] | None,
    asked: list[bool],
) -> None:
    try:
        while data := await reader.read(65_536):
            if drops is None:
                asked[0] = asked[0] or any(command in data for command in commands)
            elif asked[0] and drops[0] > 0:
                drops[0] -= 1
                return
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def test_a_lost_reply_is_unknown_and_a_retry_applies_once(valkey_url: str) -> None:
    """F2, F25, F26: the script ran, the answer was lost; the same key finds it."""
    direct = build(valkey_url)
    await prepare(direct)
    async with proxied(valkey_url, drop_replies=1) as url:
        through = build(url, armed_at=valkey_url)
        # Nobody has to be asked where the account is: that would be the first script.
        through.directory.learn("t", "a", "a")
        (lost,) = await through.decide([reserve("unsure", 7)])
        (retried,) = await through.decide([reserve("unsure", 7)])
        await through.store.close()
    (balance,) = await direct.decide([op.GetBalance("t", "a")])
    await direct.store.close()
    assert lost.reason is Reason.RESULT_UNKNOWN
    assert retried.applied.replayed
    assert balance.credits[0].buckets.held == 17


@pytest.mark.parametrize(("account", "command"), [("a", b"EXISTS"), ("below", b"EVALSHA")])
async def test_a_lost_reply_to_a_question_leaves_nothing_unknown(
    valkey_url: str, account: str, command: bytes
) -> None:
    """Where an account is, is asked first, by a script where that is no root; nothing was decided
    when that was lost.
    """
    direct = build(valkey_url)
    await prepare(direct)
    await direct.decide([op.CreateAccount("t", "below", op.AccountTerms(parent="a"), "5")])
    wanted = reserve("unasked", 7, account)
    async with proxied(valkey_url, drop_replies=1, commands=[command]) as url:
        through = build(url, armed_at=valkey_url)
        (lost,) = await through.decide([wanted])
        (again,) = await through.decide([wanted])
        await through.store.close()
    await direct.store.close()
    assert lost.reason is Reason.STORE_UNAVAILABLE
    assert again.applied.seq
    assert not again.applied.replayed


async def test_a_store_that_is_not_there_is_unavailable() -> None:
    real = build("redis://127.0.0.1:1")
    (answer,) = await real.decide([reserve("nobody")])
    await real.store.close()
    assert answer.reason is Reason.STORE_UNAVAILABLE
    assert answer.metadata["retry_after_ms"]


async def test_a_full_queue_refuses_before_anything_is_sent(valkey_url: str) -> None:
    """I21: the queue is bounded."""
    real = build(valkey_url, limits=Limits(queue_operations=5))
    await prepare(real)
    answers = await asyncio.gather(*(real.decide([reserve(f"q{n}", 1)]) for n in range(20)))
    refused = [found for (found,) in answers if isinstance(found, HoldfastError)]
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    await real.store.close()
    told = {(error.reason, error.metadata["retry_after_ms"]) for error in refused}
    assert told == {(Reason.OVERLOADED, str(RETRY_AFTER_MS))}
    assert balance.credits[0].buckets.held == 10 + 20 - len(refused)


async def test_a_backlog_stops_new_holds_but_not_settlements(valkey_url: str) -> None:
    """F31 at its hard limit: what waits is bounded, work that was done is settled."""
    real = build(valkey_url, partitions=1, limits=Limits(outbox_entries=4))
    hold = await prepare(real)
    (refused,) = await real.decide([reserve("more")])
    (settled,) = await real.decide([op.Commit("t", hold, "settle")])
    await real.store.close()
    assert refused.reason is Reason.LEDGER_BACKLOG
    assert settled.applied.seq


async def test_a_backlog_is_counted_over_all_partitions(valkey_url: str) -> None:
    """F31: no partition has much, and all together they have too much."""
    real = build(valkey_url, partitions=8)
    hold = await prepare(real)
    assert await entries_waiting(real.store, real.keys) == len(await real.entries()) > 0
    real.batcher.is_backlogged = True
    (refused,) = await real.decide([reserve("more")])
    burn = op.Burn("t", "a", (op.Line("ai", 1),), "burn")
    (also_refused,) = await real.decide([burn])
    (settled,) = await real.decide([op.Commit("t", hold, "settle")])
    assert [refused.reason, also_refused.reason] == [Reason.LEDGER_BACKLOG] * 2
    assert settled.applied.seq
    for entry in await real.entries():
        state = real.keys.state(entry.partition, entry.epoch)
        await real.store.read("HSET", state, FLUSHED_FIELD, entry.seq)
    assert await entries_waiting(real.store, real.keys) == 0
    real.batcher.is_backlogged = False
    (granted,) = await real.decide([burn])
    assert granted.applied.seq
    await real.store.close()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_cancelled_caller_does_not_cancel_the_decision(real: Real, cancelled: bool) -> None:
    """F46: what was sent is finished; the result waits under its key."""
    await prepare(real)
    task = asyncio.create_task(real.decide([reserve("gone", 3)]))
    await asyncio.sleep(0)
    if cancelled:
        task.cancel()
    results: list[Any] = await asyncio.gather(task, return_exceptions=True)
    (again,) = await real.decide([reserve("gone", 3)])
    (balance,) = await real.decide([op.GetBalance("t", "a")])
    assert isinstance(results[0], asyncio.CancelledError) is cancelled
    assert again.applied.seq
    assert balance.credits[0].buckets.held == 13


async def test_what_is_submitted_when_all_calls_end_at_once_is_run(
    real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F46: nobody waits for the other answer, so that nobody else submits."""
    await prepare(real)
    answered, together = asyncio.Semaphore(0), asyncio.Event()

    call = type(real.store).call

    async def call_slowly(*arguments: Any) -> Any:
        answer = await call(*arguments)
        answered.release()
        await together.wait()
        return answer

    monkeypatch.setattr(type(real.store), "call", call_slowly)

    async def decide_twice() -> list[Any]:
        return [*await real.decide([reserve("one")]), *await real.decide([reserve("two")])]

    deciding = asyncio.create_task(decide_twice())
    await answered.acquire()
    gone = asyncio.create_task(real.decide([reserve("gone")]))
    await answered.acquire()
    gone.cancel()
    await asyncio.wait([gone])
    together.set()
    async with asyncio.timeout(10):
        one, two = await deciding
    assert one.applied.seq
    assert two.applied.seq
