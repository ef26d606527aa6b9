"""One Session stream: what was sent on it, what has been answered, and how it ends.

Everything here runs on one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc import aio

from holdfast._channel import Endpoint, Metadata, connect_async, translate
from holdfast.errors import HoldfastError, Unreachable
from holdfast.v1 import balance_service_pb2 as pb
from holdfast.v1 import types_pb2

PATH = "/holdfast.v1.BalanceService/Session"
#: Messages without any answer: while the server works on one, the next arrives.
MESSAGES_IN_FLIGHT_MAX = 4
#: Operations on one stream without an answer: beyond this the server reads no more.
UNANSWERED_MAX = 4_096
#: How long a stream that is not wanted any more may take to answer the rest.
RETIRE_TIMEOUT_S = 30.0

#: How the transport names a stream that broke.
_BROKEN = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})
_MEMORY = types_pb2.DURABILITY_MEMORY


class Unsupported(Exception):
    """The server has no Session: call it singly."""


class Asked:
    """One operation, from the call to its answer."""

    __slots__ = ("answer", "id", "is_slow", "kind", "request", "stream", "traceparent")

    def __init__(self, kind: str, request: Message, traceparent: str | None) -> None:
        self.kind = kind
        self.request = request
        self.traceparent = traceparent
        #: Whether the server answers it later than others, when it will last.
        self.is_slow = kind == "refund" or getattr(request, "durability", 0) > _MEMORY
        self.answer: asyncio.Future[pb.BatchResult] = asyncio.get_running_loop().create_future()
        #: Where and under which id it was sent; nowhere and 0 before.
        self.stream: Stream | None = None
        self.id = 0

    def expire(self) -> None:
        """Its time is over."""
        if self.answer.done():
            return
        was_sent = self.stream is not None
        self.answer.set_exception(Unreachable("no answer in time", result_unknown=was_sent))
        if self.stream is not None:
            self.stream.suspect(self.id)

    def fail(self, error: Exception) -> None:
        """Ends it without an answer, unless somebody has ended it before."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def withdraw(self) -> None:
        """Nobody wants the answer."""
        if self.stream is not None:
            self.stream.unanswered.pop(self.id, None)


class Stream:
    """A stream on a connection of its own. `changed` is called when it can take more, or ends."""

    def __init__(self, endpoint: Endpoint, metadata: Metadata, changed: Callable[[], None]) -> None:
        self._channel = connect_async(endpoint)
        method: Any = self._channel.stream_stream(
            PATH, pb.SessionRequest.SerializeToString, pb.SessionResponse.FromString
        )
        self._call: aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse] = method(
            metadata=metadata
        )
        self._changed = changed
        self._ids = count(1)
        self.unanswered: dict[int, Asked] = {}
        #: Of each message that has no answer yet, the last id that is answered soon.
        self._messages: deque[int] = deque()
        self._newest_answered = 0
        #: False as soon as nothing more may be sent.
        self.is_open = True
        self._half_closing: asyncio.Task[None] | None = None
        #: The write that waits for the connection; only the first does.
        self._first: asyncio.Task[None] | None = None
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self._reading.done()

    @property
    def room(self) -> int:
        """How many operations may be sent now."""
        return UNANSWERED_MAX - len(self.unanswered) if self.messages_left > 0 else 0

    @property
    def messages_left(self) -> int:
        """How many messages may be sent now."""
        return MESSAGES_IN_FLIGHT_MAX - len(self._messages)

    async def send(self, batch: Sequence[Asked]) -> None:
        """Sends operations in one message. What goes wrong becomes their answer."""
        message = pb.SessionRequest()
        for asked in batch:
            asked.id, asked.stream = next(self._ids), self
            self.unanswered[asked.id] = asked
            item = message.items.add(id=asked.id, traceparent=asked.traceparent)
            getattr(item, asked.kind).CopyFrom(asked.request)
        soon = [asked.id for asked in batch if not asked.is_slow]
        if soon:
            self._messages.append(soon[-1])
        try:
            await self._write(message)
        except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError):
            # The stream has ended: whoever reads it learns why, and tells them all.
            self.is_open = False

    async def _write(self, message: pb.SessionRequest) -> None:
        if self._first is not None:
            await self._call.write(message)
            return
        # A stream that ends before it is connected leaves its first write waiting for ever, so
        # that the end of the stream has to end the wait.
        self._first = asyncio.get_running_loop().create_task(self._call.write(message))
        await asyncio.wait((self._first, self._reading), return_when=asyncio.FIRST_COMPLETED)
        if not self._first.done():
            self._first.cancel()
        elif not self._first.cancelled():
            self._first.result()

    def suspect(self, id: int) -> None:
        """An operation was not answered in time. If nothing was since, the connection is dead."""
        self.unanswered.pop(id, None)
        if id > self._newest_answered:
            self._call.cancel()

    def retire(self) -> None:
        """Sends nothing more; ends when the server has answered the rest, or soon after."""
        if not self.is_open:
            return
        self.is_open = False
        loop = asyncio.get_running_loop()
        self._half_closing = loop.create_task(self._call.done_writing())
        loop.call_later(RETIRE_TIMEOUT_S, self._call.cancel)

    async def close(self) -> None:
        """Ends at once; what was not answered fails."""
        self._call.cancel()
        await self._reading

    async def _read(self) -> None:
        try:
            response: Any
            while (response := await self._call.read()) is not aio.EOF:
                self._take(response)
            self._end(lambda: Unreachable("the server ended the stream"))
        except aio.AioRpcError as error:
            broken = error
            self._end(lambda: _why(broken))
        except asyncio.CancelledError:
            self._end(lambda: Unreachable("the stream was given up"))
        await self._channel.close()

    def _take(self, response: pb.SessionResponse) -> None:
        for result in response.results:
            asked = self.unanswered.pop(result.id, None)
            self._newest_answered = max(self._newest_answered, result.id)
            if asked is not None and not asked.answer.done():
                asked.answer.set_result(result)
        while self._messages and self._messages[0] <= self._newest_answered:
            self._messages.popleft()
        if response.closing:
            self.retire()
        self._changed()

    def _end(self, why: Callable[[], Exception]) -> None:
        self.is_open = False
        for asked in self.unanswered.values():
            asked.fail(why())
        self.unanswered.clear()
        self._changed()


def _why(error: aio.AioRpcError) -> HoldfastError | Unsupported:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Unsupported()
    said = translate(error)
    if not said.reason and error.code() in _BROKEN:
        # Nobody of Holdfast has said so.
        return Unreachable("the stream broke")
    return said
