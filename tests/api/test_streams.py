"""Whom a stream works for and what it takes from others, over a submitter that does as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import reason_pb2 as reasons
from holdfast_server.api import dispatch, session, transport
from holdfast_server.api.allowance import Allowance
from holdfast_server.api.auth.authenticator import Authenticator
from holdfast_server.api.auth.principal import Principal, Role
from holdfast_server.api.auth.static_tokens import StaticTokens
from holdfast_server.api.dispatch import Bounds
from holdfast_server.api.session import RESULTS_BYTES_MAX, Answers, Put, Session, Ways
from holdfast_server.domain import reply
from holdfast_server.domain.operation import Operation
from holdfast_server.domain.submit import Answer
from holdfast_server.errors import Reason
from holdfast_server.telemetry.logs import current_place
from holdfast_server.telemetry.names import Attribute, SpanName
from holdfast_server.telemetry.tracing import Tracing
from tests.api.recording import HeldUp, Recording, empty_balance, running
from tests.api.service import Credential, write_credentials
from tests.support.stubs import stubs
from tests.support.waiting import WAIT_SECONDS
from tests.support.wire import refused

#: Operations that may be at work at one time.
PLACES = 3
#: By how much the time of connections and streams is shortened for a test.
SHORTER = 300
#: Together more than a connection takes for a stream that is not read.
LARGE_ANSWERS, LARGE_BYTES = 8, 1_000_000


def look(id: int, tenant: str = "") -> balance.SessionRequest:
    """A message with one operation."""
    item = balance.BatchItem(id=id, balance=balance.BalanceRequest(tenant=tenant, account="a"))
    return balance.SessionRequest(items=[item])


def traced(trace_id: str, id: int) -> str:
    return f"00-{trace_id}-{id:016x}-01"


def apart(operations: int) -> balance.SessionRequest:
    """A message with operations of as many traces: where each has a span, it is answered by
    itself.
    """
    items = [item for id in range(1, operations + 1) for item in look(id).items]
    for item in items:
        item.traceparent = traced(f"{item.id:032x}", item.id)
    return balance.SessionRequest(items=items)


async def test_a_credential_that_was_given_to_another_tenant_does_nothing_more_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PROOF_SECONDS", 0.0)
    seconds, path = [0.0], tmp_path / "tokens"
    write_credentials(path, [Credential("secret", "first", (Role.SPENDER,))])
    recording = Recording()
    authenticator = Authenticator(StaticTokens(path, lambda: seconds[0]))
    async with (
        running(recording, authenticator=authenticator) as served,
        stubs(served.port, token="secret") as client,
    ):
        stream = client.session()
        for id, tenant in enumerate(["first", "second"], start=1):
            write_credentials(path, [Credential("secret", tenant, (Role.SPENDER,))])
            seconds[0] += 60.0
            await stream.write(look(id))
            assert [result.id for result in (await stream.read()).results] == [id]
        await stream.done_writing()
    assert [operation.tenant for _, operation in recording.seen] == ["first", "second"]


async def test_a_caller_that_does_not_read_its_answers_takes_no_place_from_others() -> None:
    """As many others as there are places meet at work, while the answers wait to be read."""
    meeting, begun = asyncio.Barrier(PLACES), asyncio.Queue[None]()

    async def behave(operation: Operation) -> Answer:
        if operation.tenant == "large":
            begun.put_nowait(None)
            return large_balance()
        await meeting.wait()
        return await empty_balance(operation)

    bounds = Bounds(deadline_ms=60_000, concurrent_max=PLACES)
    async with (
        running(Recording(behave), bounds=bounds) as served,
        stubs(served.port) as client,
        stubs(served.port) as other,
    ):
        stream = client.session()
        for id in range(1, LARGE_ANSWERS + 1):
            await stream.write(look(id, "large"))
            await asyncio.wait_for(begun.get(), WAIT_SECONDS)
        await served.dispatcher.wait_for_work(WAIT_SECONDS)
        asked = balance.BalanceRequest(account="a")
        await asyncio.gather(*(other.balance.Balance(asked) for _ in range(PLACES)))
        await stream.done_writing()
        answers = [message async for message in stream]
    ids = [result.id for message in answers for result in message.results]
    assert ids == list(range(1, LARGE_ANSWERS + 1))


@pytest.mark.parametrize("operations", [PLACES, 2 * PLACES])
async def test_operations_of_a_stream_take_all_places_there_are(operations: int) -> None:
    """They meet at work; how many more come with them changes nothing for so many."""
    meeting = asyncio.Barrier(PLACES)

    async def behave(operation: Operation) -> Answer:
        await meeting.wait()
        return await empty_balance(operation)

    bounds = Bounds(deadline_ms=60_000, concurrent_max=PLACES)
    tracing = Tracing({}, 1.0, InMemorySpanExporter())
    async with (
        running(Recording(behave), bounds=bounds, tracing=tracing) as served,
        stubs(served.port) as client,
    ):
        stream = client.session()
        await stream.write(apart(operations))
        results = list[balance.BatchResult]()
        while len(results) < operations:
            results += (await asyncio.wait_for(stream.read(), WAIT_SECONDS)).results
        await stream.done_writing()
    refused = [each.error.reason for each in results if each.WhichOneof("result") == "error"]
    assert refused == [reasons.REASON_OVERLOADED] * (operations - PLACES)


@pytest.mark.parametrize("reason", [None, "INTERNAL"], ids=["answered", "failed"])
async def test_a_message_is_traced_as_a_call_is(reason: str | None) -> None:
    """Its log lines and its span lead to it."""
    spans, trace_id, seen = InMemorySpanExporter(), "ab" * 16, list[str]()

    async def behave(operation: Operation) -> Answer:
        seen.append(current_place.get().trace_id)
        if reason:
            raise ValueError
        return await empty_balance(operation)

    tracing = Tracing({}, 1.0, spans)
    async with (
        running(Recording(behave), tracing=tracing) as served,
        stubs(served.port) as client,
    ):
        stream, asked = client.session(), look(1)
        asked.items[0].traceparent = f"00-{trace_id}-{'cd' * 8}-01"
        await stream.write(asked)
        assert [result.id for result in (await stream.read()).results] == [1]
        await stream.done_writing()
    tracing.close()
    (span,) = spans.get_finished_spans()
    assert seen == [trace_id]
    assert span.attributes is not None
    assert span.attributes[Attribute.METHOD] == "Session"
    assert span.attributes.get(Attribute.REASON) == reason
    assert (Attribute.STATUS in span.attributes) is bool(reason)


async def test_operations_that_have_no_span_travel_together_and_stay_each_in_its_trace() -> None:
    """Every request of a service has a trace of its own, of which few are recorded."""
    spans, recording = InMemorySpanExporter(), Recording(is_slow=is_slow)
    tracing = Tracing({}, 0.5, spans)
    traces = {
        "a": "aa" * 8 + "ff" * 8,
        "b": "bb" * 8 + "ff" * 8,
        "slow": "cc" * 8 + "ff" * 8,
        "recorded": "dd" * 8 + "00" * 8,
    }
    async with running(recording, tracing=tracing) as served, stubs(served.port) as client:
        stream, asked = client.session(), several(*traces)
        for item, trace_id in zip(asked.items, traces.values(), strict=True):
            item.traceparent = traced(trace_id, item.id)
        await stream.write(asked)
        results: list[balance.BatchResult] = []
        while len(results) < len(traces):
            results += (await asyncio.wait_for(stream.read(), WAIT_SECONDS)).results
        await stream.done_writing()
    tracing.close()
    found = {account_of(operation): caller.trace_id for caller, operation in recording.seen}
    assert found == traces
    assert recording.tried == [3]
    assert [span.name for span in spans.get_finished_spans()] == [SpanName.RPC]


async def test_an_operation_that_takes_too_long_is_answered_once_and_its_work_goes_on() -> None:
    """At the server's deadline, as a call of its own is; its id is free from then on."""
    work, bounds = HeldUp(), Bounds(deadline_ms=50, concurrent_max=10)
    async with running(Recording(work), bounds=bounds) as served, stubs(served.port) as client:
        stream = client.session()
        await stream.write(look(1))
        (late,) = (await asyncio.wait_for(stream.read(), WAIT_SECONDS)).results
        assert (late.id, late.error.reason) == (1, reasons.REASON_DEADLINE_EXCEEDED)
        assert not work.is_done.is_set()
        work.is_released.set()
        await served.dispatcher.wait_for_work(WAIT_SECONDS)
        assert work.is_done.is_set()
        await stream.write(look(1))
        (answer,) = (await stream.read()).results
        assert (answer.id, answer.WhichOneof("result")) == (1, "balance")
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_an_operation_whose_work_was_cancelled_inside_is_answered() -> None:
    async def cancel(operation: Operation) -> Answer:
        raise asyncio.CancelledError

    bounds = Bounds(deadline_ms=50, concurrent_max=10)
    async with running(Recording(cancel), bounds=bounds) as served, stubs(served.port) as client:
        stream = client.session()
        await stream.write(look(1))
        (answer,) = (await asyncio.wait_for(stream.read(), WAIT_SECONDS)).results
        assert (answer.id, answer.error.reason) == (1, reasons.REASON_DEADLINE_EXCEEDED)
        await stream.done_writing()


