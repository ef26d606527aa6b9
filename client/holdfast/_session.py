"""Many concurrent calls over one stream: the client's side of `BalanceService.Session`.

Operations wait in a queue. Whatever waits is sent in one message as soon as the stream has room:
under load messages grow by themselves, and a lone operation leaves at once. There is no timer.

A stream that breaks fails what was sent on it with an error after which whoever asked sends it
again, under the same key, on the next stream. What was not sent yet just goes there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from google.protobuf.message import Message

from holdfast._channel import Endpoint, Metadata
from holdfast._stream import Asked, Stream
from holdfast.errors import FailedPrecondition, ResourceExhausted
from holdfast.v1 import balance_service_pb2 as pb

#: Operations in one message: what the server takes.
MESSAGE_OPERATIONS_MAX = 1_000
#: Up to so many leave together whatever waits. More are shared among the messages that may still be
#: sent, so that client, server and store work at the same time and not by turns.
MESSAGE_OPERATIONS_SHARED = 64
#: Operations that may wait to be sent. Beyond that, callers are told so.
QUEUE_MAX = 100_000


class Session:
    """Asks over one stream at a time, and replaces it when it ends. For one event loop."""

    def __init__(self, endpoint: Endpoint, metadata: Callable[[], Metadata]) -> None:
        """`metadata` is called for every stream that is opened."""
        self._endpoint = endpoint
        self._metadata = metadata
        self._queue: deque[Asked] = deque()
        self._wanted = asyncio.Event()
        self._stream: Stream | None = None
        self._retiring: set[Stream] = set()
        self._pumping: asyncio.Task[None] | None = None
        self._is_closed = False

    async def ask(
        self, kind: str, request: Message, timeout_s: float, traceparent: str | None
    ) -> pb.BatchResult:
        """The answer to one operation, which may be an error of its own.

        `kind` is its name in `BatchItem`. Raises HoldfastError where there is no answer, and
        `Unsupported` where the server knows no sessions.
        """
        if self._is_closed:
            raise closed()
        loop = asyncio.get_running_loop()
        if self._pumping is None:
            self._pumping = loop.create_task(self._pump())
        if self._pumping.get_loop() is not loop:
            raise unusable("a client belongs to the event loop of its first call; make another")
        if len(self._queue) >= QUEUE_MAX:
            raise ResourceExhausted("too many calls wait in this client", result_unknown=False)
        asked = Asked(kind, request, traceparent)
        self._queue.append(asked)
        self._wanted.set()
        timer = loop.call_later(timeout_s, asked.expire)
        try:
            return await asked.answer
        except asyncio.CancelledError:
            asked.withdraw()
            raise
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Disconnects; calls under way fail."""
        self._is_closed = True
        for asked in self._taken(len(self._queue)):
            asked.fail(closed())
        if self._pumping is not None:
            self._pumping.cancel()
            with suppress(asyncio.CancelledError):
                await self._pumping
        for stream in [*self._retiring, *([self._stream] if self._stream else [])]:
            await stream.close()

    async def _pump(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._queue and (stream := self._current()) and stream.room > 0:
                share = -(-len(self._queue) // stream.messages_left)
                most = min(MESSAGE_OPERATIONS_MAX, max(MESSAGE_OPERATIONS_SHARED, share))
                if batch := self._taken(min(stream.room, most)):
                    await stream.send(batch)

    def _current(self) -> Stream | None:
        """The stream to send on; a new one where there is none that is open."""
        if self._stream is not None and not self._stream.is_open:
            self._retiring.add(self._stream)
            self._stream = None
        self._retiring = {each for each in self._retiring if not each.has_ended}
        if self._stream is None:
            try:
                self._stream = Stream(self._endpoint, self._metadata(), self._wanted.set)
            except Exception as error:
                # Whatever a token function raised is for those who asked, as in a single call.
                for asked in self._taken(len(self._queue)):
                    asked.fail(error)
        return self._stream

    def _taken(self, most: int) -> list[Asked]:
        """The operations that wait longest, without those that nobody waits for."""
        batch: list[Asked] = []
        while self._queue and len(batch) < most:
            asked = self._queue.popleft()
            if not asked.answer.done():
                batch.append(asked)
        return batch


def closed() -> FailedPrecondition:
    """What a call of a closed client ends with."""
    return unusable("the client is closed")


def unusable(why: str) -> FailedPrecondition:
    """Never retried: no other attempt of this client can be sent either."""
    return FailedPrecondition(why, result_unknown=False)
