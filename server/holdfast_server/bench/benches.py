"""The benchmarks: each measures something beside a floor, in turn, and says what it found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

import redis.asyncio as redis

from holdfast import AsyncClient
from holdfast_server.bench import floors
from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.report import Found
from holdfast_server.bench.rounds import Done, Round, Work, alternate, median, middle
from holdfast_server.bench.traffic import Traffic, prepare

#: Bytes on the wire: means of a Reserve (76) and a Commit (122), and of their answers (129, 103).
REQUEST_BYTES: Final = 99
ANSWER_BYTES: Final = 116
#: A bare call is so much slower than an operation in a stream that fewer make a round as long.
CALLS_PER_OPERATION: Final = 0.25


@dataclass(frozen=True, slots=True)
class Options:
    """How much is done."""

    accounts: int
    operations: int
    rounds: int
    in_flight: int
    batch: int
    hot_percent: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A service that runs for this alone, and how to see what it uses."""

    target: str
    redis_url: str
    processes: Mapping[str, int]
    on_round: Callable[[], None]


Bench = Callable[[Stage, Options], Awaitable[Found]]


async def session(stage: Stage, options: Options) -> Found:
    """Callers that share one stream, beside as many that call a bare server."""
    measured, floor = await _beside_echo("session", stage, options)
    if options.in_flight == 1:
        return _latency("session", measured, floor)
    typical, below = middle(measured), middle(floor)
    facts = _percentiles(typical) | {
        "in_flight": options.in_flight,
        "hot_percent": options.hot_percent,
    }
    return Found(
        "session", "operations/s", typical.rate, below.rate, typical.cpu_us, below.cpu_us, facts
    )


async def unary(stage: Stage, options: Options) -> Found:
    """What a call of its own costs the server, beside a bare call."""
    measured, floor = await _beside_echo("unary", stage, options)
    cost = median([each.cpu_us.get("server", 0.0) for each in measured])
    bare = median([each.cpu_us.get("echo", 0.0) for each in floor])
    typical, below = middle(measured), middle(floor)
    facts = _percentiles(typical) | {"operations_per_s": round(typical.rate)}
    return Found("unary", "server CPU us per call", cost, bare, typical.cpu_us, below.cpu_us, facts)


async def batch(stage: Stage, options: Options) -> Found:
    """Batches through the whole service, beside a bare script with as many keys."""
    meter = Meter(stage.processes)
    async with (
        _traffic(stage, options, "unary") as traffic,
        floors.decreases(stage.redis_url, options.batch, options.operations) as bare,
    ):
        measured, floor = await alternate(
            meter,
            lambda: traffic.batches(options.batch, options.operations),
            bare,
            options.rounds,
            stage.on_round,
        )
    typical, below = middle(measured), middle(floor)
    facts = {"batch": options.batch}
    return Found(
        "batch", "operations/s", typical.rate, below.rate, typical.cpu_us, below.cpu_us, facts
    )


async def engine(stage: Stage, options: Options) -> Found:
    """What one Reserve costs the store, in batches, beside a bare script with as many keys.

    The service MUST have no flusher, which would use the store as well.
    """
    meter = Meter(stage.processes)
    store = redis.Redis.from_url(stage.redis_url)
    async with (
        _traffic(stage, options, "unary") as traffic,
        floors.decreases(stage.redis_url, options.batch, options.operations) as bare,
    ):
        reserving = _reserves(traffic, store, options)
        measured, floor = await alternate(meter, reserving, bare, options.rounds, stage.on_round)
    await store.aclose()
    cost, least = _store_us(measured), _store_us(floor)
    typical, below = middle(measured), middle(floor)
    about = "a Reserve and its Commit together"
    facts = {"batch": options.batch, "accounts": options.accounts, "cpu_us_of": about}
    return Found(
        "engine", "store CPU us per Reserve", cost, least, typical.cpu_us, below.cpu_us, facts
    )


BENCHES: Final[Mapping[str, Bench]] = {
    "session": session,
    "unary": unary,
    "batch": batch,
    "engine": engine,
}


@asynccontextmanager
async def _traffic(
    stage: Stage, options: Options, transport: Literal["session", "unary"]
) -> AsyncIterator[Traffic]:
    async with AsyncClient(stage.target, transport=transport, timeout_ms=60_000) as client:
        accounts = await prepare(client, options.accounts)
        yield Traffic(client, accounts, options.hot_percent)


async def _beside_echo(
    transport: Literal["session", "unary"], stage: Stage, options: Options
) -> tuple[list[Round], list[Round]]:
    meter = Meter(stage.processes)
    calls = max(1, int(options.operations * CALLS_PER_OPERATION))
    async with (
        _traffic(stage, options, transport) as traffic,
        floors.echo(meter, REQUEST_BYTES, ANSWER_BYTES, options.in_flight, calls) as bare,
    ):
        return await alternate(
            meter,
            lambda: traffic.pairs(options.in_flight, options.operations),
            bare,
            options.rounds,
            stage.on_round,
        )


def _reserves(traffic: Traffic, store: redis.Redis, options: Options) -> Work:
    """Rounds of Reserves; what they hold is committed again, which is not counted."""

    async def work() -> Done:
        used, starts = 0.0, range(0, options.operations, options.batch)
        for _ in starts:
            before = await floors.store_seconds(store)
            holds = await traffic.reserve_batch(options.batch)
            used += await floors.store_seconds(store) - before
            await traffic.settle_batch(holds)
        return Done(len(starts) * options.batch, (), used)

    return work


def _store_us(rounds: list[Round]) -> float:
    return median([each.done.store_seconds * 1e6 / each.done.operations for each in rounds])


def _latency(name: str, measured: list[Round], floor: list[Round]) -> Found:
    """One caller alone: how long it waits counts, not how often."""
    mine = median([each.percentile_ms(50) for each in measured])
    bare = median([each.percentile_ms(50) for each in floor])
    typical, below = middle(measured), middle(floor)
    facts = _percentiles(typical) | {"in_flight": 1}
    return Found(name, "ms, p50 of one call", mine, bare, typical.cpu_us, below.cpu_us, facts)


def _percentiles(found: Round) -> dict[str, float]:
    return {"p50_ms": found.percentile_ms(50), "p99_ms": found.percentile_ms(99)}
