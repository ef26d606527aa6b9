"""Calls that share one stream: batched by themselves, each with its own end, each applied once."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any

import grpc
import pytest

from holdfast import (
    AsyncClient,
    Client,
    Durability,
    FailedPrecondition,
    InternalError,
    ResourceExhausted,
    Unreachable,
)
from holdfast._retry import Deadlines
from holdfast._session import MESSAGE_OPERATIONS_SHARED
from holdfast._stream import MESSAGES_IN_FLIGHT_MAX, UNANSWERED_MAX
from holdfast.v1 import balance_service_pb2 as pb
from holdfast.v1 import reason_pb2
from tests.client.faulty import FaultyServer
from tests.client.session_server import SessionServer, answer, session_server
from tests.support.waiting import until

CALLS = 1_000
THREADS = 8


@pytest.fixture
async def server() -> AsyncIterator[SessionServer]:
    async with session_server() as started:
        yield started


@pytest.fixture
async def client(server: SessionServer) -> AsyncIterator[AsyncClient]:
    """It has patience: on a busy machine thousands of calls take longer than an attempt may."""
    async with AsyncClient(
        server.address, token="secret", attempt_timeout_ms=60_000, timeout_ms=60_000
    ) as opened:
        yield opened


async def silent(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
    """Never answers this message."""


async def cut_before(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
    """The connection breaks before anything is applied."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


