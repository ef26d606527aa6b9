"""The hot store as a cluster: a script call goes to the node that has its keys.

A partition's keys share a slot, and so do a claim shard's; calls that touch several are not made
(engine/batcher.py). A node that answers MOVED, ASK or TRYAGAIN has executed nothing: the call goes
where it says, or waits for the slot to arrive. An answer that is lost is unknown, as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import (
    AskError,
    MovedError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from holdfast_server.engine.address import Address
from holdfast_server.engine.scripts import Script
from holdfast_server.engine.store import (
    ANSWER_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    Argument,
    Store,
    execute,
    failure,
    refused,
)
from holdfast_server.errors import Reason

#: How often one call is sent elsewhere, or waits for a slot that is on its way.
REDIRECTS_MAX: Final = 16
#: How long it waits each time.
TRY_AGAIN_SECONDS: Final = 0.02
#: Script calls of one process that are under way at one time.
CALLS_MAX: Final = 32
#: How often reads look for the node that has their key.
READ_ATTEMPTS: Final = 3


class ClusterStore(Store):
    """The same as `Store`, over all nodes of a cluster."""

    is_cluster = True

    def __init__(self, address: Address) -> None:
        self._nodes: RedisCluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in address.nodes],
            retry=Retry(ConstantBackoff(TRY_AGAIN_SECONDS), READ_ATTEMPTS),
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            ssl=address.tls,
            **address.credentials,
        )
        self.client = self._nodes
        self._free = asyncio.Semaphore(CALLS_MAX)
        #: A node did not answer: another may have taken its place.
        self._is_stale = True

    async def close(self) -> None:
        """Closes every connection."""
        await self._nodes.aclose()

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """See `Store.run`. All keys MUST share a slot."""
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        async with self._free:
            node, asking = await self._node_of(keys[0]), False
            for _ in range(REDIRECTS_MAX):
                try:
                    return await self._call(node, script, command, asking=asking)
                except MovedError as error:
                    await self._nodes.nodes_manager.move_slot(error)
                    node, asking = await self._node_of(keys[0]), False
                except AskError as error:
                    node, asking = await self._node_at(error), True
                except TryAgainError:
                    await asyncio.sleep(TRY_AGAIN_SECONDS)
            raise failure(Reason.STORE_UNAVAILABLE, TryAgainError())

    async def _node_of(self, key: str) -> ClusterNode:
        try:
            await self._nodes.initialize()
            if self._is_stale:
                await self._nodes.nodes_manager.initialize()
                self._is_stale = False
            node = self._nodes.get_node_from_key(key)
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
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

    async def _call(
        self, node: ClusterNode, script: Script, command: Sequence[Argument], *, asking: bool
    ) -> Any:
        connection = await self._connected(node)
        broken = True
        try:
            answer = await execute(connection, script, command, asking=asking)
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
            raise failure(Reason.RESULT_UNKNOWN, error) from error
        finally:
            if broken:
                await connection.disconnect(nowait=True)
            node.release(connection)

    async def _connected(self, node: ClusterNode) -> Connection:
        try:
            connection = node.acquire_connection()
        except RedisError as error:
            raise failure(Reason.STORE_UNAVAILABLE, error) from error
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            self._is_stale = True
            node.release(connection)
            raise failure(Reason.STORE_UNAVAILABLE, error) from error
        return connection
