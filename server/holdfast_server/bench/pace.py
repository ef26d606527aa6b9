"""Whether a flusher keeps pace with callers on one machine: how long entries wait for it, and how
fast it catches up after a pause.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast_server.background import background
from holdfast_server.bench.cpu import Meter
from holdfast_server.bench.rounds import Done, Round, timed
from holdfast_server.bench.stage import Options, Stage
from holdfast_server.bench.traffic import Traffic

#: Seconds that a flusher may take to begin, and to record the last entry after the traffic.
SETTLE_SECONDS: Final = 60.0
#: The part of the callers' maximum at which the lag counts.
HALF: Final = 0.5


@dataclass(slots=True)
class Flushing:
    """What a flusher in a process of its own has said so far."""

    pid: int
    entries: int = 0
    #: The ages of the oldest entries of its batches, in milliseconds.
    lags_ms: list[int] = field(default_factory=list)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, said: asyncio.StreamReader) -> None:
        """Hears what it says until it ends."""
        async for line in said:
            entries, lag_ms = line.split()
            self.entries += int(entries)
            self.lags_ms.append(int(lag_ms))
            self._moved.set()

    async def leads(self) -> None:
        """Waits until it works. Raises TimeoutError."""
        async with asyncio.timeout(SETTLE_SECONDS):
            await self._moved.wait()

    async def reached(self, entries: int) -> None:
        """Waits until so many are recorded. Raises TimeoutError."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while self.entries < entries:
                self._moved.clear()
                await self._moved.wait()


async def keeps_pace(stage: Stage, options: Options, traffic: Traffic) -> dict[str, Any]:
    """Facts about a flusher beside callers: at the most that they can do, and at half of it."""
    meter = Meter(stage.processes)
    async with _flushing(stage, meter) as flushing:
        at_most = await _run(meter, flushing, traffic.pairs(options.in_flight, options.operations))
        stage.on_round()
        pace = at_most.round.rate * HALF
        at_half = await _run(meter, flushing, traffic.paced(pace, options.operations))
        stage.on_round()
        behind = await _pause(meter, flushing, traffic.pairs(options.in_flight, options.operations))
        stage.on_round()
    return {
        "operations_per_s": round(at_most.round.rate),
        "recorded_meanwhile_percent": round(at_most.recorded_percent, 1),
        "lag_ms": at_most.lag_ms,
        "flusher_cpu_us": at_most.round.cpu_us.get("flusher", 0.0),
        "half_operations_per_s": round(at_half.round.rate),
        "half_lag_ms": at_half.lag_ms,
        "paused_operations_per_s": round(behind.written.rate),
        "catch_up_rows_per_s": round(behind.rate),
        "catch_up_ratio": round(behind.rate / behind.written.rate, 2),
    }


@dataclass(frozen=True, slots=True)
class _Behind:
    #: What callers did while the flusher was stopped.
    written: Round
    #: Rows a second afterwards, until none was missing.
    rate: float


async def _pause(meter: Meter, flushing: Flushing, work: Awaitable[Done]) -> _Behind:
    """Stops the flusher while callers write, and lets it go on when they are done."""
    before = flushing.entries

    async def wait() -> Done:
        return await work

    os.kill(flushing.pid, signal.SIGSTOP)
    try:
        written = await timed(meter, wait)
    finally:
        os.kill(flushing.pid, signal.SIGCONT)
    began = time.perf_counter()
    await flushing.reached(before + written.done.operations)
    return _Behind(written, written.done.operations / (time.perf_counter() - began))


@dataclass(frozen=True, slots=True)
class _Pace:
    round: Round
    #: How much of what was decided was in the ledger when the callers ended.
    recorded_percent: float
    #: The longest that an entry waited.
    lag_ms: int


async def _run(meter: Meter, flushing: Flushing, work: Awaitable[Done]) -> _Pace:
    before, flushing.lags_ms = flushing.entries, []

    async def wait() -> Done:
        return await work

    round_ = await timed(meter, wait)
    meanwhile = flushing.entries - before
    await flushing.reached(before + round_.done.operations)
    percent = 100 * meanwhile / round_.done.operations
    return _Pace(round_, percent, max(flushing.lags_ms))


@asynccontextmanager
async def _flushing(stage: Stage, meter: Meter) -> AsyncIterator[Flushing]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast_server.bench.flushing"),
        *(stage.redis_url, stage.postgres_url, str(stage.partitions)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    meter.name(process.pid, "flusher")
    flushing = Flushing(process.pid)
    async with background(flushing.listen(process.stdout)):
        await flushing.leads()
        yield flushing
        process.stdin.close()
        await process.wait()
