"""What the flusher tells others about its work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from holdfast_server.ledger.prepare import Fault
from holdfast_server.telemetry.tracing import Span, TraceContext


@dataclass(frozen=True, slots=True)
class FlushedBatch:
    """What was recorded at once. `lag_ms` is the age of the oldest entry, by this host's clock."""

    entries: int
    partitions: int
    lag_ms: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Halt:
    """A partition that cannot go on: an alarm that a person has to look at."""

    partition: int
    epoch: int
    seq: int
    fault: Fault
    explanation: str


class Recovery(Protocol):
    """Brings partitions back whose hot store has another history than the one that was armed."""

    async def is_well(self) -> bool:
        """Whether every partition decides: a cheap look. Raises STORE_UNAVAILABLE."""
        ...

    async def recover(self) -> object:
        """Recovers what is not well. Raises STORE_UNAVAILABLE and LEDGER_UNAVAILABLE."""
        ...


@dataclass(frozen=True, slots=True)
class FlusherHooks:
    """Who hears what. None of these may block or fail, except `recovery`."""

    #: Partition, epoch and sequence number up to which the ledger is complete.
    on_flushed: Callable[[int, int, int], None] = lambda partition, epoch, seq: None
    on_batch: Callable[[FlushedBatch], None] = lambda batch: None
    on_halted: Callable[[Halt], None] = lambda halt: None
    #: Another flusher leads: nothing is known here any more.
    on_standby: Callable[[], None] = lambda: None
    #: Goes around one ledger transaction, with the traces of the requests behind its entries.
    span: Callable[[Iterable[TraceContext]], AbstractContextManager[Span]] = lambda traces: (
        nullcontext(Span())
    )
    #: Asked before anything is flushed, and while it goes on.
    recovery: Recovery | None = None
