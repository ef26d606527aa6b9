"""Where plaintext is allowed, what goes beside a request, and what failures look like."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from holdfast import (
    AsyncClient,
    Client,
    Decision,
    Denied,
    FailedPrecondition,
    HoldfastError,
    InternalError,
    NotFound,
    Outcome,
    ResourceExhausted,
    Tls,
    Unauthenticated,
    Unreachable,
)
from holdfast._channel import Endpoint, is_loopback
from tests.client.faulty import Fault, FaultyServer
from tests.support.waiting import until


@pytest.mark.parametrize(
    "target",
    [
        "localhost:7400",
        "127.0.0.1:7400",
        "127.9.9.9:1",
        "[::1]:7400",
        "ipv4:127.0.0.1:7400",
        "ipv6:[::1]:7400",
        "dns:///localhost:7400",
        "unix:/run/holdfast.sock",
        "ipv4:127.0.0.1:7400,127.0.0.2:7400",
        "ipv6:[::1]:7400,[::1]:7401",
    ],
)
def test_these_targets_are_on_this_machine(target: str) -> None:
    assert is_loopback(target)
    assert Endpoint(target, None, insecure=False).plaintext
    assert not Endpoint(target, Tls(), insecure=False).plaintext


@pytest.mark.parametrize(
    "target",
    [
        "holdfast.example:443",
        "10.0.0.1:7400",
        "localhost.example:1",
        "127.0.0.1.example:1",
        "[2001:db8::1]:1",
        "ipv4:127.0.0.1:7400,10.0.0.1:7400",
        "ipv6:[::1]:7400,[2001:db8::1]:7400",
    ],
)
def test_these_are_not_and_need_tls(target: str) -> None:
    assert not is_loopback(target)
    assert not Endpoint(target, None, insecure=False).plaintext
    assert Endpoint(target, None, insecure=True).plaintext


async def test_the_token_is_asked_for_with_every_call(faulty: FaultyServer) -> None:
    tokens = iter(["first", "second"])
    async with AsyncClient(faulty.address, token=lambda: next(tokens), transport="unary") as client:
        await client.reserve("a", 1)
        await client.reserve("a", 1)
    assert [one.metadata["authorization"] for one in faulty.seen] == [
        "Bearer first",
        "Bearer second",
    ]


async def test_without_a_token_none_is_sent(faulty: FaultyServer) -> None:
    async with AsyncClient(faulty.address) as client:
        await client.reserve("a", 1)
    assert "authorization" not in faulty.seen[0].metadata
    assert "traceparent" not in faulty.seen[0].metadata


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_given_trace_context_is_sent(faulty: FaultyServer) -> None:
    async with AsyncClient(
        faulty.address, traceparent=lambda: TRACEPARENT, transport="unary"
    ) as client:
        await client.reserve("a", 1)
    assert faulty.seen[0].metadata["traceparent"] == TRACEPARENT


@pytest.mark.parametrize(("is_valid", "expected"), [(True, TRACEPARENT), (False, None)])
def test_an_active_span_is_found_where_opentelemetry_is_loaded(
    threaded: Client,
    faulty: FaultyServer,
    monkeypatch: pytest.MonkeyPatch,
    is_valid: bool,
    expected: str | None,
) -> None:
    context = SimpleNamespace(
        trace_id=0x0AF7651916CD43DD8448EB211C80319C,
        span_id=0xB7AD6B7169203331,
        trace_flags=1,
        is_valid=is_valid,
    )
    span = SimpleNamespace(get_span_context=lambda: context)
    loaded = SimpleNamespace(get_current_span=lambda: span)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", loaded)
    threaded.reserve("a", 1)
    assert faulty.seen[0].metadata.get("traceparent") == expected


async def test_every_attempt_has_a_deadline(client: AsyncClient, faulty: FaultyServer) -> None:
    await client.reserve("a", 1)
    # The wire carries whole milliseconds, rounded up.
    assert 0 < faulty.seen[0].time_remaining_s < 0.302


async def test_an_error_carries_what_the_server_said(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    metadata = {"committed": "5", "transaction_id": "3-1-9"}
    faulty.faults.append(
        Fault(
            grpc.StatusCode.FAILED_PRECONDITION, reason="HOLD_ALREADY_COMMITTED", metadata=metadata
        )
    )
    with pytest.raises(FailedPrecondition) as raised:
        await client.commit("hold", 5)
    assert raised.value.reason == "HOLD_ALREADY_COMMITTED"
    assert raised.value.metadata == metadata
    assert raised.value.message == "no"
    assert not raised.value.result_unknown
    assert faulty.methods() == ["Commit"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.DATA_LOSS, InternalError),
    ],
)
def test_each_status_has_its_class(
    threaded: Client, faulty: FaultyServer, code: grpc.StatusCode, kind: type[HoldfastError]
) -> None:
    faulty.faults.append(Fault(code, reason="SOME_REASON"))
    with pytest.raises(kind) as raised:
        threaded.release("hold")
    assert type(raised.value) is kind


async def test_where_to_wait_is_read_from_either_place(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    overloaded = grpc.StatusCode.RESOURCE_EXHAUSTED
    faulty.faults.append(Fault(overloaded, reason="OVERLOADED", retry_after_ms=9_999_000))
    with pytest.raises(ResourceExhausted) as raised:
        await client.burn("a", 1)
    assert raised.value.retry_after_ms == 9_999_000
    faulty.faults.append(
        Fault(overloaded, reason="OVERLOADED", metadata={"retry_after_ms": "9998000"})
    )
    with pytest.raises(ResourceExhausted) as raised:
        await client.burn("a", 1)
    assert raised.value.retry_after_ms == 9_998_000


async def test_nobody_there_is_unreachable_and_unknown(nobody: str) -> None:
    async with AsyncClient(nobody, attempt_timeout_ms=100, timeout_ms=300) as client:
        with pytest.raises(Unreachable) as raised:
            await client.commit("hold", 1)
    assert raised.value.result_unknown


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_denial_is_copied_whole(again: Any) -> None:
    """Such as from a process of a pool to the one that waits for it."""
    denied = Denied(Decision(Outcome.DENIED, "LIMIT_EXCEEDED", "too fast", retry_after_ms=7))
    copied = again(denied)
    assert (type(copied), str(copied)) == (Denied, str(denied))
    assert copied.decision == denied.decision


def test_a_call_of_another_event_loop_says_so(faulty: FaultyServer) -> None:
    client = AsyncClient(faulty.address, transport="unary")

    async def ask() -> None:
        await client.balance("acct")

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(ask())
        with pytest.raises(FailedPrecondition, match="event loop"):
            second.run(ask())
        first.run(client.close())


async def test_a_closed_client_says_so(client: AsyncClient, faulty: FaultyServer) -> None:
    """Whoever was at work, and whoever comes later; also where there was never a connection."""
    unused = AsyncClient(faulty.address)
    faulty.faults.append(Fault(slow=True))
    asked = asyncio.create_task(client.reserve("a", 1))
    await until(lambda: faulty.seen)
    for one in (client, unused):
        await one.close()
        with pytest.raises(FailedPrecondition, match="closed") as later:
            await one.balance("a")
        assert not later.value.result_unknown
    with pytest.raises(FailedPrecondition, match="closed") as caught:
        await asked
    assert caught.value.result_unknown


async def test_who_is_cancelled_while_a_client_closes_is_cancelled(
    client: AsyncClient, faulty: FaultyServer
) -> None:
    faulty.faults.append(Fault(slow=True))
    asked = asyncio.create_task(client.reserve("a", 1))
    await until(lambda: faulty.seen)
    asked.cancel()
    await client.close()
    await asyncio.wait([asked])
    assert asked.cancelled()


def test_a_closed_client_says_so_to_threads(threaded: Client, faulty: FaultyServer) -> None:
    faulty.faults.append(Fault(slow=True))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(threaded.reserve, "a", 1)
        faulty.wait_for("Reserve")
        threaded.close()
        with pytest.raises(FailedPrecondition, match="closed") as caught:
            asked.result(10)
    assert caught.value.result_unknown
    with pytest.raises(FailedPrecondition, match="closed") as later:
        threaded.balance("a")
    assert not later.value.result_unknown
