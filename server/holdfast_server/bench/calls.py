"""How calls travel: `session`, `unary` and `batch`, each beside a bare counterpart."""

from __future__ import annotations

from typing import Final, Literal

from holdfast_server.bench import floors
from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.report import Found
from holdfast_server.bench.rounds import Round, alternate, median, middle
from holdfast_server.bench.stage import Options, Stage, traffic_of

#: Bytes on the wire: means of a Reserve (76) and a Commit (122), and of their answers (129, 103).
REQUEST_BYTES: Final = 99
ANSWER_BYTES: Final = 116
#: A bare call is so much slower than an operation in a stream that fewer make a round as long.
CALLS_PER_OPERATION: Final = 0.25
#: Calls of a bare script, one after the other.
STORE_CALLS: Final = 500


async def session(stage: Stage, options: Options) -> Found:
    """Callers that share one stream, beside as many that call a bare server."""
    measured, floor = await _beside_echo("session", stage, options)
    if options.in_flight == 1:
        return _latency("session", measured, floor, await _store_ms(stage))
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
        traffic_of(stage, options, "unary") as traffic,
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


async def _beside_echo(
    transport: Literal["session", "unary"], stage: Stage, options: Options
) -> tuple[list[Round], list[Round]]:
    meter = Meter(stage.processes)
    calls = max(1, int(options.operations * CALLS_PER_OPERATION))
    async with (
        traffic_of(stage, options, transport) as traffic,
        floors.echo(meter, REQUEST_BYTES, ANSWER_BYTES, options.in_flight, calls) as bare,
    ):
        return await alternate(
            meter,
            lambda: traffic.pairs(options.in_flight, options.operations),
            bare,
            options.rounds,
            stage.on_round,
        )


async def _store_ms(stage: Stage) -> float:
    """How long a bare script takes that nobody else waits for: no decision takes less than a bare
    call and this together.
    """
    meter = Meter({})
    async with floors.decreases(stage.redis_url, 1, STORE_CALLS) as bare:
        rounds, _ = await alternate(meter, bare, bare, 1, lambda: None)
    return rounds[0].percentile_ms(50)


def _latency(name: str, measured: list[Round], floor: list[Round], store_ms: float) -> Found:
    """One caller alone: how long it waits counts, not how often."""
    mine = median([each.percentile_ms(50) for each in measured])
    bare = median([each.percentile_ms(50) for each in floor])
    typical, below = middle(measured), middle(floor)
    facts = _percentiles(typical) | {"in_flight": 1, "store_p50_ms": store_ms}
    return Found(name, "ms, p50 of one call", mine, bare, typical.cpu_us, below.cpu_us, facts)


def _percentiles(found: Round) -> dict[str, float]:
    return {"p50_ms": found.percentile_ms(50), "p99_ms": found.percentile_ms(99)}
