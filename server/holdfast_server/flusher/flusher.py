"""The flusher's loop: read the outbox, append to the ledger, publish how far it is, trim.

Each entry reaches the ledger exactly once, since the place from which to continue is committed with
the entries. Nothing is ever skipped: a partition whose next entry cannot be recorded halts there,
with the entry's bytes in quarantine and an alarm, while the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from holdfast_server import failpoint
from holdfast_server.engine.outbox import Outbox
from holdfast_server.errors import HoldfastError
from holdfast_server.flusher import history
from holdfast_server.flusher.events import FlusherHooks, Halt
from holdfast_server.flusher.progress import Progress
from holdfast_server.flusher.reader import Work, read_ahead
from holdfast_server.flusher.recorder import Recorder, ended
from holdfast_server.flusher.retention import Retention
from holdfast_server.ledger.append import Appender, CursorsMoved

#: Entries in one transaction, which are read in parts. More save nothing and make others wait.
BATCH_ENTRIES_MAX: Final = 4_000
#: Milliseconds that one read waits for entries; also how soon `stop` is heeded at the latest.
READ_WAIT_MS: Final = 250
#: How long the flusher rests after a round, in multiples of the time for which it kept a processor
#: busy, and in seconds at least and at most. Under load many entries come together in one
#: transaction, at a fraction of the price: a round costs a few milliseconds whatever it brings.
#: After a pause none waits. A full round is followed by no rest: the flusher is behind.
REST_RATIO: Final = 10.0
REST_SECONDS_MIN: Final = 0.03
REST_SECONDS_MAX: Final = 0.25
#: Seconds between two looks whether the place of a flusher has become free.
STANDBY_SECONDS: Final = 1.0
#: Seconds before the first retry, and at most, while a store is away.
RETRY_SECONDS_MIN: Final = 0.05
RETRY_SECONDS_MAX: Final = 5.0
#: Seconds for which the flusher reads on, at most, when it shall stop: fewer than the supervisor's
#: `STOP_MARGIN_SECONDS`, after which it is killed where no grace is set.
STOP_SECONDS_MAX: Final = 3.0
#: Seconds between two rounds of housekeeping, which trims the outbox.
HOUSEKEEPING_SECONDS: Final = 1.0
#: Seconds between two looks at whether partitions still decide.
FENCES_SECONDS: Final = 0.5
#: Seconds between two signs of life to Postgres, which ends sessions that are silent for long.
LEAD_SECONDS: Final = 5.0
#: Seconds between two looks at whether the hot store still has the history that was flushed.
HISTORY_SECONDS: Final = 10.0
#: Seconds after which halted partitions are tried again: what was wrong may have been repaired.
HALTED_SECONDS: Final = 30.0
#: Seconds between two calls that make the ledger's tables ahead of time.
TABLES_SECONDS: Final = 3_600.0

#: A source of its own: nobody's seed makes processes march in step.
_CHANCE = random.Random()

_log = logging.getLogger(__name__)


class Flusher:
    """Flushes every partition. Any number may run: one works, the others stand by."""

    def __init__(
        self,
        outbox: Outbox,
        appender: Appender,
        *,
        hooks: FlusherHooks | None = None,
        batch_entries_max: int = BATCH_ENTRIES_MAX,
        retention: Retention | None = None,
    ) -> None:
        """`retention` says how long flushed entries stay in the outbox; without it, they do not.

        Let it be at least what a fail-over of Postgres may lose: they are sent again then.
        """
        self._outbox = outbox
        self._appender = appender
        self._batch_entries_max = batch_entries_max
        self._progress = Progress()
        hooks = hooks or FlusherHooks()
        self._recovery, self._on_standby = hooks.recovery, hooks.on_standby
        retention = retention or Retention(0, 0)
        self._recorder = Recorder(appender, outbox, self._progress, retention, hooks)
        self._stopping = asyncio.Event()
        self._writing: asyncio.Task[bool] | None = None
        self._due: dict[str, float] = {}

    @property
    def halted(self) -> Mapping[int, Halt]:
        """The partitions that cannot go on, and why."""
        return dict(self._progress.halted)

    def stop(self) -> None:
        """Asks `run` to return once what the outbox has is recorded and published.

        It does not wait for stores that are away; what there is no time for stays in the outbox.
        """
        self._stopping.set()

    async def run(self) -> None:
        """Flushes until `stop`. Stores that are away are waited for, without end."""
        failures = 0
        while not self._stopping.is_set():
            try:
                if not await self._appender.lead():
                    self._on_standby()
                    await self._pause(STANDBY_SECONDS)
                    continue
                await self._begin()
                failures = 0
                await self._flush()
            except CursorsMoved as moved:
                _log.warning("reading the cursors again: %s", moved)
            except HoldfastError as error:
                _log.warning("flushing waits: %s", error)
                await self._pause(_retry_seconds(failures))
                failures += 1
        await self._appender.close()

    async def _begin(self) -> None:
        """Starts from what the ledger says, as after every error: nothing is known by heart."""
        if self._recovery:
            await self._recovery.recover()
        cursors = await self._appender.cursors()
        self._outbox.begin_epochs({each: cursor.lies_in for each, cursor in cursors.items()})
        self._recorder.load(cursors)
        self._due.clear()
        await self._housekeep()
        await self._recorder.publish(self._progress.positions(self._progress.recorded))

    async def _flush(self) -> None:
        """Reads and prepares one batch while the one before is written, and the hot store is told
        of the one before that.
        """
        try:
            while not self._stopping.is_set():
                await self._housekeep()
                began = time.process_time()
                work = await self._read(READ_WAIT_MS)
                if await self._written() and work:
                    self._writing = asyncio.create_task(self._recorder.record(work))
                if work.size < self._batch_entries_max:
                    await self._pause(rest_seconds(time.process_time() - began))
            await self._drain()
        finally:
            await self._finish()

    async def _drain(self) -> None:
        """Reads until nothing is left: whoever is answered before the stop has an entry by then."""
        ends = time.monotonic() + STOP_SECONDS_MAX
        while time.monotonic() < ends:
            # Nothing is read ahead: that the batch before failed must not look like the end.
            await self._written()
            work = await self._read(0)
            if not work:
                return
            self._writing = asyncio.create_task(self._recorder.record(work))

    async def _read(self, wait_ms: int) -> Work:
        if not self._progress.positions(self._progress.ahead):
            await self._pause(HOUSEKEEPING_SECONDS)
        count = self._batch_entries_max
        work = await read_ahead(self._outbox, self._progress, count, wait_ms)
        if work:
            failpoint.hit("flusher.after_read")
        return work

    async def _written(self) -> bool:
        """Waits for the batch being written. False where what was read behind it is void."""
        writing, self._writing = self._writing, None
        if writing is None or await writing:
            return True
        self._progress.retreat()
        return False

    async def _finish(self) -> None:
        """Lets the batch being written end, whatever else has failed meanwhile."""
        writing, self._writing = self._writing, None
        await ended(writing, "the last batch was not recorded: %s")
        await self._recorder.finish()

    async def _housekeep(self) -> None:
        if not self._is_due("housekeeping", HOUSEKEEPING_SECONDS):
            return
        if not await self._written():
            return
        if self._is_due("fences", FENCES_SECONDS):
            await self._check_epochs()
        if self._is_due("lead", LEAD_SECONDS):
            await self._appender.lead()
        if self._is_due("tables", TABLES_SECONDS):
            await self._appender.ensure_partitions()
        if self._is_due("halted", HALTED_SECONDS) and self._progress.halted:
            self._progress.halted.clear()
            self._due.pop("history", None)
        if self._is_due("history", HISTORY_SECONDS):
            await self._check_history()
        await self._recorder.trim()

    async def _check_epochs(self) -> None:
        """Begins anew where partitions are fenced, or are in another epoch than was known."""
        if self._recovery and not await self._recovery.is_well():
            raise CursorsMoved("partitions are fenced")
        cursors = self._progress.recorded.values()
        if any(self._outbox.epoch(each.partition) > each.epoch for each in cursors):
            raise CursorsMoved("an epoch has begun")

    async def _check_history(self) -> None:
        progress = self._progress
        states = await self._outbox.states(progress.positions(progress.recorded))
        for partition, state in states.items():
            if obstacle := history.obstacle(progress.recorded[partition], state):
                await self._recorder.halt(obstacle)

    def _is_due(self, task: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(task, 0.0):
            return False
        self._due[task] = now + seconds
        return True

    async def _pause(self, seconds: float) -> None:
        """Waits, but not when the flusher shall stop."""
        if seconds <= 0:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def rest_seconds(worked_seconds: float) -> float:
    """How long to rest after a round that was not full."""
    return min(REST_SECONDS_MAX, max(REST_SECONDS_MIN, REST_RATIO * worked_seconds))


def _retry_seconds(failures: int) -> float:
    """Doubles up to a maximum, half of it by chance: many flushers do not come back at once."""
    longest = min(RETRY_SECONDS_MAX, RETRY_SECONDS_MIN * (1 << min(failures, 16)))
    return longest * _CHANCE.uniform(0.5, 1.0)
