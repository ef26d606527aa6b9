"""One Session stream: many operations in, their answers out as they come, bounded and never lost.

Each message is one submission, and several are at work at one time. Answers that come while a
message is being written travel together in the next one, so that a busy stream writes few messages
and an idle one waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from holdfast.v1 import balance_service_pb2 as messages
from holdfast_server.api.validate.batches import check_size
from holdfast_server.domain import bounds
from holdfast_server.domain.value import value
from holdfast_server.errors import HoldfastError, Reason

#: Operations of one stream that may wait for an answer; beyond it, reading pauses.
UNANSWERED_MAX: Final = 4_096
#: A stream wants no more operations after this time: shorter than the grace of a connection that is
#: past its age, so that no stream is cut off by the end of its connection.
AGE_SECONDS_MAX: Final = 480.0
#: Answers in one message: all that one message may have asked for.
RESULTS_MAX: Final = bounds.BATCH_ITEMS_MAX
#: Bytes of results in one message, unless one result alone has more: balances may be long.
RESULTS_BYTES_MAX: Final = 1_048_576
#: Says that a stream wants no more operations.
_CLOSING: Final = messages.SessionResponse(closing=True).SerializeToString()
#: How often a stream proves again that its credentials are good.
PROOF_SECONDS: Final = 30.0

Context = grpc.aio.ServicerContext[bytes, bytes]


@value(frozen=True, slots=True)
class Answers:
    """The results of some operations, as a whole SessionResponse: such bytes can be joined."""

    ids: Sequence[int]
    payload: bytes


#: Takes answers, in any order, and writes them.
Put = Callable[[Answers], Awaitable[None]]
#: Answers the items of one message; MUST NOT raise, and MUST put one result for each.
Work = Callable[[Sequence[messages.BatchItem], Put], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Ways:
    """What a session needs from its surroundings."""

    #: Starts work that goes on when the stream has ended.
    start: Callable[[Coroutine[Any, Any, None]], object]
    #: Says that the running task has done its work, and answers the task, which is then ours alone.
    leave: Callable[[], object]
    work: Work
    #: Looks whose the stream's credentials are, for the work that is begun from then on. Raises
    #: HoldfastError when they are not good any more.
    prove: Callable[[], Awaitable[object]]
    clock: Callable[[], float]


class Session:
    """One stream. `run` reads until the caller is done."""

    def __init__(self, context: Context, ways: Ways) -> None:
        self._context = context
        self._ways = ways
        self._unanswered: set[int] = set()
        self._answers: deque[Answers] = deque()
        self._progress = asyncio.Event()
        #: The task that writes, if there is one.
        self._writer: object = None
        self._is_closing = False
        self._is_told = False
        self._proved = ways.clock()

    async def run(self) -> None:
        """Answers what comes until the caller has no more. Raises HoldfastError to end the stream.

        Work under way goes on when the stream breaks: its answers are kept under their keys.
        """
        timer = asyncio.get_running_loop().call_later(AGE_SECONDS_MAX, self.close)
        try:
            while (payload := await self._next()) is not None:
                await self._take(payload)
            await self._settled(0)
        finally:
            timer.cancel()
            self._is_told = True

    def close(self) -> None:
        """Tells the caller to send no more. What was sent is still answered."""
        self._is_closing = True
        self._ways.start(self._write())

    async def _next(self) -> bytes | None:
        """The next message; None when the caller has no more."""
        payload: Any = await self._context.read()
        return None if payload is grpc.aio.EOF else payload

    async def _take(self, payload: bytes) -> None:
        items = _items(payload)
        await self._settled(UNANSWERED_MAX - len(items))
        await self._prove()
        self._remember([item.id for item in items])
        self._ways.start(self._ways.work(items, self._put))

    async def _prove(self) -> None:
        now = self._ways.clock()
        if now - self._proved >= PROOF_SECONDS:
            await self._ways.prove()
            self._proved = now

    async def _settled(self, unanswered: int) -> None:
        """Waits until at most so many operations wait for their answers."""
        while len(self._unanswered) > unanswered:
            self._progress.clear()
            await self._progress.wait()

    def _remember(self, ids: Sequence[int]) -> None:
        for index, name in enumerate(ids):
            if not name or name in self._unanswered:
                raise HoldfastError(
                    Reason.FIELD_INVALID,
                    f"items[{index}].id must be 1 or more, and of no operation without an answer.",
                    field=f"items[{index}].id",
                )
            self._unanswered.add(name)

    async def _put(self, answers: Answers) -> None:
        self._answers.append(answers)
        await self._write()

    async def _write(self) -> None:
        """Writes what there is, and what comes meanwhile; one at a time."""
        if self._writer is not None:
            return
        # Whoever writes may have to wait until the caller reads: that is no work, and takes no
        # place from others.
        self._writer = self._ways.leave()
        try:
            while self._answers or self._is_closing > self._is_told:
                await self._write_one()
        except Exception:
            # The stream has ended in whatever way: nobody is left to tell.
            self._answers.clear()
            self._is_told = True
        finally:
            self._writer = None

    async def _write_one(self) -> None:
        answers = self._next_answers()
        payloads = [each.payload for each in answers]
        self._is_told = self._is_closing
        if self._is_closing:
            payloads.append(_CLOSING)
        await self._context.write(b"".join(payloads))
        for each in answers:
            self._unanswered.difference_update(each.ids)
        self._progress.set()

    def _next_answers(self) -> list[Answers]:
        """What is written next: as much as fits into one message."""
        taken: list[Answers] = []
        room, room_bytes = RESULTS_MAX, RESULTS_BYTES_MAX
        while self._answers:
            first = self._answers[0]
            room, room_bytes = room - len(first.ids), room_bytes - len(first.payload)
            if taken and min(room, room_bytes) < 0:
                break
            taken.append(self._answers.popleft())
        return taken


def _items(payload: bytes) -> Sequence[messages.BatchItem]:
    try:
        # A list, since the message itself makes an object of an item whenever it is asked for it.
        items = list(messages.SessionRequest.FromString(payload).items)
    except DecodeError:
        message = "The bytes are no SessionRequest."
        raise HoldfastError(Reason.MALFORMED_REQUEST, message) from None
    check_size(items)
    return items