def large_balance() -> Answer:
    """An answer that takes room by the name in it."""
    account = "a" * LARGE_BYTES
    return reply.BalanceReply(account=account, credits=(), limits=(), open_holds=0, as_of_ms=1)


def several(*accounts: str) -> balance.SessionRequest:
    """A message with operations on accounts, with ids from 1."""
    asked = [balance.BalanceRequest(account=account) for account in accounts]
    items = [balance.BatchItem(id=id, balance=each) for id, each in enumerate(asked, 1)]
    return balance.SessionRequest(items=items)


def account_of(operation: Operation) -> str:
    return str(getattr(operation, "account", ""))


def is_slow(operation: Operation) -> bool:
    return account_of(operation) == "slow"


async def test_a_stream_on_an_old_connection_is_asked_to_end_and_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is past its age long before the stream is past its own."""
    monkeypatch.setattr(transport, "CONNECTION_AGE_MS_MAX", 1_000)
    monkeypatch.setattr(
        transport, "CONNECTION_AGE_GRACE_MS", transport.CONNECTION_AGE_GRACE_MS // SHORTER
    )
    monkeypatch.setattr(session, "AGE_SECONDS_MAX", session.AGE_SECONDS_MAX / SHORTER)
    async with running(Recording()) as served, stubs(served.port) as client:
        stream = client.session()
        await stream.write(look(1))
        assert [result.id for result in (await stream.read()).results] == [1]
        told = await asyncio.wait_for(stream.read(), WAIT_SECONDS)
        assert told.closing
        await stream.write(look(2))
        assert [result.id for result in (await stream.read()).results] == [2]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


def test_the_longest_call_outlives_its_connection() -> None:
    options = dict(transport.server_options(transport.Endpoint("127.0.0.1", 0)))
    assert options["grpc.max_connection_age_grace_ms"] > dispatch.LONG_DEADLINE_MS


async def test_a_stream_is_accepted_before_anything_is_sent() -> None:
    """Some clients hand over a stream only once the server has accepted it."""
    async with running(Recording()) as served, stubs(served.port) as client:
        stream = client.session()
        await asyncio.wait_for(stream.initial_metadata(), WAIT_SECONDS)
        await stream.done_writing()


@dataclass(frozen=True)
class Hesitating(Authenticator):
    """Takes its time to say whose credentials these are."""

    is_begun: asyncio.Event = field(default_factory=asyncio.Event)
    is_released: asyncio.Event = field(default_factory=asyncio.Event)

    async def authenticate(
        self, authorization: str | None, read_names: Callable[[], Iterable[str]]
    ) -> Principal:
        self.is_begun.set()
        await self.is_released.wait()
        return await super().authenticate(authorization, read_names)


async def test_a_stream_that_begins_while_the_server_leaves_is_sent_elsewhere() -> None:
    authenticator = Hesitating()
    async with (
        running(Recording(), authenticator=authenticator) as served,
        stubs(served.port) as client,
    ):
        stream = client.session()
        await asyncio.wait_for(authenticator.is_begun.wait(), WAIT_SECONDS)
        served.dispatcher.refuse_new_calls()
        authenticator.is_released.set()
        read = asyncio.wait_for(stream.read(), WAIT_SECONDS)
        await refused(read, Reason.SHUTTING_DOWN)


async def test_operations_that_take_longer_keep_none_of_their_message_waiting() -> None:
    work = HeldUp()

    async def behave(operation: Operation) -> Answer:
        return await (work if is_slow(operation) else empty_balance)(operation)

    recording = Recording(behave, is_slow=is_slow)
    async with running(recording) as served, stubs(served.port) as client:
        stream = client.session()
        await stream.write(several("a", "slow", "b", "slow"))
        first = await asyncio.wait_for(stream.read(), WAIT_SECONDS)
        assert sorted(result.id for result in first.results) == [1, 3]
        work.is_released.set()
        second = await asyncio.wait_for(stream.read(), WAIT_SECONDS)
        assert sorted(result.id for result in second.results) == [2, 4]
        await stream.done_writing()
    assert len(recording.seen) == 4


async def test_a_message_of_which_nothing_is_answered_at_once_is_answered_all_the_same() -> None:
    async with running(Recording(is_slow=is_slow)) as served, stubs(served.port) as client:
        stream = client.session()
        await stream.write(several("slow", "slow"))
        (message,) = [await asyncio.wait_for(stream.read(), WAIT_SECONDS)]
        assert [result.id for result in message.results] == [1, 2]
        await stream.done_writing()


async def test_an_operation_is_charged_once_whenever_it_is_answered() -> None:
    allowance = Allowance(10, lambda: 0)
    recording = Recording(is_slow=is_slow)
    async with (
        running(recording, allowance=allowance) as served,
        stubs(served.port) as client,
    ):
        stream = client.session()
        await stream.write(several(*["a", "slow"] * 11))
        results: list[balance.BatchResult] = []
        while len(results) < 22:
            results += (await asyncio.wait_for(stream.read(), WAIT_SECONDS)).results
        refused = [each for each in results if each.error.reason == reasons.REASON_RATE_LIMITED]
        assert len(refused) == 2
        await stream.done_writing()


async def test_answers_that_come_while_one_is_written_travel_together() -> None:
    """As many as one message has room for; what has more than that by itself goes alone."""
    sizes = [1, 1, RESULTS_BYTES_MAX - 1, RESULTS_BYTES_MAX + 1, 1]
    asked = [balance.SessionRequest(items=[balance.BatchItem(id=n + 1) for n in range(5)])]
    written, is_taken = list[int](), asyncio.Event()

    class SlowReader:
        async def read(self) -> Any:
            return asked.pop().SerializeToString() if asked else grpc.aio.EOF

        async def write(self, payload: bytes) -> None:
            written.append(len(payload))
            await is_taken.wait()

    async def work(items: Sequence[balance.BatchItem], put: Put) -> None:
        puts = [
            put(Answers([each.id], bytes(size))) for each, size in zip(items, sizes, strict=True)
        ]
        await asyncio.gather(*puts, take())

    async def take() -> None:
        is_taken.set()

    context: Any = SlowReader()
    ways = Ways(asyncio.ensure_future, asyncio.current_task, work, take, time.monotonic)
    await Session(context, ways).run()
    assert written == [1, RESULTS_BYTES_MAX, RESULTS_BYTES_MAX + 1, 1]
