"""The connection to Redis or Valkey: runs scripts, reads, and says what a failure means.

The driver's own retries are off: it would execute a script again after a lost reply. An error
before anything was sent means that nothing was decided (STORE_UNAVAILABLE); an error after that
means that nobody knows (RESULT_UNKNOWN), and the caller retries with the same key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

import redis.asyncio as redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as NoGreetingError

from holdfast_server.engine.address import Address
from holdfast_server.engine.keys import ascii_names
from holdfast_server.engine.line import Line
from holdfast_server.engine.pools import Pool, SentinelPool
from holdfast_server.engine.scripts import Script
from holdfast_server.engine.store_clock import StoreClock
from holdfast_server.engine.wire import Argument, Groups, pack_call
from holdfast_server.errors import HoldfastError, Reason

#: Connections of one process, besides lines.
CONNECTIONS_MAX = 16
#: Lines that are kept: as many as there are batches in flight, and some.
LINES_KEPT = 4
#: How long to wait for a connection, and for an answer.
CONNECT_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 5.0


async def _greet(connection: Connection) -> None:
    """Says who we are. A server that hangs takes connections all the same: that it is away must be
    known before the time of a call is over.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await connection.on_connect()
    except TimeoutError as error:
        # The driver hangs up on its own errors alone.
        raise NoGreetingError("no answer to a greeting") from error


_CONNECTION: dict[str, Any] = {
    "redis_connect_func": _greet,
    "retry": Retry(NoBackoff(), 0),
    "retry_on_error": [],
    "socket_connect_timeout": CONNECT_TIMEOUT_S,
    "socket_timeout": ANSWER_TIMEOUT_S,
}

_POOL: dict[str, Any] = {"max_connections": CONNECTIONS_MAX, "timeout": CONNECT_TIMEOUT_S}

_LOG = logging.getLogger(__name__)


#: How the driver says that no server answers. What it raises of a cluster is no RedisError.
AWAY: Final = (RedisError, RedisClusterException, OSError, TimeoutError)

#: How the store's refusals begin, and what they mean. Nothing was executed in any of these cases.
_REFUSALS = {
    "READONLY": Reason.STORE_WRITE_BLOCKED,
    "MISCONF": Reason.STORE_WRITE_BLOCKED,
    "NOREPLICAS": Reason.STORE_WRITE_BLOCKED,
    "OOM": Reason.STORE_OUT_OF_MEMORY,
}
#: What a server means that takes no writes for now.
WRITES_REFUSED: Final = frozenset(_REFUSALS.values())
#: What a server says that does not know a function; the driver has no error of its own for it.
_NO_FUNCTION = "Function not found"

