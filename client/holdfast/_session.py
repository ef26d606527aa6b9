"""Many concurrent calls over one stream: the client's side of `BalanceService.Session`.

Operations wait in a queue. Whatever waits is sent in one message as soon as the stream has room:
under load messages grow by themselves, and a lone operation leaves at once. There is no timer but
the one for deadlines. A queue without room to send waits: each operation has a caller that waits
with it, so that the queue is never longer than there are callers, and who waits for too long or
gives up leaves it at once.

A stream that breaks fails what was sent on it with an error after which whoever asked sends it
again, under the same key, on the next stream. What was not sent yet just goes there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from copy import copy
from itertools import chain, count, islice

from holdfast._calls import Operation, T
from holdfast._channel import Endpoint, Metadata, closed, of_another_loop
from holdfast._stream import Answer, Asked, Stream, TooLong
from holdfast._watch import Watch
from holdfast.errors import HoldfastError
from holdfast.v1 import balance_service_pb2 as pb

#: Operations in one message: what the server takes.
MESSAGE_OPERATIONS_MAX = 1_000
#: Up to so many leave together whatever waits. More are shared among the messages that may still be
#: sent, so that client, server and store work at the same time and not by turns.
MESSAGE_OPERATIONS_SHARED = 64
#: Bytes of operations in one message: half of what a server reads by default.
MESSAGE_BYTES_MAX = 512 << 10


async def at_once(metadata: Callable[[], Metadata]) -> Metadata:
    """Asks for metadata in the event loop, where a function must be quick."""
    return metadata()


class Session:
    """Asks over one stream at a time, and replaces it when it ends. For one event loop."""

    def __init__(self, endpoint: Endpoint, metadata: Callable[[], Awaitable[Metadata]]) -> None:
        """`metadata` is called for every stream that is opened."""
        self._endpoint = endpoint
        self._metadata = metadata
        #: Unique in all streams, so that an operation is written before it is known where it goes.
        self._ids = count(1)
        self._queue: OrderedDict[int, Asked] = OrderedDict()
        self._wanted = asyncio.Event()
        self._watch = Watch(self._waiting)
        self._stream: Stream | None = None
        self._retiring: set[Stream] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._is_closed = False

    def ask(
        self,
        operation: Operation[T],
        item: pb.BatchItem,
        deadline_s: float,
        traceparent: str | None,
    ) -> Awaitable[T]:
        """The answer to an operation. Whoever waits for it is raised its error, HoldfastError where
        there is no answer, `Unsupported` where the server knows no sessions; `TooLong` is at once.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[pb.BatchResult] = loop.create_future()
        asked = self.write(answer, operation, item, deadline_s, traceparent)
        self.put(asked, loop)
        return self._answered(operation, asked, answer)

    async def _answered(
        self, operation: Operation[T], asked: Asked, answer: asyncio.Future[pb.BatchResult]
    ) -> T:
        try:
            result = await answer
        except asyncio.CancelledError:
            asked.withdraw()
            raise
        return operation.read_result(result)

    def write(
        self,
        answer: Answer,
        operation: Operation[T],
        item: pb.BatchItem,
        deadline_s: float,
        traceparent: str | None,
    ) -> Asked:
        """An operation as it is sent. In any thread. `deadline_s` is of the monotone clock. Raises
        `TooLong` where a server would not read it, which ended the stream and what others ask.
        """
        item.id = id = next(self._ids)
        if traceparent:
            item.traceparent = traceparent
        written = item.SerializeToString()
        if len(written) > MESSAGE_BYTES_MAX:
            raise TooLong
        return Asked(answer, id, written, operation.is_slow, deadline_s)

    def put(self, asked: Asked, loop: asyncio.AbstractEventLoop) -> None:
        """Sends it with the next message, from the loop that runs. Raises FailedPrecondition where
        that cannot be.
        """
        if self._is_closed:
            raise closed()
        if self._loop is not loop or self._pumping is None or self._pumping.cancelling():
            self._start(loop)
        asked.place = self._queue
        self._queue[asked.id] = asked
        self._wanted.set()
        self._watch.add(asked.deadline_s)

    async def close(self) -> None:
        """Disconnects; calls under way fail."""
        self._is_closed = True
        self._watch.cancel()
        self._fail_queue(closed())
        if self._pumping is not None:
            self._pumping.cancel()
            with suppress(asyncio.CancelledError):
                await self._pumping
        for stream in self._streams():
            await stream.close()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop not in {None, loop}:
            raise of_another_loop()
        self._loop = loop
        # Another one where somebody has cancelled all tasks of the loop.
        self._pumping = loop.create_task(self._pump())

    async def _pump(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._queue and (stream := await self._current()) and stream.room > 0:
                share = -(-len(self._queue) // stream.messages_left)
                most = min(MESSAGE_OPERATIONS_MAX, max(MESSAGE_OPERATIONS_SHARED, share))
                await stream.send(self._taken(min(stream.room, most)))

    async def _current(self) -> Stream | None:
        """The stream to send on; a new one where there is none that is open. None where nobody
        waits any more.
        """
        if self._stream is not None and not self._stream.is_open:
            self._retiring.add(self._stream)
            self._stream = None
        self._retiring = {each for each in self._retiring if not each.has_ended}
        if self._stream is None:
            try:
                metadata = await self._metadata()
                self._stream = Stream(self._endpoint, metadata, self._wanted.set)
            except Exception as error:
                # Whatever a token function raised is for those who asked, as in a single call.
                self._fail_queue(error)
        return self._stream if self._queue else None

    def _taken(self, most: int) -> list[Asked]:
        """The operations that wait longest: as many as fit into one message, at least one."""
        taken: list[Asked] = []
        room = MESSAGE_BYTES_MAX
        for asked in islice(self._queue.values(), most):
            room -= len(asked.item)
            if room < 0 and taken:
                break
            taken.append(asked)
        for asked in taken:
            del self._queue[asked.id]
        return taken

    def _fail_queue(self, error: Exception) -> None:
        for asked in self._queue.values():
            # Each has one of its own, since what is known of its result is written into it.
            asked.fail(copy(error) if isinstance(error, HoldfastError) else error)
        self._queue.clear()

    def _streams(self) -> list[Stream]:
        return [*self._retiring, *([self._stream] if self._stream else [])]

    def _waiting(self) -> Iterable[Asked]:
        """All operations without an answer."""
        sent = (stream.unanswered.values() for stream in self._streams())
        return chain(self._queue.values(), *sent)