async def cut_after(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
    """The connection breaks when all is applied and nothing is answered."""
    server.apply(message)
    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")


async def closing(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
    """Answers, and wants no more on this stream."""
    await context.write(server.apply(message, closing=True))


async def test_many_callers_share_few_messages(server: SessionServer, client: AsyncClient) -> None:
    answers = await asyncio.gather(*(client.reserve("a", 1, key=f"k{n}") for n in range(CALLS)))
    assert [each.hold_id for each in answers] == [f"hold of k{n}" for n in range(CALLS)]
    assert server.streams == 1
    assert len(server.messages) <= MESSAGES_IN_FLIGHT_MAX + 2
    assert set(server.came.values()) == {1}
    assert server.metadata[0]["authorization"] == "Bearer secret"


async def test_what_waits_is_shared_among_messages(
    server: SessionServer, client: AsyncClient
) -> None:
    """So that nobody waits for one large message; few operations are not worth several."""
    await client.reserve("a", 1)
    server.messages.clear()
    await asyncio.gather(
        *(client.reserve("a", 1) for _ in range(2 * MESSAGE_OPERATIONS_SHARED - 1))
    )
    sizes = [len(message.items) for message in server.messages]
    assert sizes == [MESSAGE_OPERATIONS_SHARED, MESSAGE_OPERATIONS_SHARED - 1]


async def test_long_operations_that_come_together_are_all_answered(
    server: SessionServer, client: AsyncClient
) -> None:
    """No message is longer than what a server reads, so that none fails with its neighbours."""
    labels = {f"label-{n}": "x" * 256 for n in range(16)}
    long = [client.reserve("a", 1, labels=labels) for _ in range(CALLS)]
    answers = await asyncio.gather(client.reserve("a", 1), *long)
    assert all(each.decision.allowed for each in answers)
    assert server.streams == 1


async def test_a_lone_call_goes_alone(server: SessionServer, client: AsyncClient) -> None:
    for _ in range(3):
        await client.reserve("a", 1)
    assert [len(message.items) for message in server.messages] == [1, 1, 1]


async def test_threads_share_one_stream(server: SessionServer) -> None:
    with Client(server.address) as client, ThreadPoolExecutor(32) as pool:
        loop = asyncio.get_running_loop()
        asked = [loop.run_in_executor(pool, client.reserve, "a", 1) for _ in range(200)]
        answers = await asyncio.gather(*asked)
        assert all(each.decision.allowed for each in answers)
        assert server.streams == 1
        await asyncio.to_thread(client.close)


async def test_closing_leaves_no_thread_waiting(server: SessionServer) -> None:
    """Neither who was sent, nor who comes while it closes, nor who comes later."""
    server.plan = [silent] * 100
    client = Client(server.address, attempt_timeout_ms=60_000, timeout_ms=60_000)
    with ThreadPoolExecutor(THREADS) as pool:

        def ask_again() -> None:
            while True:
                client.reserve("a", 1)

        loop = asyncio.get_running_loop()
        waiting = [loop.run_in_executor(pool, ask_again) for _ in range(THREADS)]
        await until(lambda: server.messages)
        await asyncio.to_thread(client.close)
        async with asyncio.timeout(10):
            ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each) for each in ended} == {FailedPrecondition}


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts are heard, even where a shell started the tests behind it and turned them off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_wait_of_a_thread() -> None:
    """What it waited for is forgotten, and the client is as good as before."""
    started, ended = Queue[SessionServer](), threading.Event()

    async def serve() -> None:
        async with session_server() as server:
            server.plan = [interrupt]
            started.put(server)
            await asyncio.to_thread(ended.wait)

    async def interrupt(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    serving = threading.Thread(target=asyncio.run, args=(serve(),))
    serving.start()
    server = started.get(timeout=10)
    with Client(server.address) as client:
        with pytest.raises(KeyboardInterrupt):
            client.reserve("a", 1, key="interrupted")
        assert client.reserve("a", 1).decision.allowed
    ended.set()
    serving.join()
    assert server.came.keys() >= {"interrupted"}
    assert server.streams == 1


async def test_an_operation_says_in_which_trace_it_is_asked_for(server: SessionServer) -> None:
    spans = iter(["00-a-1-01", None, "00-a-2-01"])
    async with AsyncClient(server.address, traceparent=lambda: next(spans)) as client:
        for _ in range(3):
            await client.reserve("a", 1)
    sent = [item.traceparent for message in server.messages for item in message.items]
    assert sent == ["00-a-1-01", "", "00-a-2-01"]


@pytest.mark.parametrize("cut", [cut_before, cut_after])
async def test_what_was_not_answered_is_sent_again_under_its_key(
    server: SessionServer, client: AsyncClient, cut: Any
) -> None:
    server.plan = [cut, cut]
    answers = await asyncio.gather(*(client.reserve("a", 1, key=f"k{n}") for n in range(50)))
    assert [each.hold_id for each in answers] == [f"hold of k{n}" for n in range(50)]
    assert server.streams >= 2
    assert set(server.applied.values()) == {1}
    assert len(server.applied) == 50


async def test_a_stream_that_closes_is_followed_by_another(
    server: SessionServer, client: AsyncClient
) -> None:
    server.plan = [closing]
    for n in range(3):
        await client.reserve("a", 1, key=f"k{n}")
    assert server.streams == 2
    assert set(server.came.values()) == {1}


async def test_a_call_ends_at_its_deadline(server: SessionServer) -> None:
    server.plan = [silent] * 100
    async with AsyncClient(server.address, attempt_timeout_ms=100, timeout_ms=250) as client:
        with pytest.raises(Unreachable) as caught:
            await client.reserve("a", 1)
    assert caught.value.result_unknown
    assert server.streams >= 2  # A stream that is silent is not trusted again.


async def test_what_is_cancelled_before_it_is_sent_is_never_sent(
    server: SessionServer, client: AsyncClient
) -> None:
    server.plan = [silent] * MESSAGES_IN_FLIGHT_MAX
    stuck = []
    for n in range(MESSAGES_IN_FLIGHT_MAX):
        stuck.append(asyncio.create_task(client.reserve("a", 1, key=f"stuck{n}")))
        await until(lambda: len(server.messages) == len(stuck))
    waiting = asyncio.create_task(client.reserve("a", 1, key="waiting"))
    await asyncio.sleep(0)
    waiting.cancel()
    for task in stuck:
        task.cancel()
    await asyncio.gather(waiting, *stuck, return_exceptions=True)
    assert waiting.cancelled()
    assert "waiting" not in server.came


async def test_who_finds_no_room_waits(server: SessionServer) -> None:
    """More than may be unanswered: all are answered by and by, each sent once."""
    opened = asyncio.Event()

    async def late(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
        await opened.wait()
        await answer(server, context, message)

    server.plan = [late]
    async with AsyncClient(server.address, attempt_timeout_ms=60_000, timeout_ms=60_000) as client:
        calls = [client.reserve("a", 1) for _ in range(UNANSWERED_MAX + CALLS)]
        waiting = [asyncio.create_task(call) for call in calls]
        await until(lambda: server.messages)
        opened.set()
        assert all(each.decision.allowed for each in await asyncio.gather(*waiting))
    assert set(server.came.values()) == {1}
    assert sum(map(len, (message.items for message in server.messages))) == len(waiting)


async def test_who_waits_for_room_too_long_was_never_sent(server: SessionServer) -> None:
    server.plan = [silent] * MESSAGES_IN_FLIGHT_MAX
    async with AsyncClient(server.address, attempt_timeout_ms=60_000, timeout_ms=60_000) as client:
        stuck = []
        for n in range(MESSAGES_IN_FLIGHT_MAX):
            stuck.append(asyncio.create_task(client.reserve("a", 1, key=f"stuck{n}")))
            await until(lambda: len(server.messages) == len(stuck))
        client._core._deadlines = Deadlines(50, 50)
        with pytest.raises(Unreachable) as caught:
            await client.reserve("a", 1, key="waiting")
        assert not caught.value.result_unknown
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
    assert "waiting" not in server.came


async def test_an_answer_that_is_no_message_ends_the_stream(
    server: SessionServer, client: AsyncClient
) -> None:
    async def garbage(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
        await context.write(b"\xff")

    server.plan = [garbage]
    with pytest.raises(InternalError) as caught:
        await client.reserve("a", 1)
    assert caught.value.result_unknown
    assert (await client.reserve("a", 1)).decision.allowed
    assert server.streams == 2


async def test_an_answer_that_nobody_waits_for_is_dropped(
    server: SessionServer, client: AsyncClient
) -> None:
    held = asyncio.Event()

    async def late(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
        await held.wait()
        await answer(server, context, message)

    server.plan = [late]
    first = asyncio.create_task(client.reserve("a", 1, key="first"))
    await until(lambda: server.messages)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    held.set()
    result = await client.reserve("a", 1, key="second")
    assert result.hold_id == "hold of second"
    assert server.streams == 1


async def test_errors_of_one_call_are_raised_to_its_caller_alone(
    server: SessionServer, client: AsyncClient
) -> None:
    async def refuse_one(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
        response = server.apply(message)
        for item, result in zip(message.items, response.results, strict=True):
            if item.reserve.account == "full":
                result.error.code = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
                result.error.reason = reason_pb2.REASON_RATE_LIMITED
        await context.write(response)

    server.plan = [refuse_one]
    good, bad = await asyncio.gather(
        client.reserve("a", 1), client.reserve("full", 1), return_exceptions=True
    )
    assert not isinstance(good, BaseException)
    assert isinstance(bad, ResourceExhausted)
    assert bad.reason == "RATE_LIMITED"


async def test_a_server_without_sessions_is_called_singly(faulty: FaultyServer) -> None:
    async with AsyncClient(faulty.address) as client:
        await client.reserve("a", 1)
        await client.reserve("a", 1)
    assert faulty.methods() == ["Reserve", "Reserve"]


async def test_closing_the_client_leaves_nobody_waiting(server: SessionServer) -> None:
    """Neither who was sent, nor who waits to be sent, nor who comes later: each has its error."""
    server.plan = [silent] * 100
    client = AsyncClient(server.address, attempt_timeout_ms=60_000, timeout_ms=60_000)
    session, waiting = client._session, []
    assert session
    for n in range(2 * MESSAGES_IN_FLIGHT_MAX):
        waiting.append(asyncio.create_task(client.reserve("a", 1, key=f"k{n}")))
        await until(lambda: len(server.messages) + len(session._queue) == len(waiting))
    await client.close()
    async with asyncio.timeout(10):
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each) for each in ended} == {FailedPrecondition}
    assert len(set(ended)) == len(waiting)
    with pytest.raises(FailedPrecondition, match="closed"):
        await client.reserve("a", 1)


async def test_who_waits_for_the_ledger_holds_up_nobody(
    server: SessionServer, client: AsyncClient
) -> None:
    count = 2 * MESSAGES_IN_FLIGHT_MAX
    server.plan = [silent] * count
    slow = []
    for _ in range(count):
        slow.append(asyncio.create_task(client.reserve("a", 1, durability=Durability.LEDGER)))
        await until(lambda: len(server.messages) == len(slow))
    assert (await client.reserve("a", 1)).decision.allowed
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_a_peer_that_never_speaks_is_left_behind(server: SessionServer) -> None:
    """Whoever accepts connections and says nothing must not be waited for once it is gone."""
    mute = socket.create_server(("127.0.0.1", 0))
    port = mute.getsockname()[1]
    async with AsyncClient(f"127.0.0.1:{port}", attempt_timeout_ms=200, timeout_ms=400) as client:
        with mute, pytest.raises(Unreachable):
            await client.reserve("a", 1)
        async with session_server(port) as back:

            async def answered() -> bool:
                try:
                    return (await client.reserve("a", 1)).decision.allowed
                except Unreachable:
                    return False

            await until(answered)
            assert back.streams


def test_a_client_belongs_to_one_event_loop() -> None:
    client = AsyncClient("127.0.0.1:1", attempt_timeout_ms=100, timeout_ms=200)

    async def ask() -> None:
        await client.reserve("a", 1)

    async def ask_and_close() -> None:
        with pytest.raises(Unreachable):
            await ask()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(ask_and_close())
        with pytest.raises(FailedPrecondition, match="event loop"):
            second.run(ask())
        first.run(client.close())