_UNAVAILABLE = ("BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOPERM")
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
    """A pool of connections to one server, or to the master that sentinels name."""

    #: Whether keys lie on several nodes, so that a script call may touch one slot only.
    is_cluster = False

    def __init__(self, address: Address) -> None:
        self.clock = StoreClock()
        self._sentinels: list[redis.Redis] = []
        self._lines: list[Line] = []
        self._pool = self._sentinel_pool(address) if address.master else _pool(address)
        #: For reads and for the outbox, where asking twice does no harm.
        self.client: redis.Redis | RedisCluster = redis.Redis(connection_pool=self._pool)

    async def close(self) -> None:
        """Closes every connection; what is under way is answered, and closes its own."""
        await self._pool.close()
        for line in self._lines:
            await line.close()
        await self.client.aclose()
        for each in self._sentinels:
            await each.aclose()

    def _sentinel_pool(self, address: Address) -> SentinelPool:
        timeouts = {
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_timeout": CONNECT_TIMEOUT_S,
        }
        manager = Sentinel(address.nodes, sentinel_kwargs=timeouts)  # type: ignore[no-untyped-call]
        self._sentinels = manager.sentinels
        return SentinelPool(
            address.master,
            manager,
            tls=address.tls,
            **_POOL,
            **_CONNECTION,
            **address.credentials,
        )

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Runs a script, loading it where the store forgot it.

        Raises `HoldfastError` (see the module) or `ScriptFault`.
        """
        command = pack_call(script, [list(keys)], arguments)
        connection = await self._connect()
        broken = True
        try:
            answer = await execute(connection, script, command)
            broken = False
            return answer
        except ResponseError as error:
            broken = False
            raise refused(error) from error
        except (RedisError, OSError, TimeoutError) as error:
            raise broken_off(error) from error
        finally:
            if broken:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    async def call(self, script: Script, keys: Groups, arguments: Sequence[Argument]) -> bytes:
        """Runs a script that answers with one string: the same as `run`, and faster.

        Raises `HoldfastError` (see the module) or `ScriptFault`.
        """
        line, is_good = await self._line(), False
        try:
            answer = await line.ask(pack_call(script, keys, arguments))
            is_good = True
            return answer
        except ResponseError as error:
            if is_unknown(error):
                return bytes(await self.run(script, [*chain(*keys)], arguments))
            raise refused(error) from error
        except (RedisError, OSError, TimeoutError) as error:
            raise broken_off(error) from error
        finally:
            if is_good and not self._pool.is_closed and len(self._lines) < LINES_KEPT:
                self._lines.append(line)
            else:
                # After a refusal as well: another server may have taken the place of this one.
                await line.close()

    async def ask(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Runs a script that changes nothing: where its answer is lost, nothing was decided.

        Raises `HoldfastError` STORE_UNAVAILABLE.
        """
        try:
            return await self.run(script, keys, arguments)
        except ScriptFault as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error
        except HoldfastError as error:
            if error.reason is Reason.RESULT_UNKNOWN:
                raise unanswered(Reason.STORE_UNAVAILABLE) from error
            raise

    async def read(self, *command: Argument) -> Any:
        """Runs a command that changes nothing. Raises `HoldfastError` STORE_UNAVAILABLE."""
        try:
            return await self.client.execute_command(*command)
        except AWAY as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error

    async def read_all(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Runs several such commands in one round trip."""
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return list(await pipeline.execute())
        except AWAY as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error

    async def random_keys(self, count: int) -> list[str]:
        """So many keys by chance, some perhaps more than once; fewer where the store is empty."""
        keys = await self.read_all([("RANDOMKEY",)] * count)
        return ascii_names(filter(None, keys))

    async def places(self) -> list[str]:
        """The servers that take writes, as `scan` knows them. Raises `HoldfastError`."""
        return [""]

    async def scan(
        self, place: str, cursor: int, pattern: str, count: int
    ) -> tuple[int, list[str]]:
        """Looks at about so many keys of a server: where to go on, 0 at the end, and the names of
        those that match. Raises `HoldfastError`.
        """
        try:
            return _scanned(await self._scan(place, cursor, pattern, count))
        except AWAY as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error

    async def _scan(self, place: str, cursor: int, pattern: str, count: int) -> Any:
        return await self.client.execute_command("SCAN", cursor, "MATCH", pattern, "COUNT", count)

    async def place_of(self, key: str) -> str:
        """Which server has a key, as `connection` knows it. Raises `HoldfastError`."""
        return ""

    def connection(self, place: str) -> Connection:
        """A connection of its own to a server, not yet made; whoever asks for it closes it.

        Raises `HoldfastError`.
        """
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

    def look_again(self) -> None:
        """A server did not answer as it should: another may have taken its place."""

    async def information(self, *sections: str) -> list[Mapping[str, Any]]:
        """What each server that takes writes says of itself. Raises `HoldfastError`."""
        try:
            return await self._information(sections)
        except AWAY as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error

    async def _information(self, sections: Sequence[str]) -> list[Mapping[str, Any]]:
        return [await self.client.info(*sections)]

    async def _line(self) -> Line:
        while self._lines:
            line = self._lines.pop()
            if line.is_open:
                return line
            await line.close()
        try:
            # The driver reads a file even to make one.
            connection = self.connection("")
            await connection.connect()  # type: ignore[no-untyped-call]
        except AWAY as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error
        return Line(connection, ANSWER_TIMEOUT_S)

    async def _connect(self) -> Connection:
        try:
            connection: Connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        except AWAY as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error
        return connection


def _scanned(answer: tuple[Any, Sequence[bytes]]) -> tuple[int, list[str]]:
    """What a scan answers. The driver has the cursor of a cluster's node under its name."""
    at, names = answer
    (cursor,) = at.values() if isinstance(at, dict) else (at,)
    return int(cursor), ascii_names(names)


def _pool(address: Address) -> Pool:
    pool = Pool.from_url(address.url, **_POOL, **_CONNECTION)
    # A parameter of the URL that nothing knows would else be found by the first call.
    pool.connection_class(**pool.connection_kwargs)
    return pool


async def execute(
    connection: Connection, script: Script, call: bytes, *, asking: bool = False
) -> Any:
    """Runs a script on one connection, loading it where the server forgot it.

    `asking`: the slot of its keys is on its way to this server. The connection is of no use any
    more when this raises anything but an answer of the server.
    """
    # The driver makes a task for whatever it sends within a time of its own.
    within, connection.socket_timeout = connection.socket_timeout, None
    try:
        async with asyncio.timeout(within):
            return await _loaded(connection, script, call, asking=asking)
    finally:
        connection.socket_timeout = within


async def _loaded(connection: Connection, script: Script, call: bytes, *, asking: bool) -> Any:
    try:
        return await _execute(connection, call, asking=asking)
    except ResponseError as error:
        if not is_unknown(error):
            raise
        await connection.send_command(*script.loading)
        await connection.read_response()
        return await _execute(connection, call, asking=asking)


def is_unknown(error: ResponseError) -> bool:
    """Whether a server says that it does not know a script or a function."""
    return isinstance(error, NoScriptError) or str(error) == _NO_FUNCTION


async def _execute(connection: Connection, call: bytes, *, asking: bool) -> Any:
    if asking:
        await connection.send_command("ASKING")
        await connection.read_response()
    await connection.send_packed_command(call)
    return await connection.read_response()


def refused(error: ResponseError) -> Exception:
    """What an error answer means: that nothing was executed, or a fault of the script."""
    text = str(error)
    if reason := _REFUSAL_CLASSES.get(type(error).__name__):
        return failure(reason, error)
    for prefix, meaning in _REFUSALS.items():
        if text.startswith(prefix):
            return failure(meaning, error)
    if text.startswith(_UNAVAILABLE) or type(error) is not ResponseError:
        return failure(Reason.STORE_UNAVAILABLE, error)
    return ScriptFault(text)


def broken_off(error: Exception) -> HoldfastError:
    """What it means that a connection is of no use any more. To the driver that is also so when a
    server loads its data or wants other credentials, which has executed nothing.
    """
    is_refused = isinstance(error, (BusyLoadingError, AuthenticationError))
    return failure(Reason.STORE_UNAVAILABLE if is_refused else Reason.RESULT_UNKNOWN, error)


def failure(reason: Reason, cause: Exception) -> HoldfastError:
    """What the driver's exception means to a caller; the log alone hears of the driver."""
    _LOG.warning("hot store: %s: %s", reason.name, type(cause).__name__)
    if reason is Reason.RESULT_UNKNOWN:
        return HoldfastError(reason, _MESSAGES[reason])
    return unanswered(reason)


def unanswered(reason: Reason) -> HoldfastError:
    """Nothing was decided; what a caller is told."""
    return HoldfastError(reason, _MESSAGES[reason])
