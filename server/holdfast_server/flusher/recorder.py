"""Brings work to the ledger, says how far it is, and halts what cannot go on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from holdfast_server import failpoint
from holdfast_server.domain.entry import BY_TIME
from holdfast_server.domain.packed import PackedEntry
from holdfast_server.engine.outbox import Outbox, OutboxEntry, Positions
from holdfast_server.engine.store import WRITES_REFUSED
from holdfast_server.errors import HoldfastError
from holdfast_server.flusher.batch import halves
from holdfast_server.flusher.events import FlushedBatch, FlusherHooks, Halt
from holdfast_server.flusher.obstacle import Obstacle
from holdfast_server.flusher.progress import Progress
from holdfast_server.flusher.reader import Work
from holdfast_server.flusher.retention import Retention
from holdfast_server.ledger.append import Appender, CursorsMoved, QuarantinedEntry
from holdfast_server.ledger.prepare import EntriesRefused, PartitionCursor, prepare
from holdfast_server.telemetry.names import Attribute
from holdfast_server.telemetry.tracing import TraceContext

_log = logging.getLogger(__name__)


class Recorder:
    """Writes. One call at a time: it has the appender's one connection to itself."""

    def __init__(
        self,
        appender: Appender,
        outbox: Outbox,
        progress: Progress,
        retention: Retention,
        hooks: FlusherHooks,
    ) -> None:
        self._appender = appender
        self._outbox = outbox
        self._progress = progress
        self._retention = retention
        self._hooks = hooks
        #: What the ledger has, and the hot store could not be told.
        self._unsaid: dict[int, tuple[int, int]] = {}
        #: The hot store is being told of one batch.
        self._saying: asyncio.Task[None] | None = None

    def load(self, cursors: Mapping[int, PartitionCursor]) -> None:
        """Starts from what the ledger says, which may be less than was recorded: a standby took
        over that lacks the last commits. They are sent again, and before that they are neither
        trimmed nor said to be recorded.
        """
        self._progress.load(cursors)
        self._unsaid = {}
        self._retention.bring_down(self._progress.positions(cursors))

    async def record(self, work: Work) -> bool:
        """Records what can be. False where that was not all: nothing may follow.

        The hot store is told afterwards, while the next batch may be recorded already. That one is
        told of when this has been: errors of telling are raised then, or by `said`.
        """
        before = dict(self._progress.recorded)
        started = time.monotonic()
        with self._hooks.span(_traces(work)) as span:
            span.set(Attribute.ROWS, work.size)
            complete = await self._append(work)
        await self._check_epochs(work.obstacles)
        for obstacle in work.obstacles:
            await self.halt(obstacle)
        moved = [
            cursor
            for partition, cursor in self._progress.recorded.items()
            if cursor is not before[partition]
        ]
        await self.said()
        self._saying = asyncio.create_task(self._say(work, before, moved, started))
        return complete

    async def said(self) -> None:
        """Waits until the hot store has been told of every batch. Raises what that raised."""
        saying, self._saying = self._saying, None
        if saying is not None:
            await saying

    async def finish(self) -> None:
        """Lets the hot store be told of the last batch, or not."""
        saying, self._saying = self._saying, None
        await ended(saying, "the hot store was not told of the last batch: %s")

    async def _say(
        self,
        work: Work,
        before: Mapping[int, PartitionCursor],
        moved: Sequence[PartitionCursor],
        started: float,
    ) -> None:
        failpoint.hit("flusher.before_publish")
        await self.publish({cursor.partition: (cursor.epoch, cursor.seq) for cursor in moved})
        self._report(work, before, moved, time.monotonic() - started)

    async def _check_epochs(self, obstacles: Sequence[Obstacle]) -> None:
        """An entry of a later epoch is no obstacle where that one has begun meanwhile."""
        recorded = self._progress.recorded
        if all(each.raw.epoch <= recorded[each.raw.partition].epoch for each in obstacles):
            return
        cursors = await self._appender.cursors()
        if any(cursor.epoch != recorded[each].epoch for each, cursor in cursors.items()):
            raise CursorsMoved("an epoch has begun")

    async def halt(self, obstacle: Obstacle) -> None:
        """Stops a partition at an obstacle: evidence is kept, and somebody hears of it."""
        raw = obstacle.raw
        if raw.partition in self._progress.halted:
            return
        halt = Halt(raw.partition, raw.epoch, raw.seq, obstacle.fault, obstacle.explanation)
        self._progress.halted[raw.partition] = halt
        _log.error("partition %d halts at %d: %s", raw.partition, raw.seq, obstacle.explanation)
        self._hooks.on_halted(halt)
        await self._appender.quarantine(
            QuarantinedEntry(
                partition=raw.partition,
                epoch=raw.epoch,
                seq=raw.seq,
                raw=raw.raw,
                fault=obstacle.fault.value,
                explanation=obstacle.explanation,
            )
        )

    async def publish(self, positions: Positions) -> None:
        """Says how far the ledger is, only ever after it is.

        A store that takes no writes is told later: what can still be read there must reach the
        ledger all the sooner.
        """
        self._unsaid.update(positions)
        try:
            await self._outbox.publish_flushed(self._unsaid)
        except HoldfastError as error:
            if error.reason not in WRITES_REFUSED:
                raise
            _log.warning("the hot store is not told how far the ledger is: %s", error)
            return
        failpoint.hit("flusher.after_publish")
        said, self._unsaid = self._unsaid, {}
        self._retention.flushed(said)
        for partition, (epoch, seq) in said.items():
            self._hooks.on_flushed(partition, epoch, seq)

    async def trim(self) -> None:
        """Says what could not be said, and trims what nobody needs any more."""
        await self.said()
        if self._unsaid:
            await self.publish({})
        due = self._retention.due(time.monotonic() * 1000)
        try:
            await self._outbox.trim(due)
        except HoldfastError as error:
            if error.reason not in WRITES_REFUSED:
                raise
            self._retention.put_back(due)
        failpoint.hit("flusher.after_trim")

    async def _append(self, work: Work) -> bool:
        if work.is_prepared:
            prepared = list(work.prepared.values())
            try:
                await self._appender.append(prepared)
            except EntriesRefused as refusal:
                _log.warning("a batch was refused, looking for the entry at fault: %s", refusal)
            else:
                self._progress.record(prepared)
                return not work.obstacles
        await self._append_by_halves(list(work.entries.values()))
        return False

    async def _append_by_halves(self, partitions: Sequence[Sequence[PackedEntry]]) -> None:
        """Appends what it can: parts that are refused are halved, down to the entry at fault."""
        wanted = [each for each in partitions if each[0].partition not in self._progress.halted]
        if not wanted:
            return
        try:
            recorded = self._progress.recorded
            prepared = [prepare(recorded[each[0].partition], each) for each in wanted]
            await self._appender.append(prepared)
        except EntriesRefused as refusal:
            if sum(map(len, wanted)) == 1:
                await self.halt(_obstacle(wanted[0][0], refusal))
                return
            for half in halves(wanted):
                await self._append_by_halves(half)
        else:
            self._progress.record(prepared)

    def _report(
        self,
        work: Work,
        before: Mapping[int, PartitionCursor],
        moved: Sequence[PartitionCursor],
        seconds: float,
    ) -> None:
        if moved:
            entries = sum(cursor.seq - before[cursor.partition].seq for cursor in moved)
            lag_ms = _age_ms(work, time.time_ns() // 1_000_000)
            self._hooks.on_batch(FlushedBatch(entries, len(moved), lag_ms, seconds))


async def ended(task: asyncio.Task[Any] | None, failed: str) -> None:
    """Waits for a task, if there is one; what it raised is only logged."""
    if task is not None:
        await asyncio.wait([task])
        if error := task.exception():
            _log.warning(failed, error)


def _age_ms(work: Work, now_ms: int) -> int:
    """How long the oldest entry waited. What ended by itself may have been noticed much later."""
    firsts = (found[0] for found in work.entries.values())
    times = (first.event_ms for first in firsts if first.kind not in BY_TIME)
    return max(0, now_ms - min(times, default=now_ms))


def _traces(work: Work) -> Iterator[TraceContext]:
    """Where the requests behind the entries stand in their traces."""
    for entries in work.entries.values():
        for packed in entries:
            yield TraceContext(*packed.trace)


def _obstacle(packed: PackedEntry, refusal: EntriesRefused) -> Obstacle:
    found = OutboxEntry(packed.partition, packed.epoch, packed.seq, packed.raw)
    return Obstacle(found, refusal.fault, refusal.explanation)
