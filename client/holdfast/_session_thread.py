"""A session for callers in any thread: an event loop of its own, in a thread of its own.

A caller writes its operation itself, hands it over and waits for a lock: the loop has no task and
no future of it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from holdfast._calls import Operation, T
from holdfast._channel import Endpoint, Metadata, closed, of_another_process
from holdfast._session import Session
from holdfast._stream import Asked
from holdfast.errors import HoldfastError
from holdfast.v1 import balance_service_pb2 as pb


class Waiting:
    """An answer for which a thread waits. One thread gives it, another takes it."""

    __slots__ = ("_error", "_given", "_result")

    def __init__(self) -> None:
        self._result: pb.BatchResult | None = None
        self._error: Exception | None = None
        #: Free once there is an answer: nothing else that waits costs as little.
        self._given = threading.Lock()
        self._given.acquire()

    def done(self) -> bool:
        """Whether there is an answer."""
        return self._result is not None or self._error is not None

    def set_result(self, result: pb.BatchResult, /) -> None:
        """Gives the answer, once."""
        self._result = result
        self._given.release()

    def set_exception(self, exception: Exception, /) -> None:
        """Gives an error in place of the answer."""
        self._error = exception
        self._given.release()

    def wait(self) -> None:
        """Waits until there is an answer."""
        self._given.acquire()

    def result(self) -> pb.BatchResult:
        """The answer. Raises the error that was given in its place."""
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result


async def apart(metadata: Callable[[], Metadata]) -> Metadata:
    """Asks for metadata in a thread of its own: a function that blocks holds up nothing else, nor
    does it keep a process from ending.
    """
    loop, ended, given = asyncio.get_running_loop(), asyncio.Event(), Future[Metadata]()

    def ask() -> None:
        try:
            given.set_result(metadata())
        except Exception as error:
            given.set_exception(error)
        except BaseException as error:
            # Such as what ends a program: from here it would end the loop alone.
            given.set_exception(RuntimeError(f"the token function ended with {error!r}"))
        with suppress(RuntimeError):
            # The loop may have ended meanwhile.
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=ask, name="holdfast-token", daemon=True).start()
    await ended.wait()
    return given.result()


class SessionThread:
    """The same as `Session`, blocking. The thread is started by the first call, and is a daemon."""

    def __init__(self, endpoint: Endpoint, metadata: Callable[[], Awaitable[Metadata]]) -> None:
        self._session = Session(endpoint, metadata)
        #: Made by the first call: what tells a loop to do something wakes only one of the processes
        #: that have it.
        self._loop: asyncio.AbstractEventLoop | None = None
        #: What runs the loop.
        self._thread: threading.Thread | None = None
        #: Where the thread runs: a process that is forked has none.
        self._process = 0
        self._lock = threading.Lock()
        self._is_closed = False
        #: What callers have handed over, at most one operation each, and whether the loop knows.
        self._handed: deque[Asked] = deque()
        self._is_told = False

    def ask(
        self,
        operation: Operation[T],
        item: pb.BatchItem,
        deadline_s: float,
        traceparent: str | None,
    ) -> T:
        """See `Session.ask`."""
        if self._process != os.getpid():
            self._start()
        answer = Waiting()
        asked = self._session.write(answer, operation, item, deadline_s, traceparent)
        try:
            self._hand_over(asked)
            answer.wait()
        except BaseException:
            # Such as an interrupt: nobody waits any more. It may have come before the loop was
            # told, which others that were handed over rely on.
            self._tell(self._take)
            self._tell(asked.withdraw)
            raise
        return operation.read_result(answer.result())

    def close(self) -> None:
        """Disconnects; calls under way in other threads fail."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed or self._process not in {0, os.getpid()}:
            return
        if self._loop is not None:
            if self._thread is not None:
                asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
                self._tell(self._loop.stop)
                self._thread.join()
            self._loop.close()
        self._refuse()

    def _start(self) -> None:
        with self._lock:
            if self._is_closed:
                raise closed()
            if self._process not in {0, os.getpid()}:
                raise of_another_process()
            if not self._process:
                self._loop = loop = self._loop or asyncio.new_event_loop()
                name, work = "holdfast-session", partial(self._run, loop)
                threading.Thread(target=work, name=name, daemon=True).start()
                # Where an interrupt came before this, nobody knows whether that thread runs: the
                # next call starts another.
                self._process = os.getpid()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs the loop, unless another thread does already."""
        with self._lock:
            if self._is_closed or self._thread is not None:
                return
            self._thread, self._process = threading.current_thread(), os.getpid()
        loop.run_forever()

    def _hand_over(self, asked: Asked) -> None:
        self._handed.append(asked)
        if self._is_closed:
            # Perhaps nobody comes to take it any more.
            self._refuse()
        elif not self._is_told:
            self._is_told = True
            self._tell(self._take)

    def _tell(self, callback: Callable[[], None]) -> None:
        """Lets the loop do something. One that has ended does not, and needs not."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback)

    def _take(self) -> None:
        """Puts what was handed over into the session. Who comes from now on must tell again."""
        self._is_told = False
        loop = asyncio.get_running_loop()
        for asked in self._taken():
            try:
                self._session.put(asked, loop)
            except HoldfastError as error:
                asked.fail(error)

    def _refuse(self) -> None:
        """Fails what was handed over too late."""
        for asked in self._taken():
            asked.fail(closed())

    def _taken(self) -> Iterator[Asked]:
        """What was handed over: each for one of the threads that look."""
        with suppress(IndexError):
            while True:
                yield self._handed.popleft()

    async def _shut(self) -> None:
        """Ends the session, and what the connection has left to do."""
        await self._session.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
