"""One Session stream: what was sent on it, what has been answered, and how it ends.

Everything here runs on one event loop and needs no lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from holdfast._channel import Endpoint, Metadata, connect_async, is_cancelled, translate
from holdfast._frames import read_message, write_message
from holdfast.errors import HoldfastError, InternalError, Unauthenticated, Unreachable
from holdfast.v1 import balance_service_pb2 as pb

PATH = "/holdfast.v1.BalanceService/Session"
#: Messages without any answer: while the server works on one, the next arrives.
MESSAGES_IN_FLIGHT_MAX = 4
#: Operations on one stream without an answer: beyond this the server reads no more.
UNANSWERED_MAX = 4_096
#: How long a stream that is not wanted any more may take to answer the rest.
RETIRE_TIMEOUT_S = 30.0

#: How the transport names a stream that broke.
_BROKEN = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})


class Unsupported(Exception):
    """The server has no Session: call it singly."""


class TooLong(Exception):
    """No message has room for the operation: it is a call of its own."""


class Answer(Protocol):
    """What the caller of an operation waits for: a future, or the like of it for threads."""

    def done(self) -> bool: ...
    def set_result(self, result: pb.BatchResult, /) -> None: ...
    def set_exception(self, exception: Exception, /) -> None: ...


class Asked:
    """One operation, from the call to its answer."""

    __slots__ = ("answer", "deadline_s", "heard", "id", "is_slow", "item", "place", "stream")

    def __init__(
        self, answer: Answer, id: int, item: bytes, is_slow: bool, deadline_s: float
    ) -> None:
        """`item` is a `BatchItem` of this id, `deadline_s` a time of the monotone clock."""
        self.answer = answer
        self.id = id
        self.item = item
        #: Whether the server answers it later than others, when it will last.
        self.is_slow = is_slow
        self.deadline_s = deadline_s
        #: Where it waits: among those to be sent, or among those that were.
        self.place: MutableMapping[int, Asked] | None = None
        #: What it was sent on, and how many messages had come of that before.
        self.stream: Stream | None = None
        self.heard = 0

    def expire(self) -> None:
        """Its time is over."""
        self._leave()
        was_sent = self.stream is not None
        self.fail(Unreachable("no answer in time", result_unknown=was_sent))
        if self.stream is not None:
            self.stream.suspect(self)

    def fail(self, error: Exception) -> None:
        """Ends it without an answer, unless somebody has ended it before."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def withdraw(self) -> None:
        """Nobody wants the answer. What was sent is waited for all the same: whether anything comes
        in time says whether the stream is of use to others.
        """
        if self.stream is None:
            self._leave()

    def _leave(self) -> None:
        if self.place is not None:
            self.place.pop(self.id, None)


class Stream:
    """A stream on a connection of its own. `changed` is called when it can take more, or ends."""

    def __init__(self, endpoint: Endpoint, metadata: Metadata, changed: Callable[[], None]) -> None:
        self._channel = connect_async(endpoint)
        method: Any = self._channel.stream_stream(PATH)
        self._call: aio.StreamStreamCall[bytes, bytes] = method(metadata=metadata)
        self._changed = changed
        self.unanswered: dict[int, Asked] = {}
        #: Of each message that has no answer yet, the last id that is answered soon.
        self._messages: deque[int] = deque()
        self._newest_answered = 0
        #: How many messages have come.
        self._heard = 0
        #: False as soon as nothing more may be sent.
        self.is_open = True
        self._half_closing: asyncio.Task[None] | None = None
        #: Ends a stream that is not wanted any more.
        self._timer: asyncio.TimerHandle | None = None
        #: What the end of the stream ends a write with.
        self._writing: asyncio.Timeout | None = None
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
        for asked in batch:
            asked.place, asked.stream, asked.heard = self.unanswered, self, self._heard
            self.unanswered[asked.id] = asked
        soon = [asked.id for asked in batch if not asked.is_slow]
        if soon:
            self._messages.append(soon[-1])
        message = write_message([asked.item for asked in batch])
        try:
            await self._write(message)
        except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError, TimeoutError):
            # The stream has ended: whoever reads it learns why, and tells them all.
            self.is_open = False
        except asyncio.CancelledError:
            # A write of a stream that was given up is cancelled, though nobody cancels the writer.
            if is_cancelled():
                raise
            self.is_open = False

    async def _write(self, message: bytes) -> None:
        # A write may outlive its stream: before it is connected, or when the peer does not read.
        try:
            async with asyncio.timeout(None) as self._writing:
                await self._call.write(message)
        finally:
            self._writing = None

    def suspect(self, asked: Asked) -> None:
        """An operation was not answered in time. If nothing has come since it was sent, the
        connection is dead.
        """
        if asked.heard == self._heard:
            self._call.cancel()

    def retire(self) -> None:
        """Sends nothing more; ends when the server has answered the rest, or soon after."""
        if not self.is_open:
            return
        self.is_open = False
        loop = asyncio.get_running_loop()
        self._half_closing = loop.create_task(self._call.done_writing())
        self._timer = loop.call_later(RETIRE_TIMEOUT_S, self._call.cancel)

    async def close(self) -> None:
        """Ends at once; what was not answered fails."""
        self._call.cancel()
        await self._reading

    async def _read(self) -> None:
        try:
            message: Any
            while (message := await self._call.read()) is not aio.EOF:
                self._take(message)
            self._end(lambda: Unreachable("the server ended the stream"))
        except aio.AioRpcError as error:
            broken = error
            self._end(lambda: _why(broken, has_answered=self._newest_answered > 0))
        except asyncio.CancelledError:
            self._end(lambda: Unreachable("the stream was given up"))
        except DecodeError:
            self._end(lambda: InternalError("the server's answer is no valid message"))
        await self._channel.close()

    def _take(self, message: bytes) -> None:
        self._heard += 1
        results, is_closing = read_message(message)
        ids = [result.id for result in results]
        for id, result in zip(ids, results, strict=True):
            asked = self.unanswered.pop(id, None)
            if asked is not None and not asked.answer.done():
                asked.answer.set_result(result)
        self._newest_answered = max([self._newest_answered, *ids])
        while self._messages and self._messages[0] <= self._newest_answered:
            self._messages.popleft()
        if is_closing:
            self.retire()
        self._changed()

    def _end(self, why: Callable[[], Exception]) -> None:
        self.is_open = False
        for asked in self.unanswered.values():
            asked.fail(why())
        self.unanswered.clear()
        if self._timer is not None:
            # It would keep the call, and with it the connection.
            self._timer.cancel()
        if self._writing is not None:
            self._writing.reschedule(0)
        self._changed()


def _why(error: aio.AioRpcError, *, has_answered: bool) -> HoldfastError | Unsupported:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Unsupported()
    said = translate(error)
    if not said.reason and error.code() in _BROKEN:
        # Nobody of Holdfast has said so.
        return Unreachable("the stream broke")
    if has_answered and isinstance(said, Unauthenticated):
        # The token was good once: the next stream asks for another, or is refused at once.
        return Unreachable("the stream has outlived its token")
    # It is about the stream. What was sent on it may be at work.
    said.result_unknown = True
    return said
