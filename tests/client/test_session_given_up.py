"""What callers of a session give up, close or cancel, and what is left for the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from holdfast import AsyncClient, Client, FailedPrecondition
from holdfast._stream import MESSAGES_IN_FLIGHT_MAX
from holdfast.v1 import balance_service_pb2 as pb
from tests.client.session_server import SessionServer, session_server
from tests.support.waiting import until


@pytest.fixture
async def server() -> AsyncIterator[SessionServer]:
    async with session_server() as started:
        yield started


async def silent(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
    """Never answers this message."""


async def given_up(server: SessionServer, client: AsyncClient) -> None:
    """A call whose caller goes away before its deadline, and after it was sent."""
    before = len(server.messages)
    call = asyncio.create_task(client.reserve("a", 1))
    await until(lambda: len(server.messages) > before)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_a_stream_whose_callers_all_gave_up_is_left_behind(server: SessionServer) -> None:
    """Whoever has less patience than the client finds out nothing about the connection."""
    server.plan = [silent] * MESSAGES_IN_FLIGHT_MAX
    async with AsyncClient(server.address, attempt_timeout_ms=500, timeout_ms=20_000) as client:
        for _ in range(MESSAGES_IN_FLIGHT_MAX):
            await given_up(server, client)
        assert (await client.reserve("a", 1)).decision.allowed
    assert server.streams == 2


async def test_who_waits_for_room_goes_on_with_the_next_stream(server: SessionServer) -> None:
    """Also where nobody else asks who would wake the client."""
    is_over = asyncio.Event()

    async def cut(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
        await is_over.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    server.plan = [silent] * (MESSAGES_IN_FLIGHT_MAX - 1) + [cut]
    async with AsyncClient(server.address, attempt_timeout_ms=60_000, timeout_ms=60_000) as client:
        for _ in range(MESSAGES_IN_FLIGHT_MAX):
            await given_up(server, client)
        waiting = asyncio.create_task(client.reserve("a", 1))
        await asyncio.sleep(0)
        is_over.set()
        async with asyncio.timeout(10):
            assert (await waiting).decision.allowed
    assert server.streams == 2


async def test_a_client_that_closes_while_a_call_is_handed_over_leaves_nobody_waiting(
    server: SessionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(server.address)
    await asyncio.to_thread(client.reserve, "a", 1)
    session = client._session
    assert session
    tell = session._tell

    def late(callback: Callable[[], None]) -> None:
        monkeypatch.setattr(session, "_tell", tell)
        client.close()
        tell(callback)

    monkeypatch.setattr(session, "_tell", late)
    with pytest.raises(FailedPrecondition, match="closed"):
        await asyncio.wait_for(asyncio.to_thread(client.reserve, "a", 1), 10)


async def test_a_service_that_cancels_all_of_its_tasks_is_still_answered(
    server: SessionServer,
) -> None:
    """Those of the client are among them, and holds have to be settled at the end."""

    async def service() -> None:
        async with AsyncClient(server.address, attempt_timeout_ms=10_000) as client:
            await client.reserve("a", 1)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            async with asyncio.timeout(5):
                assert (await client.reserve("a", 1)).decision.allowed

    await asyncio.to_thread(asyncio.run, service())
