"""What `holdfast doctor` reads from the hot store. It changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisClusterException, RedisError

from holdfast_server.engine.address import Address, parse
from holdfast_server.engine.levels import levels_of
from holdfast_server.errors import HoldfastError, Reason

#: Time for one command: a store that needs longer is away.
ANSWER_SECONDS_MAX = 3.0


_TIMEOUTS: Mapping[str, Any] = {
    "socket_timeout": ANSWER_SECONDS_MAX,
    "socket_connect_timeout": ANSWER_SECONDS_MAX,
}

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What there is to know about the hot store before it is trusted."""

    #: Host and port, where there are several servers; else empty.
    place: str
    #: "valkey" or "redis".
    software: str
    version: str
    role: str
    maxmemory_policy: str
    #: Bytes; 0 means that only the machine bounds it.
    maxmemory: int
    used_memory: int
    append_only: bool
    append_only_healthy: bool
    #: Replicas that follow it.
    replicas: int
    #: "always", "everysec", "no", or empty where we may not ask.
    append_fsync: str
    #: Bytes of a value up to which a small hash is packed; 0 where we may not ask.
    packed_value_bytes_max: int
    packed_entries_max: int
    #: Seconds without a replica after which it begins another history: 0 for never, and where it
    #: keeps nothing for replicas, or we may not ask.
    backlog_seconds: int
    #: How far its clock is ahead of ours, to about half a round trip.
    clock_ahead_ms: int


async def inspect_stores(redis_url: str) -> list[StoreFacts]:
    """The server, the master that sentinels name, or every master of a cluster.

    Raises STORE_UNAVAILABLE.
    """
    try:
        address = parse(redis_url)
        return [await _inspect(address, place) for place in await _masters(address)]
    except (RedisError, RedisClusterException, OSError, ValueError) as error:
        message = "The hot store cannot be reached; check HOLDFAST_REDIS_URL."
        raise HoldfastError(Reason.STORE_UNAVAILABLE, message) from error


async def _masters(address: Address) -> list[Place]:
    """Host and port of each; ("", 0) stands for what the URL itself says."""
    if address.master:
        sentinel = Sentinel(address.nodes, sentinel_kwargs=_TIMEOUTS)  # type: ignore[no-untyped-call]
        try:
            host, port = await sentinel.discover_master(address.master)
        finally:
            for each in sentinel.sentinels:
                await each.aclose()
        return [(host, int(port))]
    if not address.nodes:
        return [("", 0)]
    nodes = [ClusterNode(host, port) for host, port in address.nodes]
    async with RedisCluster(startup_nodes=nodes, ssl=address.tls, **address.credentials) as cluster:
        return [(str(node.host), int(node.port)) for node in cluster.get_primaries()]


def _client(address: Address, place: Place) -> Redis:
    host, port = place
    if not host:
        return Redis.from_url(address.url, **_TIMEOUTS, decode_responses=True)
    return Redis(
        host=host,
        port=port,
        ssl=address.tls,
        decode_responses=True,
        **_TIMEOUTS,
        **address.credentials,
    )


async def _inspect(address: Address, place: Place) -> StoreFacts:
    host, port = place
    async with _client(address, place) as client:
        return await _facts(client, f"{host}:{port}" if host else "")


async def _facts(client: Redis, place: str) -> StoreFacts:
    said = await client.info("everything")
    info = {name: str(value) for name, value in said.items()}
    return StoreFacts(
        place=place,
        software="valkey" if "valkey_version" in info else "redis",
        version=info.get("valkey_version") or info["redis_version"],
        role=info["role"],
        maxmemory_policy=info["maxmemory_policy"],
        maxmemory=int(info["maxmemory"]),
        used_memory=int(info["used_memory"]),
        append_only=info["aof_enabled"] == "1",
        replicas=levels_of(said).replicas,
        append_only_healthy=info.get("aof_last_write_status", "ok") == "ok",
        append_fsync=await _configured(client, "appendfsync"),
        packed_value_bytes_max=int(await _configured(client, "hash-max-listpack-value") or 0),
        packed_entries_max=int(await _configured(client, "hash-max-listpack-entries") or 0),
        backlog_seconds=await _backlog_seconds(client, info),
        clock_ahead_ms=await _clock_ahead_ms(client),
    )


async def _configured(client: Redis, name: str) -> str:
    try:
        return str((await client.config_get(name)).get(name, ""))
    except RedisError:
        # A user that may not CONFIG is how it should be.
        return ""


async def _backlog_seconds(client: Redis, info: Mapping[str, str]) -> int:
    if info.get("repl_backlog_active", "0") == "0":
        return 0
    return int(await _configured(client, "repl-backlog-ttl") or 0)


async def _clock_ahead_ms(client: Redis) -> int:
    before_ms = time.time() * 1000
    seconds, microseconds = await client.time()
    after_ms = time.time() * 1000
    return round(seconds * 1000 + microseconds / 1000 - (before_ms + after_ms) / 2)
