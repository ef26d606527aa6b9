"""The hot store as a cluster: a script call goes to the node that has its keys.

A partition's keys share a slot, and so do a claim shard's; calls that touch several are not made
(engine/batcher.py). A node that answers MOVED, ASK or TRYAGAIN has executed nothing: the call goes
where it says, or waits for the slot to arrive. An answer that is lost is unknown, as ever.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import (
    AskError,
    ConnectionError,
    MovedError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from holdfast_server.engine.address import Address
from holdfast_server.engine.keys import ascii_names
from holdfast_server.engine.scripts import Script
from holdfast_server.engine.store import (
    ANSWER_TIMEOUT_S,
    AWAY,
    CONNECT_TIMEOUT_S,
    Store,
    broken_off,
    execute,
    failure,
    refused,
)
from holdfast_server.engine.store_clock import StoreClock
from holdfast_server.engine.wire import Argument, Groups, pack_call
from holdfast_server.errors import Reason

#: How often one call is sent elsewhere, or waits for a slot that is on its way.
REDIRECTS_MAX: Final = 16
#: How long it waits each time.
TRY_AGAIN_SECONDS: Final = 0.02
#: Script calls of one process that are under way at one time.
CALLS_MAX: Final = 32
#: Reads that are under way at one time; the driver refuses the 101st connection to a node.
READS_MAX: Final = 64
#: How often reads look for the node that has their key.
READ_ATTEMPTS: Final = 3

_CLOSED: Final = "the connection was closed while it was being made"


class _Reading(RedisCluster):
    """What reads go through.

    Where a node is away, the driver closes all connections, and one that was just being made fails
    with an AttributeError of the driver. Nobody but this class shall have to know that.
    """

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().execute_command(*args, **kwargs)
        except AttributeError as error:
            raise ConnectionError(_CLOSED) from error

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        return _ReadingPipeline(self, transaction)  # type: ignore[abstract]


class _ReadingPipeline(ClusterPipeline):
    """The same for many reads at once."""

    async def execute(
        self, raise_on_error: bool = True, allow_redirections: bool = True
    ) -> list[Any]:
        try:
            return await super().execute(raise_on_error, allow_redirections)
        except AttributeError as error:
            raise ConnectionError(_CLOSED) from error


class ClusterStore(Store):
    """The same as `Store`, over all nodes of a cluster."""

    is_cluster = True

    def __init__(self, address: Address) -> None:
        self.clock = StoreClock()
        self._nodes = RedisCluster(**_options(address))
        # Reads have connections of their own: where a node is away, the driver closes all that it
        # has, and a script call on one of these would be left without its answer.
        self.client = _Reading(**_options(address))
        self._free, self._reads = asyncio.Semaphore(CALLS_MAX), asyncio.Semaphore(READS_MAX)
        #: A node did not answer: another may have taken its place.
        self._is_stale = True
        self._is_closed = False

    async def close(self) -> None:
        """Closes every connection; a call that is under way closes its own."""
        self._is_closed = True
        await self._nodes.aclose()
        await self.client.aclose()

    async def read(self, *command: Argument) -> Any:
        """See `Store.read`."""
        async with self._reads:
            return await super().read(*command)

    async def read_all(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """See `Store.read_all`. One node that is away fails all."""
        async with self._reads:
            return await super().read_all(commands)

    async def random_keys(self, count: int) -> list[str]:
        """See `Store.random_keys`. All are of one node, which chance chooses as well."""
        async with self._reads:
            try:
                await self._nodes.initialize()
                node = random.choice(self._nodes.get_primaries())
                asked = [self.client.randomkey(target_nodes=node) for _ in range(count)]
                keys = await asyncio.gather(*asked)
            except (*AWAY, IndexError) as error:
                raise failure(Reason.STORE_UNAVAILABLE, error) from error
        return ascii_names(key for key in keys if isinstance(key, bytes))

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """See `Store.run`. All keys MUST share a slot."""
        call = pack_call(script, [list(keys)], arguments)
        async with self._free:
            node, asking = await self._node_of(keys[0]), False
            for _ in range(REDIRECTS_MAX):
                try:
                    return await self._call(node, script, call, asking=asking)
                except MovedError as error:
                    await self._nodes.nodes_manager.move_slot(error)
                    node, asking = await self._node_of(keys[0]), False
                except AskError as error:
                    node, asking = await self._node_at(error), True
                except TryAgainError:
                    await asyncio.sleep(TRY_AGAIN_SECONDS)
            raise failure(Reason.STORE_UNAVAILABLE, TryAgainError())

    async def call(self, script: Script, keys: Groups, arguments: Sequence[Argument]) -> bytes:
        """See `Store.call`; not faster here."""
        return bytes(await self.run(script, [*chain(*keys)], arguments))

    async def places(self) -> list[str]:
        """See `Store.places`."""
        # Looks again where another server may have taken the place of one.
        await self._node_of("")
        return [str(node.name) for node in self._nodes.get_primaries()]

    async def _scan(self, place: str, cursor: int, pattern: str, count: int) -> Any:
        client = self.client
        assert isinstance(client, RedisCluster)
        await client.initialize()
        node = client.get_node(node_name=place)
        if node is None:
            raise RedisClusterException(f"{place} is gone")
        return await client.execute_command(
            "SCAN", cursor, "MATCH", pattern, "COUNT", count, target_nodes=node
        )

    async def place_of(self, key: str) -> str:
        """See `Store.place_of`."""
        return str((await self._node_of(key)).name)

    def connection(self, place: str) -> Connection:
        """See `Store.connection`."""
        node = self._nodes.get_node(node_name=place)
        if node is None:
            raise failure(Reason.STORE_UNAVAILABLE, RedisClusterException(f"{place} is gone"))
        connection: Connection = node.connection_class(**node.connection_kwargs)
        return connection

    def look_again(self) -> None:
        """See `Store.look_again`."""
        self._is_stale = True

    async def _information(self, sections: Sequence[str]) -> list[Mapping[str, Any]]:
        client = self.client
        assert isinstance(client, RedisCluster)
        await client.initialize()
        masters = client.get_primaries()
        return [await client.info(*sections, target_nodes=node) for node in masters]

    async def _node_of(self, key: str) -> ClusterNode:
        try:
            await self._nodes.initialize()
            if self._is_stale:
                await self._nodes.nodes_manager.initialize()
                self._is_stale = False
            node = self._nodes.get_node_from_key(key)
        except AWAY as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error
        if node is None:
            self._is_stale = True
            raise failure(Reason.STORE_UNAVAILABLE, RedisClusterException("no node has the slot"))
        return node

    async def _node_at(self, error: AskError) -> ClusterNode:
        """The node that a slot is on its way to; one that is new is looked for."""
        node = self._nodes.get_node(error.host, error.port)
        if node is None:
            self._is_stale = True
            await self._node_of("")
            node = self._nodes.get_node(error.host, error.port)
        if node is None:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error
        return node

    async def _call(self, node: ClusterNode, script: Script, call: bytes, *, asking: bool) -> Any:
        connection = await self._connected(node)
        broken = True
        try:
            answer = await execute(connection, script, call, asking=asking)
            broken = False
            return answer
        except (AskError, TryAgainError):
            broken = False
            raise
        except ResponseError as error:
            broken = False
            raise refused(error) from error
        except (RedisError, OSError, TimeoutError) as error:
            self._is_stale = True
            raise broken_off(error) from error
        finally:
            if broken or self._is_closed:
                await connection.disconnect(nowait=True)
            node.release(connection)

    async def _connected(self, node: ClusterNode) -> Connection:
        try:
            connection = node.acquire_connection()
        except RedisError as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error
        try:
            await _make_ready(connection)
        except BaseException as error:
            # A caller that gives up meanwhile takes no connection with it.
            node.release(connection)
            if not isinstance(error, AWAY):
                raise
            self._is_stale = True
            raise failure(Reason.STORE_UNAVAILABLE, error) from error
        return connection


def _options(address: Address) -> dict[str, Any]:
    return {
        "startup_nodes": [ClusterNode(host, port) for host, port in address.nodes],
        "retry": Retry(ConstantBackoff(TRY_AGAIN_SECONDS), READ_ATTEMPTS),
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": ANSWER_TIMEOUT_S,
        # Else every fifth MOVED closes all connections, those of other reads in the middle of it.
        "reinitialize_steps": 0,
        "ssl": address.tls,
        **address.credentials,
    }


async def _make_ready(connection: Connection) -> None:
    """Connects; anew where the node has hung up meanwhile, since nothing is sent yet."""
    await connection.connect()  # type: ignore[no-untyped-call]
    try:
        is_usable = not await connection.can_read()
    except (RedisError, OSError):
        is_usable = False
    if not is_usable:
        await connection.disconnect()
        await connection.connect()  # type: ignore[no-untyped-call]
