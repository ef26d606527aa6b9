"""The floors: a bare echo server, a bare script that takes one from each of some keys, and one that
runs the commands of a Reserve and decides nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Final

import grpc
import redis.asyncio as redis

from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.echo import PATH
from holdfast_server.bench.rounds import Done, Work

#: Keys that the bare script counts down; partitions and trees that the bare commands are about.
KEYS: Final = 1_000
#: How far the bare script goes from one key to the next: a prime, so that it comes to all of them.
STRIDE: Final = 7_919
PARTITIONS: Final = 256
#: Bytes of what a Reserve writes, as seen in the store: an entry, the row of an account with three
#: grants, that of a hold, and an idempotency record.
WRITTEN_BYTES: Final = (390, 220, 110, 130)


@asynccontextmanager
async def echo(
    meter: Meter, request_bytes: int, answer_bytes: int, in_flight: int, calls: int
) -> AsyncIterator[Work]:
    """Rounds of so many bare calls, so many at a time."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast_server.bench.echo", str(answer_bytes)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    meter.name(process.pid, "echo")
    target = f"127.0.0.1:{int(await process.stdout.readline())}"
    request = bytes(request_bytes)
    async with grpc.aio.insecure_channel(target) as channel:
        method: Any = channel.unary_unary(PATH)
        yield lambda: _calls(method, request, in_flight, calls)
    process.stdin.close()
    await process.wait()


async def _calls(method: Any, request: bytes, in_flight: int, calls: int) -> Done:
    latencies: list[float] = []

    async def call_some() -> None:
        while len(latencies) < calls:
            began = time.perf_counter()
            await method(request)
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(call_some() for _ in range(in_flight)))
    return Done(len(latencies), latencies)


@asynccontextmanager
async def decreases(
    redis_url: str, batch: int, operations: int, keys: int = KEYS
) -> AsyncIterator[Work]:
    """Rounds of at least so many DECRBY, in batches by one script call each, all over the keys."""

    def asked(first: int) -> tuple[list[str], list[int]]:
        return [_counter(n * STRIDE % keys) for n in range(first, first + batch)], [1]

    await _make_counters(redis_url, keys)
    async with _scripted(redis_url, "decrease.lua", batch, operations, asked) as work:
        yield work


def _counter(number: int) -> str:
    return f"bench:{number}"


async def _make_counters(redis_url: str, keys: int) -> None:
    store = redis.Redis.from_url(redis_url)
    for first in range(0, keys, KEYS):
        numbers = range(first, min(first + KEYS, keys))
        await store.mset({_counter(number): 0 for number in numbers})
    await store.aclose()


@asynccontextmanager
async def commands(redis_url: str, batch: int, operations: int) -> AsyncIterator[Work]:
    """Rounds of the commands of at least so many Reserves, in batches by one script call each."""
    calls = itertools.count(1)

    def asked(first: int) -> tuple[list[str], list[int]]:
        names: list[str] = []
        for number in range(first, first + batch):
            partition = f"bench:{number % PARTITIONS}"
            names += (f"{partition}:state", f"bench:t:{number % KEYS}", f"{partition}:out")
        return names, [next(calls), *WRITTEN_BYTES]

    async with _scripted(redis_url, "commands.lua", batch, operations, asked) as work:
        yield work


@asynccontextmanager
async def _scripted(
    redis_url: str,
    name: str,
    batch: int,
    operations: int,
    asked: Callable[[int], tuple[list[str], list[int]]],
) -> AsyncIterator[Work]:
    """Rounds of calls of one script, each for so many operations from a number on. A round goes on
    where the one before ended, so that it finds nothing in a cache that a Reserve would not.
    """
    store = redis.Redis.from_url(redis_url)
    text = resources.files("holdfast_server.bench").joinpath(name).read_text()
    script = await store.script_load(text)
    firsts = itertools.count(0, batch)

    async def work() -> Done:
        used, latencies = await store_seconds(store), list[float]()
        for _ in range(0, operations, batch):
            keys, arguments = asked(next(firsts))
            began = time.perf_counter()
            call: Awaitable[Any] = store.evalsha(script, len(keys), *keys, *map(str, arguments))
            await call
            latencies.append(time.perf_counter() - began)
        return Done(len(latencies) * batch, latencies, await store_seconds(store) - used)

    yield work
    await store.aclose()


async def store_seconds(store: redis.Redis) -> float:
    """CPU seconds that the store has used."""
    facts = await store.info("cpu")
    return float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])
