"""Whatever happens inside, a caller gets an answer with a reason and learns nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from holdfast.v1 import balance_service_pb2 as messages
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.allowance import Allowance
from holdfast_server.api.dispatch import Bounds
from holdfast_server.domain import reply
from holdfast_server.domain.operation import Mode, Operation
from holdfast_server.domain.reply import Outcome
from holdfast_server.domain.submit import Answer
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.logs import LINE_BYTES_MAX, JsonFormatter
from holdfast_server.telemetry.names import Attribute
from holdfast_server.telemetry.tracing import Tracing
from tests.api.recording import HeldUp, Recording, empty_balance, running
from tests.support.stubs import stubs
from tests.support.wire import refused

SECRET = "postgresql://holdfast:hunter2@db.internal/ledger"


def balance_request() -> messages.BalanceRequest:
    return messages.BalanceRequest(account="a")


async def test_an_exception_becomes_internal_and_its_text_stays_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(operation: Operation) -> Answer:
        raise ValueError(f"could not connect to {SECRET}")

    async with running(Recording(fail)) as served, stubs(served.port) as client:
        refusal = await refused(client.balance.Balance(balance_request()), Reason.INTERNAL)

    assert "hunter2" not in refusal.message
    reference = refusal.metadata["reference"]
    assert reference in refusal.message
    (record,) = [each for each in caplog.records if reference in str(vars(each))]
    assert record.exc_info is not None
    assert SECRET in str(record.exc_info[1])


async def test_an_inner_cancellation_is_answered_and_does_not_hang_the_client() -> None:
    async def cancel(operation: Operation) -> Answer:
        raise asyncio.CancelledError

    async with running(Recording(cancel)) as served, stubs(served.port) as client:
        call = client.balance.Balance(balance_request(), timeout=30)
        await asyncio.wait_for(refused(call, Reason.RESULT_UNKNOWN), timeout=5)


async def test_a_denial_that_is_raised_is_a_fault_of_ours() -> None:
    async def fail(operation: Operation) -> Answer:
        return HoldfastError(Reason.INSUFFICIENT_CREDITS, "Denied.")

    async with running(Recording(fail)) as served, stubs(served.port) as client:
        await refused(client.balance.Balance(balance_request()), Reason.INTERNAL)


async def test_a72_a_slow_store_is_answered_at_the_server_deadline_and_its_work_goes_on() -> None:
    work, bounds = HeldUp(), Bounds(deadline_ms=50, concurrent_max=10)
    async with running(Recording(work), bounds=bounds) as served, stubs(served.port) as client:
        for timeout in (None, 100 * 365 * 86_400):
            call = client.balance.Balance(balance_request(), timeout=timeout)
            await refused(call, Reason.DEADLINE_EXCEEDED)
        assert not work.is_done.is_set()
        work.is_released.set()
        await asyncio.wait_for(work.is_done.wait(), timeout=5)


async def test_a_span_says_what_was_decided() -> None:
    async def deny(operation: Operation) -> Answer:
        decision = reply.Decision(Outcome.DENIED, Mode.ENFORCE, Reason.INSUFFICIENT_CREDITS)
        return reply.BurnReply(decision, reply.Applied())

    spans = InMemorySpanExporter()
    tracing = Tracing({}, 1.0, spans)
    async with running(Recording(deny), tracing=tracing) as served, stubs(served.port) as client:
        lines = [types.Line(credit_type="ai", amount=1)]
        asked = messages.BurnRequest(account="a", lines=lines, idempotency_key="k")
        await client.balance.Burn(asked)
    tracing.close()
    (span,) = spans.get_finished_spans()
    assert dict(span.attributes or {}) == {
        Attribute.METHOD: "Burn",
        Attribute.OUTCOME: "DENIED",
        Attribute.REASON: "INSUFFICIENT_CREDITS",
        Attribute.MODE: "ENFORCE",
    }


async def test_work_goes_on_when_its_caller_gives_up() -> None:
    work = HeldUp()
    async with running(Recording(work)) as served, stubs(served.port) as client:
        call = client.balance.Balance(balance_request())
        calling = asyncio.ensure_future(_settled(call))
        await asyncio.wait_for(work.is_begun.wait(), timeout=5)
        call.cancel()
        await calling
        work.is_released.set()
        await asyncio.wait_for(work.is_done.wait(), timeout=5)


async def test_beyond_the_concurrency_limit_calls_are_refused_and_say_when_to_retry() -> None:
    is_begun, is_released = asyncio.Event(), asyncio.Event()

    async def wait(operation: Operation) -> Answer:
        is_begun.set()
        await is_released.wait()
        return await empty_balance(operation)

    bounds = Bounds(deadline_ms=5_000, concurrent_max=1)
    async with running(Recording(wait), bounds=bounds) as served, stubs(served.port) as client:
        first = asyncio.ensure_future(_settled(client.balance.Balance(balance_request())))
        await asyncio.wait_for(is_begun.wait(), timeout=5)
        refusal = await refused(client.balance.Balance(balance_request()), Reason.OVERLOADED)
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.retry_after_ms == int(refusal.metadata["retry_after_ms"]) > 0
        is_released.set()
        await first
        await client.balance.Balance(balance_request())


async def test_a23_a_tenant_beyond_its_rate_is_refused_and_others_are_not() -> None:
    now_ns = 0
    allowance = Allowance(10, lambda: now_ns)
    async with running(Recording(), allowance=allowance) as served, stubs(served.port) as client:
        request = messages.BalanceRequest(tenant="busy", account="a")
        for _ in range(20):
            await client.balance.Balance(request)
        refusal = await refused(client.balance.Balance(request), Reason.RATE_LIMITED)
        await client.balance.Balance(messages.BalanceRequest(tenant="calm", account="a"))
        now_ns += int(refusal.metadata["retry_after_ms"]) * 1_000_000
        await client.balance.Balance(request)


async def test_a_leaving_server_says_so_and_finishes_what_it_began() -> None:
    is_begun, is_released = asyncio.Event(), asyncio.Event()

    async def wait(operation: Operation) -> Answer:
        is_begun.set()
        await is_released.wait()
        return await empty_balance(operation)

    async with running(Recording(wait)) as served, stubs(served.port) as client:
        first = asyncio.ensure_future(_settled(client.balance.Balance(balance_request())))
        await asyncio.wait_for(is_begun.wait(), timeout=5)
        served.dispatcher.refuse_new_calls()
        await refused(client.balance.Balance(balance_request()), Reason.SHUTTING_DOWN)
        leaving = asyncio.ensure_future(served.server.drain(5))
        is_released.set()
        assert await first is grpc.StatusCode.OK
        await leaving


async def test_every_call_that_came_is_answered_when_the_server_leaves() -> None:
    """Also those that the transport still holds, of which it would drop all but one."""
    async with running(Recording()) as served, stubs(served.port) as client:
        answered = asyncio.as_completed(
            [_settled(client.balance.Balance(balance_request())) for _ in range(200)]
        )
        codes = [await next(answered)]
        await served.server.drain(5)
        codes += [await each for each in answered]
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize(
    ("header", "trace_id"),
    [
        ("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", "ab" * 16),
        ("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01-" + "x" * 600, ""),
        ("00-" + "00" * 16 + "-" + "cd" * 8 + "-01", ""),
        ("garbage", ""),
    ],
)
async def test_the_trace_of_a_caller_is_kept_where_it_is_one(header: str, trace_id: str) -> None:
    async with running(Recording()) as served, stubs(served.port) as client:
        metadata = (("traceparent", header), ("tracestate", "x" * 600))
        await client.balance.Balance(balance_request(), metadata=metadata)
    ((caller, _),) = served.recording.seen
    assert caller.trace_id == trace_id


async def test_a_call_that_goes_by_itself_keeps_the_trace_of_its_caller() -> None:
    trace_id, item = "ab" * 16, messages.BatchItem(balance=balance_request())
    async with running(Recording()) as served, stubs(served.port) as client:
        metadata = (("traceparent", f"00-{trace_id}-{'cd' * 8}-01"),)
        await client.balance.Batch(messages.BatchRequest(items=[item]), metadata=metadata)
    assert [caller.trace_id for caller, _ in served.recording.seen] == [trace_id]


async def test_a55_a_text_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    forged = '\n{"level":"info","message":"all is well"}'

    async def fail(operation: Operation) -> Answer:
        raise ValueError(forged)

    async with running(Recording(fail)) as served, stubs(served.port) as client:
        await refused(client.balance.Balance(balance_request()), Reason.INTERNAL)

    for record in caplog.records:
        line = JsonFormatter("worker").format(record)
        assert "\n" not in line
        assert len(line.encode()) < LINE_BYTES_MAX
        assert json.loads(line)["level"] == record.levelname.lower()
    assert any(record.levelno == logging.ERROR for record in caplog.records)


async def _settled(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> grpc.StatusCode:
    """The status of a call, whatever it is."""
    return await call.code()
