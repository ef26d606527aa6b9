"""What a process tells its supervisor over a pipe: that it is ready, and that it does not hang.

A process whose event loop stands still keeps its port and its locks, and answers nobody. It says
from that loop, once a second, that it goes round; a supervisor that hears nothing for long kills
it, and starts another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

#: Seconds between two signs of life.
BEAT_SECONDS: Final = 1.0
#: Looks in a row, so many seconds apart, at which nothing has come. They are counted, not timed: a
#: supervisor that stood still itself has not looked.
SILENT_LOOKS_MAX: Final = 10

_READY: Final = b"+"
_ALIVE: Final = b"."


def say_ready(pipe: int) -> None:
    """Tells the supervisor that this process does its work now."""
    os.write(pipe, _READY)


async def say_alive(pipe: int) -> None:
    """Tells it again and again that the loop goes round. One that does not listen is let be."""
    os.set_blocking(pipe, False)
    while True:
        with contextlib.suppress(OSError):
            os.write(pipe, _ALIVE)
        await asyncio.sleep(BEAT_SECONDS)


class Listener(asyncio.Protocol):
    """The supervisor's end."""

    def __init__(self, ready: asyncio.Event) -> None:
        self._ready = ready
        self._began = self._heard = False
        #: The process can say nothing any more.
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self._began = self._heard = True
        if _READY in data:
            self._ready.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    async def silence(self) -> None:
        """Returns when a process that had begun to speak has been silent for too long."""
        looks = 0
        while looks < SILENT_LOOKS_MAX:
            await asyncio.sleep(BEAT_SECONDS)
            looks = looks + 1 if self._began and not self._heard else 0
            self._heard = False


@asynccontextmanager
async def listening(pipe: int, ready: asyncio.Event) -> AsyncIterator[Listener]:
    """Listens to a process for as long as the block lasts; sets `ready` when it says so."""
    listener = Listener(ready)
    with os.fdopen(pipe, "rb", buffering=0) as file:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: listener, file)
        try:
            yield listener
        finally:
            transport.close()
