"""A TCP proxy that breaks what passes through it: the network, as bad as it can be.

One proxy is one edge, such as that between the workers and the hot store. Nothing is broken until
a method says so, and `heal` ends everything. All methods may be called while connections are open.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

LOOPBACK: Final = "127.0.0.1"
#: Bytes read at a time.
CHUNK_BYTES: Final = 65_536
#: Makes a socket say RST in place of FIN when it is closed: linger, for no time (socket(7)).
_RESET: Final = struct.pack("ii", 1, 0)

Way = Literal["requests", "replies"]


@dataclass(slots=True)
class _Lane:
    """One direction, for all connections."""

    #: Bytes travel while this is set.
    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0
    #: 0: as fast as they come.
    bytes_per_s: int = 0

    async def carry(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        pause_s = self.delay_s + (len(data) / self.bytes_per_s if self.bytes_per_s else 0.0)
        if pause_s:
            await asyncio.sleep(pause_s)
        await self.open.wait()
        writer.write(data)
        await writer.drain()

    def heal(self) -> None:
        self.open.set()
        self.delay_s, self.bytes_per_s = 0.0, 0


@dataclass(slots=True)
class _Drops:
    """Replies that shall be lost, and after which requests."""

    left: int = 0
    after: bytes = b""


class Proxy:
    """Listens on a port of its own and passes everything on to one server."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._lanes: dict[Way, _Lane] = {"requests": _Lane(), "replies": _Lane()}
        self._drops = _Drops()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Sockets that are open, two for each connection."""
        return len(self._writers)

    def url(self, url: str) -> str:
        """The same URL, through this proxy."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}{LOOPBACK}:{self.port}"))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.heal()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.heal()
        self.rst()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- What can go wrong ----------------------------------------------------------------------

    def cut(self) -> None:
        """Every connection breaks, and new ones do too, until `heal`."""
        self._refusing = True
        self.rst()

    def blackhole(self) -> None:
        """Nothing arrives and nothing breaks, until `heal`; then what was sent arrives late."""
        self.half_open("requests")
        self.half_open("replies")

    def half_open(self, lost: Way) -> None:
        """The same in one direction: what is asked is done, or nothing that is asked arrives."""
        self._lanes[lost].open.clear()

    def drop_reply(self, count: int = 1, after: bytes = b"") -> None:
        """In place of the next `count` replies to requests that contain `after`, a broken line."""
        self._drops = _Drops(count, after)

    def delay(self, seconds: float) -> None:
        """Everything takes so much longer, in each direction."""
        for lane in self._lanes.values():
            lane.delay_s = seconds

    def throttle(self, bytes_per_s: int) -> None:
        """No more than this passes, per connection and direction."""
        for lane in self._lanes.values():
            lane.bytes_per_s = bytes_per_s

    def rst(self) -> None:
        """Every open connection breaks at once; new ones are welcome."""
        for writer in list(self._writers):
            _reset(writer)

    def lead_to(self, port: int) -> None:
        """Another server stands behind it from now on, as when a name leads to a new master."""
        self._upstream = port
        self.rst()

    def heal(self) -> None:
        """Nothing is broken any more."""
        self._refusing = False
        self._drops = _Drops()
        for lane in self._lanes.values():
            lane.heal()

    # --- Connections ----------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._open(writer):
            if self._refusing:
                return
            server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._upstream)
            async with self._open(server_writer):
                asked = _Asked()
                pumps = [
                    asyncio.create_task(self._requests(reader, server_writer, asked)),
                    asyncio.create_task(self._replies(server_reader, writer, asked)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)

    @asynccontextmanager
    async def _open(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            _reset(writer) if self._refusing else writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: _Asked
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            asked.waiting = asked.waiting or self._drops.after in data
            await self._lanes["requests"].carry(writer, data)

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: _Asked
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self._drops.left and asked.waiting:
                self._drops.left -= 1
                return
            asked.waiting = False
            await self._lanes["replies"].carry(writer, data)


@dataclass(slots=True)
class _Asked:
    """Whether a connection waits for a reply that may be dropped."""

    waiting: bool = False


def _reset(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None and not writer.transport.is_closing():
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
