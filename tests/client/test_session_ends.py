"""How the stream of a session ends, and what becomes of those who wait for it."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import count
from types import FrameType
from typing import Any

import pytest

from holdfast import (
    AsyncClient,
    Client,
    FailedPrecondition,
    PermissionDenied,
    Unauthenticated,
    Unreachable,
)
from holdfast._retry import Deadlines
from holdfast._stream import RETIRE_TIMEOUT_S
from holdfast.v1 import balance_service_pb2 as pb
from holdfast_server.api.status import code_of, trailing_metadata
from holdfast_server.chaos.proxy import LOOPBACK, Proxy
from holdfast_server.errors import HoldfastError as Refusal
from holdfast_server.errors import Reason
from tests.client.session_server import Behaviour, SessionServer, session_server
from tests.support.waiting import until

#: Together more than sockets and windows hold, so that a peer that does not read stops the writer.
LONG_LABELS = {f"label-{n}": "x" * 250 for n in range(16)}
LONG_CALLS = 3_000
#: Where a thread hands its call over to the loop.
INTERRUPTED_MODULES = frozenset({"holdfast._session_thread", "asyncio.base_events"})

#: What a thread goes through that starts the loop.
STARTING_MODULES = frozenset({"holdfast._session_thread", "threading"})


@pytest.fixture
async def server() -> AsyncIterator[SessionServer]:
    async with session_server() as started:
        yield started


def proxied(server: SessionServer) -> Proxy:
    """The network between a client and the server."""
    return Proxy(int(server.address.rpartition(":")[2]))


async def closing(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
    """Answers, and wants no more on this stream."""
    await context.write(server.apply(message, closing=True))


async def is_answered(client: AsyncClient) -> bool:
    """Whether a call reaches the server at the moment."""
    try:
        return (await client.reserve("a", 1)).decision.allowed
    except Unreachable:
        return False


async def test_a_peer_that_stops_reading_in_the_middle_of_a_write_is_left_behind(
    server: SessionServer,
) -> None:
    """Whoever comes later is asked for over another connection, also while the old one hangs."""
    async with (
        proxied(server) as proxy,
        AsyncClient(
            f"{LOOPBACK}:{proxy.port}", attempt_timeout_ms=1_000, timeout_ms=1_500
        ) as client,
    ):
        await client.reserve("a", 1)
        proxy.half_open("requests")
        long = [client.reserve("a", 1, labels=LONG_LABELS) for _ in range(LONG_CALLS)]
        ended = await asyncio.gather(*long, return_exceptions=True)
        assert {type(each) for each in ended} == {Unreachable}
        with pytest.raises(Unreachable) as caught:
            await client.reserve("a", 1)
        assert caught.value.result_unknown  # It was sent, though not over the old connection.
        proxy.heal()
        await until(lambda: is_answered(client))


async def test_a_server_that_is_slow_is_not_left_behind_while_it_answers(
    server: SessionServer,
) -> None:
    """What comes after an operation was sent shows that its stream lives, whatever it answers."""
    is_late_sent = asyncio.Event()

    async def behind(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
        await is_late_sent.wait()
        await context.write(server.apply(message))

    async def never(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
        """The answer is not there in time."""

    server.plan = [behind, never]
    async with AsyncClient(server.address, attempt_timeout_ms=1_000) as client:
        first = asyncio.create_task(client.reserve("a", 1, key="first"))
        await until(lambda: server.messages)
        late = asyncio.create_task(client.reserve("a", 1, key="late"))
        await until(lambda: client._session and client._session._streams()[0].messages_left == 2)
        is_late_sent.set()
        assert (await first).decision.allowed
        assert (await late).decision.allowed
    assert server.came == {"first": 1, "late": 2}
    assert server.streams == 1


async def test_a_stream_that_has_ended_leaves_no_connection(server: SessionServer) -> None:
    async with proxied(server) as proxy, AsyncClient(f"{LOOPBACK}:{proxy.port}") as client:
        server.plan = [closing]
        await client.reserve("a", 1)

        async def is_alone() -> bool:
            """Whether no connection is left but that of the next stream."""
            await client.reserve("a", 1)
            return proxy.connections == 2

        await until(is_alone, RETIRE_TIMEOUT_S / 3)
        assert server.streams == 2


async def test_closing_a_client_that_never_connected_leaves_no_task() -> None:
    with socket.create_server((LOOPBACK, 0)) as mute:
        client = AsyncClient(f"{LOOPBACK}:{mute.getsockname()[1]}")
        asked = asyncio.create_task(client.reserve("a", 1))
        await until(lambda: client._session and client._session._streams())
        await client.close()
        with pytest.raises(FailedPrecondition):
            await asked
        assert asyncio.all_tasks() == {asyncio.current_task()}


def interrupted_after(lines: int, work: Callable[[], object]) -> bool:
    """Whether `work` was interrupted, which happens after so many lines of its first hundreds."""
    left = lines

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        left -= event == "line" and frame.f_globals.get("__name__") in INTERRUPTED_MODULES
        if left < 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


async def test_an_interrupt_at_any_moment_leaves_the_client_of_use(server: SessionServer) -> None:
    """Whatever a call was at, those that come later are answered."""
    with Client(server.address) as client:

        def ask() -> object:
            return client.reserve("a", 1)

        await asyncio.to_thread(ask)
        for lines in count():
            was_interrupted = await asyncio.to_thread(interrupted_after, lines, ask)
            async with asyncio.timeout(10):
                await asyncio.to_thread(ask)
            if not was_interrupted:
                break
        await asyncio.to_thread(client.close)
    assert lines > 20


def interrupted_at(moment: int, work: Callable[[], object]) -> bool:
    """Whether `work` was interrupted, at one of the moments at which a thread that is started looks
    for signals: when a function begins, and when one that is no Python has ended.
    """
    left = moment

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        is_moment = event in {"call", "c_return"}
        left -= is_moment and frame.f_globals.get("__name__") in STARTING_MODULES
        if left < 0:
            sys.setprofile(None)
            raise KeyboardInterrupt

    # What is tidied meanwhile would be interrupted in place of the call.
    gc.disable()
    sys.setprofile(profile)
    try:
        work()
    except (KeyboardInterrupt, RuntimeError):
        # The second where it cut short how a thread is waited for, whose lock is not taken then.
        return True
    finally:
        sys.setprofile(None)
        gc.enable()
    return False


async def interrupted(server: SessionServer) -> AsyncIterator[Client]:
    """Clients whose first call was interrupted: each at a later moment, up to its end."""
    for moment in count():
        client = Client(server.address)
        was_interrupted = await asyncio.to_thread(
            interrupted_at, moment, partial(client.reserve, "a", 1)
        )
        yield client
        await asyncio.to_thread(client.close)
        if not was_interrupted:
            break
    assert moment > 20


async def test_an_interrupt_at_any_moment_of_the_first_call_leaves_the_client_of_use(
    server: SessionServer,
) -> None:
    """Also while the thread starts, of which nobody knows then whether it runs."""
    async for client in interrupted(server):
        async with asyncio.timeout(10):
            asked = [asyncio.to_thread(client.reserve, "a", 1) for _ in range(2)]
            assert all(each.decision.allowed for each in await asyncio.gather(*asked))


async def test_a_client_whose_first_call_was_interrupted_is_closed(server: SessionServer) -> None:
    async for client in interrupted(server):
        async with asyncio.timeout(10):
            await asyncio.to_thread(client.close)
        with pytest.raises(FailedPrecondition, match="closed"):
            await asyncio.to_thread(client.reserve, "a", 1)


def refusing(reason: Reason) -> Behaviour:
    """The server applies a message, and ends the stream before it answers."""

    async def refuse(server: SessionServer, context: Any, message: pb.SessionRequest) -> None:
        server.apply(message)
        refusal = Refusal(reason, "no")
        await context.abort(code_of(refusal), refusal.message, trailing_metadata(refusal))

    return refuse


async def test_a_stream_that_outlives_its_token_is_followed_by_one_with_the_next(
    server: SessionServer,
) -> None:
    tokens = iter(["first", "second"])
    async with AsyncClient(server.address, token=lambda: next(tokens)) as client:
        await client.reserve("a", 1)
        server.plan = [refusing(Reason.TOKEN_EXPIRED)]
        assert (await client.reserve("a", 1, key="late")).decision.allowed
    assert [each["authorization"] for each in server.metadata] == ["Bearer first", "Bearer second"]
    assert server.came["late"] == 2


class SlowTokens:
    """Where tokens come from, which takes as long as the test lets it."""

    def __init__(self) -> None:
        self.asked, self.is_given = 0, threading.Event()

    def __call__(self) -> str:
        self.asked += 1
        assert self.is_given.wait(10)
        return f"token-{self.asked}"


async def test_a_token_that_is_long_in_coming_holds_up_no_other_call_of_threads(
    server: SessionServer,
) -> None:
    """What another stream has yet to answer is answered meanwhile."""
    tokens, is_answering = SlowTokens(), asyncio.Event()
    tokens.is_given.set()

    async def closing_first(server: SessionServer, context: Any, message: Any) -> None:
        tokens.is_given.clear()
        await context.write(pb.SessionResponse(closing=True))
        await is_answering.wait()
        await context.write(server.apply(message))

    server.plan = [closing_first]
    with Client(server.address, token=tokens) as client:
        session = client._session
        assert session
        first = asyncio.create_task(asyncio.to_thread(client.reserve, "a", 1))
        await until(lambda: any(not each.is_open for each in session._session._streams()))
        later = asyncio.create_task(asyncio.to_thread(client.reserve, "a", 1))
        await until(lambda: tokens.asked == 2)
        is_answering.set()
        assert (await first).decision.allowed
        assert not later.done()
        tokens.is_given.set()
        assert (await later).decision.allowed
        await asyncio.to_thread(client.close)
    assert [each["authorization"] for each in server.metadata] == [
        "Bearer token-1",
        "Bearer token-2",
    ]


async def test_calls_that_wait_for_a_token_end_at_their_deadline(server: SessionServer) -> None:
    """It is asked for once for all of them, and is good for those that come later."""
    tokens = SlowTokens()
    client = Client(server.address, token=tokens, attempt_timeout_ms=50, timeout_ms=250)
    with pytest.raises(Unreachable) as caught:
        await asyncio.to_thread(client.reserve, "a", 1)
    assert not caught.value.result_unknown
    tokens.is_given.set()
    client._core._deadlines = Deadlines(10_000, 10_000)
    assert (await asyncio.to_thread(client.reserve, "a", 1)).decision.allowed
    await asyncio.to_thread(client.close)
    assert (tokens.asked, server.streams) == (1, 1)


async def test_closing_a_client_waits_for_no_token(server: SessionServer) -> None:
    tokens = SlowTokens()
    client = Client(server.address, token=tokens)
    asked = asyncio.create_task(asyncio.to_thread(client.reserve, "a", 1))
    await until(lambda: tokens.asked)
    await asyncio.to_thread(client.close)
    with pytest.raises(FailedPrecondition, match="closed"):
        await asked
    tokens.is_given.set()


async def test_a_token_function_that_ends_the_program_ends_no_client(
    server: SessionServer,
) -> None:
    """It is called in a thread, which cannot end anything."""
    asked = count()

    def token() -> str:
        if next(asked) == 0:
            raise SystemExit("no credentials here")
        return "secret"

    with Client(server.address, token=token, attempt_timeout_ms=500) as client:
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError, match="no credentials here"):
                await asyncio.to_thread(client.reserve, "a", 1, key="failed")
            assert (await asyncio.to_thread(client.reserve, "a", 1, key="sent")).decision.allowed
        await asyncio.to_thread(client.close)
    assert server.came == {"sent": 1}


async def test_a_token_that_was_never_good_is_refused_once(server: SessionServer) -> None:
    server.plan = [refusing(Reason.TOKEN_EXPIRED)] * 2
    async with AsyncClient(server.address, token="old") as client:
        with pytest.raises(Unauthenticated):
            await client.reserve("a", 1)
    assert server.streams == 1


async def test_what_a_refused_stream_leaves_behind_may_have_been_applied(
    server: SessionServer,
) -> None:
    async with AsyncClient(server.address) as client:
        await client.reserve("a", 1)
        server.plan = [refusing(Reason.ROLE_REQUIRED)]
        with pytest.raises(PermissionDenied) as caught:
            await client.reserve("a", 1)
    assert caught.value.result_unknown
