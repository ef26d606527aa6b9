"""A session for callers in any thread: an event loop of its own, in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from google.protobuf.message import Message

from holdfast._channel import Endpoint, Metadata
from holdfast._session import Session, closed, unusable
from holdfast.v1 import balance_service_pb2 as pb

Done = TypeVar("Done")


class SessionThread:
    """The same as `Session`, blocking. The thread is started by the first call, and is a daemon."""

    def __init__(self, endpoint: Endpoint, metadata: Callable[[], Metadata]) -> None:
        self._session = Session(endpoint, metadata)
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        #: Where the thread runs: a process that is forked has none.
        self._process = 0
        self._lock = threading.Lock()
        self._is_closed = False

    def ask(
        self, kind: str, request: Message, timeout_s: float, traceparent: str | None
    ) -> pb.BatchResult:
        """See `Session.ask`."""
        self._start()
        return self._run(self._session.ask(kind, request, timeout_s, traceparent))

    def close(self) -> None:
        """Disconnects; calls under way in other threads fail."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed or self._process not in {0, os.getpid()}:
            return
        if self._thread is not None:
            self._run(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def _start(self) -> None:
        with self._lock:
            if self._is_closed:
                raise closed()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="holdfast-session", daemon=True
                )
                self._thread.start()
                self._process = os.getpid()
            if self._process != os.getpid():
                raise unusable("a client that was used before a fork is no use after it")

    async def _shut(self) -> None:
        """Ends the session, and whoever still waits for something else, such as to ask again."""
        await self._session.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Done]) -> Done:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except CancelledError:
            raise closed() from None
