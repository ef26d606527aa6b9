"""Reads the outbox ahead of what is recorded, and makes what it finds ready for the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast_server.domain.packed import PackedEntry
from holdfast_server.engine.outbox import Outbox
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
    """What one read found."""

    #: Of each partition that has some, in the order of `prepared`.
    entries: list[Sequence[PackedEntry]] = field(default_factory=list)
    prepared: list[Prepared] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.entries or self.obstacles)

    @property
    def size(self) -> int:
        """How many entries it has."""
        return sum(map(len, self.entries))

    @property
    def is_prepared(self) -> bool:
        """Whether all of it could be made ready."""
        return len(self.entries) == len(self.prepared)


async def read_ahead(outbox: Outbox, progress: Progress, count: int, wait_ms: int) -> Work:
    """The next work, up to `count` entries; none where none come within `wait_ms`."""
    work, unpaused = Work(), 0
    found = await outbox.read(progress.positions(progress.ahead), count, wait_ms)
    for run in found:
        cursor, anchor = progress.ahead[run.partition], progress.anchors.get(run.partition)
        readied = readable(cursor, anchor, run, progress.continuity)
        await _add(work, progress, readied)
        unpaused += len(readied.entries)
        if unpaused >= PIECE_ENTRIES:
            unpaused = 0
            await asyncio.sleep(0)
    return work


async def _add(work: Work, progress: Progress, found: Readable) -> None:
    if found.obstacle:
        work.obstacles.append(found.obstacle)
    if not found.entries:
        return
    work.entries.append(found.entries)
    last = found.entries[-1]
    try:
        prepared = await _prepared(progress.ahead[last.partition], found.entries)
    except EntriesRefused:
        return
    work.prepared.append(prepared)
    progress.advance(prepared, last.raw)


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
