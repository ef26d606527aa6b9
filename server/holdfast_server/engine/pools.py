"""The connections of the driver that a store keeps: to one server, or to whom sentinels name."""

from __future__ import annotations

from typing import Any

import redis.asyncio as redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.exceptions import ConnectionError, ReadOnlyError


class Pool(redis.BlockingConnectionPool):
    """Once it is closed it keeps no connection: whoever has one hangs up behind what is asked."""

    is_closed = False

    async def close(self) -> None:
        """The driver would also close those in use, and whoever waits for an answer would get an
        AttributeError of the driver.
        """
        self.is_closed = True
        await self.disconnect(inuse_connections=False)

    async def release(self, connection: AbstractConnection) -> None:
        if self.is_closed:
            await connection.disconnect(nowait=True)
        await super().release(connection)


class _Connection(SentinelManagedConnection):
    """Leaves a refusal what it is. The driver hangs up on a master that takes no writes any more,
    to ask for another, and would say that the connection broke: nobody knew what was executed.
    """

    async def read_response(self, *how: Any, **named: Any) -> Any:
        try:
            return await super().read_response(*how, **named)
        except ConnectionError as error:
            if isinstance(error.__context__, ReadOnlyError):
                raise error.__context__ from None
            raise


class _TlsConnection(_Connection, SentinelManagedSSLConnection):
    """The same over TLS."""


class SentinelPool(SentinelConnectionPool, Pool):
    """Asks sentinels for the master. Who finds no connection free waits, as with one server."""

    def __init__(self, master: str, manager: Sentinel, *, tls: bool, **named: Any) -> None:
        kind = _TlsConnection if tls else _Connection
        super().__init__(master, manager, connection_class=kind, **named)  # type: ignore[no-untyped-call]
