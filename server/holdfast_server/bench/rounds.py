"""Rounds of what is measured and of its floor, in turn: both see the same weather."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast_server.bench.cpu import Meter

#: One round: does its work and answers how many operations that was, and how long each took.
Work = Callable[[], Awaitable["Done"]]


@dataclass(frozen=True, slots=True)
class Done:
    """What a round did."""

    operations: int
    #: Seconds that single operations took, where that was looked at.
    latencies: Sequence[float] = ()
    #: CPU seconds of the store alone, where it told.
    store_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Round:
    """What a round did, how long it took, and the CPU seconds of each process."""

    done: Done
    seconds: float
    cpu: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.done.operations / self.seconds

    @property
    def cpu_us(self) -> dict[str, float]:
        """CPU microseconds per operation by process."""
        return {
            name: round(seconds * 1e6 / self.done.operations, 1)
            for name, seconds in sorted(self.cpu.items())
        }

    def percentile_ms(self, percent: int) -> float:
        """Of the latencies; 0 where none were looked at."""
        ordered = sorted(self.done.latencies)
        if not ordered:
            return 0.0
        return round(ordered[(len(ordered) - 1) * percent // 100] * 1e3, 3)


async def alternate(
    meter: Meter, measure: Work, floor: Work, rounds: int, on_round: Callable[[], None]
) -> tuple[list[Round], list[Round]]:
    """Runs both so many times in turn, after one round of each that does not count."""
    for work in (measure, floor):
        await work()
        on_round()
    measured, floors = [], []
    for _ in range(rounds):
        measured.append(await timed(meter, measure))
        on_round()
        floors.append(await timed(meter, floor))
        on_round()
    return measured, floors


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def middle(rounds: Sequence[Round]) -> Round:
    """The round of the middle rate."""
    return sorted(rounds, key=lambda each: each.rate)[len(rounds) // 2]


async def timed(meter: Meter, work: Work) -> Round:
    """One round, and what every process used meanwhile."""
    before, began = meter.read(), time.perf_counter()
    done = await work()
    seconds, after = time.perf_counter() - began, meter.read()
    used = {name: total - before.get(name, 0.0) for name, total in after.items()}
    return Round(done, seconds, used)
