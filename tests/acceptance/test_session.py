"""How streams end: by age, by credentials that are good no more, and when the service goes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.v1 import balance_service_pb2 as balance
from holdfast_server.api import session as api
from holdfast_server.errors import HoldfastError, Reason
from tests.support.server import PATIENCE_S, environment, serving
from tests.support.stubs import stubs
from tests.support.waiting import until


def message(id: int) -> balance.SessionRequest:
    """A message with one operation."""
    item = balance.BatchItem(id=id, balance=balance.BalanceRequest(account="nobody"))
    return balance.SessionRequest(items=[item])


MESSAGE = message(1)


async def test_a_service_that_goes_asks_its_streams_to_end(
    valkey_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """What was sent is answered, what comes while it leaves as well, and the stream ends well."""
    with serving(environment(valkey_url, postgres_url, tmp_path / "state")) as service:
        async with stubs(int(service.target.rsplit(":", 1)[1])) as client:
            stream = client.session()
            await stream.write(MESSAGE)
            assert [result.id for result in (await stream.read()).results] == [1]
            service.process.send_signal(signal.SIGTERM)
            assert (await stream.read()).closing
            await stream.write(MESSAGE)
            assert [result.id for result in (await stream.read()).results] == [1]
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
        assert await asyncio.to_thread(service.process.wait, PATIENCE_S) == 0


class Caller:
    """The other end of a stream, in this process: the time that passes is the test's."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.came: asyncio.Queue[balance.SessionResponse] = asyncio.Queue()

    async def read(self) -> Any:
        return await self.sent.get()

    async def write(self, payload: bytes) -> None:
        self.came.put_nowait(balance.SessionResponse.FromString(payload))

    async def ask(self) -> balance.SessionResponse:
        self.sent.put_nowait(MESSAGE.SerializeToString())
        return await self.came.get()


async def echo(items: Any, put: api.Put) -> None:
    ids = [item.id for item in items]
    results = [balance.BatchResult(id=each) for each in ids]
    await put(api.Answers(ids, balance.SessionResponse(results=results).SerializeToString()))


async def test_a_stream_that_is_old_asks_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "AGE_SECONDS_MAX", 0.0)
    caller: Any = Caller()
    ways = api.Ways(
        asyncio.ensure_future, asyncio.current_task, echo, asyncio.Event().wait, lambda: 0.0
    )
    running = asyncio.create_task(api.Session(caller, ways).run())
    assert (await caller.came.get()).closing
    assert [result.id for result in (await caller.ask()).results] == [1]
    caller.sent.put_nowait(grpc.aio.EOF)
    await running


async def test_credentials_are_looked_at_again_and_again() -> None:
    """Not for every message; and a stream whose token was taken away ends."""
    now, proofs = [0.0], [0]

    async def prove() -> None:
        proofs[0] += 1
        if proofs[0] > 1:
            raise HoldfastError(Reason.TOKEN_INVALID, "taken away")

    caller: Any = Caller()
    ways = api.Ways(asyncio.ensure_future, asyncio.current_task, echo, prove, lambda: now[0])
    running = asyncio.create_task(api.Session(caller, ways).run())
    for seconds, expected in ((0, 0), (29, 0), (30, 1), (59, 1)):
        now[0] = seconds
        await caller.ask()
        assert proofs[0] == expected
    now[0] = 60
    caller.sent.put_nowait(MESSAGE.SerializeToString())
    with pytest.raises(HoldfastError, match="taken away"):
        await running


async def test_a_message_that_waited_for_room_is_not_begun_under_an_old_proof() -> None:
    now, has_room = [0.0], asyncio.Event()

    async def wait(items: Any, put: api.Put) -> None:
        await has_room.wait()
        await echo(items, put)

    async def prove() -> None:
        raise HoldfastError(Reason.TOKEN_INVALID, "taken away")

    caller: Any = Caller()
    ways = api.Ways(asyncio.ensure_future, asyncio.current_task, wait, prove, lambda: now[0])
    running = asyncio.create_task(api.Session(caller, ways).run())
    for id in range(1, api.UNANSWERED_MAX + 2):
        caller.sent.put_nowait(message(id).SerializeToString())
    caller.sent.put_nowait(grpc.aio.EOF)
    await until(lambda: caller.sent.qsize() == 1)
    now[0] = 30
    has_room.set()
    with pytest.raises(HoldfastError, match="taken away"):
        await running
