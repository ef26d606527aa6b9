"""`lease`: decisions in this process, beside operations that share one stream."""

from __future__ import annotations

import asyncio
from typing import Final

from holdfast import AsyncLease
from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.report import Found
from holdfast_server.bench.rounds import Done, alternate, middle
from holdfast_server.bench.stage import Options, Stage, traffic_of

#: What the lease holds at a time: as much as is spent in about a second.
HELD: Final = 1_000_000
#: Spends between two turns of the event loop, in which captures and top-ups travel.
SPENDS_PER_TURN: Final = 500
#: A spend is so much quicker than an operation that more make a round as long.
SPENDS_PER_OPERATION: Final = 100


async def lease(stage: Stage, options: Options) -> Found:
    """One lease, topped up and captured as it is spent, beside callers that share one stream."""
    meter = Meter(stage.processes)
    async with (
        traffic_of(stage, options, "session") as traffic,
        traffic.client.lease(traffic.accounts[0], HELD) as taken,
    ):
        measured, floor = await alternate(
            meter,
            lambda: _spend(taken, options.operations * SPENDS_PER_OPERATION),
            lambda: traffic.pairs(options.in_flight, options.operations),
            options.rounds,
            stage.on_round,
        )
    typical, below = middle(measured), middle(floor)
    facts = {"in_flight": options.in_flight, "captured": taken.captured}
    return Found(
        "lease", "decisions/s", typical.rate, below.rate, typical.cpu_us, below.cpu_us, facts
    )


async def _spend(taken: AsyncLease, total: int) -> Done:
    """Only what was allowed counts."""
    allowed = 0
    while allowed < total:
        allowed += sum([taken.spend() for _ in range(SPENDS_PER_TURN)])
        await asyncio.sleep(0)
    return Done(allowed)
