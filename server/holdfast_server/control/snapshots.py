"""Keeps snapshots of trees that were read, in the background: nobody waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

from holdfast_server.domain.rebuild import SNAPSHOT_LAYOUT, Rebuilt, Snapshot, take
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.histories import Refused, TreeRead
from holdfast_server.ledger.snapshots import Kept
from holdfast_server.telemetry.names import Snapshotted
from holdfast_server.telemetry.recorder import Recorder

#: Entries that are worth a snapshot: fewer are read as fast as one.
SNAPSHOT_TAIL: Final = 500
#: Bytes of a state that is kept.
SNAPSHOT_BYTES_MAX: Final = 64 << 20
#: Trees that wait to be kept, in memory. More are not: whoever reads them next will do it.
WAITING_MAX: Final = 16

_log = logging.getLogger(__name__)


class SnapshotLedger(Protocol):
    """Has the snapshots."""

    async def save_snapshot(self, snapshot: Snapshot) -> bool:
        """See `Snapshots.save_snapshot`."""
        ...

    async def drop_snapshot(self, kept: Kept) -> bool:
        """See `Snapshots.drop_snapshot`."""
        ...


class SnapshotKeeper:
    """Saves and removes snapshots, one after the other."""

    def __init__(self, ledger: SnapshotLedger, recorder: Recorder) -> None:
        self._ledger, self._recorder = ledger, recorder
        self._waiting: deque[Callable[[], Awaitable[None]]] = deque()
        self._running: asyncio.Task[None] | None = None

    def offer(self, read: TreeRead) -> None:
        """A tree that was read whole. It is kept if that took long enough."""
        if read.entries > SNAPSHOT_TAIL:
            self._later(partial(self.save, read.rebuilt))

    def refuse(self, refused: Refused) -> None:
        """A snapshot that could not be used. One that others can read is left to them."""
        snapshot = refused.kept.snapshot
        facts = {"tenant": snapshot.tenant, "root": snapshot.root, "why": refused.why}
        _log.warning("a snapshot is not used", extra={"facts": facts})
        self._recorder.snapshot(Snapshotted.REFUSED)
        if snapshot.layout == SNAPSHOT_LAYOUT:
            self._later(partial(self._drop, refused.kept))

    async def save(self, rebuilt: Rebuilt) -> None:
        """Keeps a tree as it is. Raises LEDGER_UNAVAILABLE."""
        snapshot = take(rebuilt)
        if len(snapshot.state) > SNAPSHOT_BYTES_MAX:
            self._recorder.snapshot(Snapshotted.SKIPPED)
        elif await self._ledger.save_snapshot(snapshot):
            self._recorder.snapshot(Snapshotted.SAVED)

    async def settled(self) -> None:
        """Waits until nothing waits."""
        while self._running is not None:
            await asyncio.wait([self._running])

    async def _drop(self, kept: Kept) -> None:
        await self._ledger.drop_snapshot(kept)

    def _later(self, work: Callable[[], Awaitable[None]]) -> None:
        if len(self._waiting) >= WAITING_MAX:
            self._recorder.snapshot(Snapshotted.SKIPPED)
            return
        self._waiting.append(work)
        if self._running is None:
            self._running = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            try:
                await self._waiting.popleft()()
            except HoldfastError as error:
                _log.warning("a snapshot is not kept: %s", error.reason.name)
                self._recorder.snapshot(Snapshotted.FAILED)
            except Exception:
                _log.exception("a snapshot is not kept")
                self._recorder.snapshot(Snapshotted.FAILED)
        self._running = None
