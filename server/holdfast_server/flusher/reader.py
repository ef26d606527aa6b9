"""Reads the outbox ahead of what is recorded, and makes what it finds ready for the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast_server.domain.packed import PackedEntry
from holdfast_server.engine.outbox import READ_ENTRIES_MAX, Outbox, OutboxRun
from holdfast_server.flusher.batch import Readable, readable
from holdfast_server.flusher.obstacle import Obstacle
from holdfast_server.flusher.progress import Progress
from holdfast_server.ledger.prepare import (
    EntriesRefused,
    PartitionCursor,
    Prepared,
    joined,
    prepare,
)

#: Entries that are made ready at once: about half a millisecond of work.
PIECE_ENTRIES: Final = 50


@dataclass(slots=True)
class Work:
    """What was read for one transaction, by partition."""

    entries: dict[int, list[PackedEntry]] = field(default_factory=dict)
    prepared: dict[int, Prepared] = field(default_factory=dict)
    #: Whether all of it could be made ready.
    is_prepared: bool = True
    obstacles: list[Obstacle] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.entries or self.obstacles)

    @property
    def size(self) -> int:
        """How many entries it has."""
        return sum(map(len, self.entries.values()))

    @property
    def goes_on(self) -> bool:
        """Whether what was read of every partition can be followed by more."""
        return self.is_prepared and not self.obstacles


async def read_ahead(outbox: Outbox, progress: Progress, count: int, wait_ms: int) -> Work:
    """The next work, up to `count` entries; none where none come within `wait_ms`.

    The store is asked for a part of them at a time, so that its callers come in between.
    """
    work = Work()
    while work.size < count:
        part = min(count - work.size, READ_ENTRIES_MAX)
        before = work.size
        found = await outbox.read(progress.positions(progress.ahead), part, wait_ms)
        await _add_all(work, progress, found)
        if work.size < before + part or not work.goes_on:
            break
        wait_ms = 0
    return work


async def _add_all(work: Work, progress: Progress, found: Sequence[OutboxRun]) -> None:
    unpaused = 0
    for run in found:
        cursor, last_raw = progress.ahead[run.partition], progress.last_raws.get(run.partition)
        readied = readable(cursor, last_raw, run, progress.continuity)
        await _add(work, progress, readied)
        unpaused += len(readied.entries)
        if unpaused >= PIECE_ENTRIES:
            unpaused = 0
            await asyncio.sleep(0)


async def _add(work: Work, progress: Progress, found: Readable) -> None:
    if found.obstacle:
        work.obstacles.append(found.obstacle)
    if not found.entries:
        return
    last = found.entries[-1]
    partition = last.partition
    work.entries.setdefault(partition, []).extend(found.entries)
    try:
        prepared = await _prepared(progress.ahead[partition], found.entries)
    except EntriesRefused:
        work.is_prepared = False
        return
    progress.advance(prepared, last.raw)
    before = work.prepared.get(partition)
    work.prepared[partition] = joined([before, prepared]) if before else prepared


async def _prepared(cursor: PartitionCursor, entries: Sequence[PackedEntry]) -> Prepared:
    """Piece by piece: between them the batch that is being written can take its next step."""
    if len(entries) <= PIECE_ENTRIES:
        return prepare(cursor, entries)
    pieces: list[Prepared] = []
    for start in range(0, len(entries), PIECE_ENTRIES):
        await asyncio.sleep(0)
        piece = prepare(cursor, entries[start : start + PIECE_ENTRIES])
        pieces.append(piece)
        cursor = piece.after
    return joined(pieces)
