"""The connection to Redis or Valkey: runs scripts, reads, and says what a failure means.

The driver's own retries are off: it would execute a script again after a lost reply. An error
before
anything was sent means that nothing was decided (STORE_UNAVAILABLE); an error after that means that
nobody knows (RESULT_UNKNOWN), and the caller retries with the same key.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from holdfast_server.engine.scripts import Script
from holdfast_server.errors import HoldfastError, Reason

#: Connections of one process: one per batch in flight, the rest for reads.
CONNECTIONS_MAX = 16
#: How long to wait for a connection, and for an answer.
CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 5.0
#: What callers are told to wait when the store is away.
RETRY_AFTER_MS = 500

_LOG = logging.getLogger(__name__)

Argument = str | bytes | int

#: How the store's refusals begin, and what they mean. Nothing was executed in any of these cases.
_REFUSALS = {
    "READONLY": Reason.STORE_WRITE_BLOCKED,
    "MISCONF": Reason.STORE_WRITE_BLOCKED,
    "NOREPLICAS": Reason.STORE_WRITE_BLOCKED,
    "OOM": Reason.STORE_OUT_OF_MEMORY,
}
_UNAVAILABLE = (
    "BUSY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
)
_REFUSAL_CLASSES = {
    "ReadOnlyError": Reason.STORE_WRITE_BLOCKED,
    "OutOfMemoryError": Reason.STORE_OUT_OF_MEMORY,
}
_MESSAGES = {
    Reason.STORE_UNAVAILABLE: "the hot store does not answer; nothing was decided, retry",
    Reason.STORE_WRITE_BLOCKED: "the hot store refuses writes; nothing was decided, retry",
    Reason.STORE_OUT_OF_MEMORY: "the hot store is out of memory; nothing was decided, retry",
    Reason.RESULT_UNKNOWN: (
        "the connection to the hot store broke; retry with the same key to learn the outcome"
    ),
}


class ScriptFault(Exception):
    """A script ended with an error of its own. It wrote nothing."""


class Store:
    """A pool of connections to one node."""

    def __init__(self, url: str) -> None:
        """`url` as redis-py takes it: redis://, rediss:// or unix://."""
        self._pool: redis.BlockingConnectionPool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
        )
        #: For reads and for the outbox, where asking twice does no harm.
        self.client: redis.Redis = redis.Redis(connection_pool=self._pool)

    async def close(self) -> None:
        """Closes every connection."""
        await self.client.aclose()
        await self._pool.disconnect()

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Runs a script, loading it where the store forgot it.

        Raises `HoldfastError` (see the module) or `ScriptFault`.
        """
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        connection = await self._connect()
        broken = True
        try:
            answer = await self._execute(connection, script, command)
            broken = False
            return answer
        except ResponseError as error:
            broken = False
            raise _refused(error) from error
        except (RedisError, OSError, TimeoutError) as error:
            raise _error(Reason.RESULT_UNKNOWN, error) from error
        finally:
            if broken:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    async def read(self, *command: Argument) -> Any:
        """Runs a command that changes nothing. Raises `HoldfastError` STORE_UNAVAILABLE."""
        try:
            return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            raise _error(Reason.STORE_UNAVAILABLE, error) from error

    async def read_all(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Runs several such commands in one round trip."""
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return list(await pipeline.execute())
        except (RedisError, OSError, TimeoutError) as error:
            raise _error(Reason.STORE_UNAVAILABLE, error) from error

    async def _connect(self) -> Connection:
        try:
            connection: Connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            raise _error(Reason.STORE_UNAVAILABLE, error) from error
        return connection

    async def _execute(
        self, connection: Connection, script: Script, command: Sequence[Argument]
    ) -> Any:
        try:
            return await _call(connection, command)
        except NoScriptError:
            await _call(connection, ("SCRIPT", "LOAD", script.text))
            return await _call(connection, command)


async def _call(connection: Connection, command: Sequence[Argument]) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()


def _refused(error: ResponseError) -> Exception:
    """What an error answer of the store means: it says that nothing was executed, or a script's
    fault.
    """
    text = str(error)
    if reason := _REFUSAL_CLASSES.get(type(error).__name__):
        return _error(reason, error)
    for prefix, refused in _REFUSALS.items():
        if text.startswith(prefix):
            return _error(refused, error)
    if text.startswith(_UNAVAILABLE) or type(error) is not ResponseError:
        return _error(Reason.STORE_UNAVAILABLE, error)
    return ScriptFault(text)


def _error(reason: Reason, cause: Exception) -> HoldfastError:
    _LOG.warning("hot store: %s: %s", reason.name, type(cause).__name__)
    if reason is Reason.RESULT_UNKNOWN:
        return HoldfastError(reason, _MESSAGES[reason])
    return HoldfastError(reason, _MESSAGES[reason], retry_after_ms=RETRY_AFTER_MS)
