"""Arms a hot store for tests that have no ledger: what the coordinator of recoveries does else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import Sentinel

from holdfast_server.engine.address import parse
from holdfast_server.engine.keys import FENCE_FIELD, Keys


def arm(url: str, keys: Keys, epoch: int = 1) -> None:
    """Lets every partition decide in this epoch, in the history that its server has now.

    A server that is not there decides nothing anyway.
    """
    with suppress(redis.RedisError), _connected(url) as client:
        for partition in range(keys.partitions):
            name = keys.state(partition, epoch)
            client.hset(name, FENCE_FIELD, f"{epoch} {_replid(client, name)} ARMED")


def _connected(url: str) -> Any:
    address, node, sentinel = parse(url), cast(Any, ClusterNode), cast(Any, Sentinel)
    if address.master:
        return sentinel(address.nodes).master_for(address.master, **address.credentials)
    if address.nodes:
        return RedisCluster(
            startup_nodes=[node(*each) for each in address.nodes], **address.credentials
        )
    return redis.Redis.from_url(url)


def _replid(client: Any, key: str) -> str:
    if isinstance(client, RedisCluster):
        node = cast(Any, client).get_node_from_key(key)
        client = client.get_redis_connection(node)
    return str(client.info("replication")["master_replid"])
