"""What `holdfast doctor` reads from the hot store. It changes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from holdfast_server.errors import HoldfastError, Reason

#: Time for one command: a store that needs longer is away.
ANSWER_SECONDS_MAX = 3.0


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What there is to know about the hot store before it is trusted."""

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
    #: "always", "everysec", "no", or empty where we may not ask.
    append_fsync: str
    #: Bytes of a value up to which a small hash is packed; 0 where we may not ask.
    packed_value_bytes_max: int
    #: How far its clock is ahead of ours, to about half a round trip.
    clock_ahead_ms: int


async def inspect_store(redis_url: str) -> StoreFacts:
    """Raises STORE_UNAVAILABLE."""
    client = Redis.from_url(
        redis_url,
        socket_timeout=ANSWER_SECONDS_MAX,
        socket_connect_timeout=ANSWER_SECONDS_MAX,
        decode_responses=True,
    )
    try:
        async with client:
            return await _facts(client)
    except (RedisError, OSError) as error:
        message = "The hot store cannot be reached; check HOLDFAST_REDIS_URL."
        raise HoldfastError(Reason.STORE_UNAVAILABLE, message) from error


async def _facts(client: Redis) -> StoreFacts:
    info = {name: str(value) for name, value in (await client.info("everything")).items()}
    return StoreFacts(
        software="valkey" if "valkey_version" in info else "redis",
        version=info.get("valkey_version") or info["redis_version"],
        role=info["role"],
        maxmemory_policy=info["maxmemory_policy"],
        maxmemory=int(info["maxmemory"]),
        used_memory=int(info["used_memory"]),
        append_only=info["aof_enabled"] == "1",
        append_only_healthy=info.get("aof_last_write_status", "ok") == "ok",
        append_fsync=await _configured(client, "appendfsync"),
        packed_value_bytes_max=int(await _configured(client, "hash-max-listpack-value") or 0),
        clock_ahead_ms=await _clock_ahead_ms(client),
    )


async def _configured(client: Redis, name: str) -> str:
    try:
        return str((await client.config_get(name)).get(name, ""))
    except RedisError:
        # A user that may not CONFIG is how it should be.
        return ""


async def _clock_ahead_ms(client: Redis) -> int:
    before_ms = time.time() * 1000
    seconds, microseconds = await client.time()
    after_ms = time.time() * 1000
    return round(seconds * 1000 + microseconds / 1000 - (before_ms + after_ms) / 2)
