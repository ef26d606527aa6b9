"""What was read from the outbox: entries that can be appended, and what halts a partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from holdfast_server.domain.packed import PackedEntry
from holdfast_server.engine.outbox import OutboxEntry, OutboxEntryError, unpack
from holdfast_server.flusher.history import contradiction
from holdfast_server.flusher.obstacle import Obstacle
from holdfast_server.ledger.prepare import Fault, PartitionCursor


@dataclass(frozen=True, slots=True)
class Readable:
    """What a partition has: entries that follow its cursor, and maybe an obstacle behind them."""

    entries: list[PackedEntry]
    obstacle: Obstacle | None


def halves(partitions: Sequence[Sequence[PackedEntry]]) -> list[list[Sequence[PackedEntry]]]:
    """Two parts that together are the batch; partitions are kept whole where possible."""
    if len(partitions) > 1:
        middle = len(partitions) // 2
        return [list(partitions[:middle]), list(partitions[middle:])]
    (entries,) = partitions
    middle = len(entries) // 2
    return [[entries[:middle]], [entries[middle:]]]


def readable(
    cursor: PartitionCursor, anchor: bytes | None, found: Iterator[OutboxEntry]
) -> Readable:
    """What was found of one partition, up to the first that does not follow or cannot be read.

    `anchor` holds the bytes of the entry at the cursor, where they are known.
    """
    entries: list[PackedEntry] = []
    expected = cursor.seq
    if cursor.has_begun and (obstacle := _anchored(cursor, anchor, next(found))):
        return Readable(entries, obstacle)
    for raw in found:
        expected += 1
        if (raw.epoch, raw.seq) != (cursor.epoch, expected):
            return Readable(entries, _gap(raw, cursor.epoch, expected))
        try:
            entries.append(unpack(raw))
        except OutboxEntryError as error:
            return Readable(entries, Obstacle(raw, Fault.UNREADABLE, error.explanation))
    return Readable(entries, None)


def _anchored(cursor: PartitionCursor, anchor: bytes | None, first: OutboxEntry) -> Obstacle | None:
    """New entries only count behind the very entry that the ledger has last."""
    if (first.epoch, first.seq) != (cursor.epoch, cursor.seq):
        return _gap(first, cursor.epoch, cursor.seq)
    return None if first.raw == anchor else contradiction(cursor, first)


def _gap(raw: OutboxEntry, epoch: int, seq: int) -> Obstacle:
    found = f"found {raw.seq} of epoch {raw.epoch}"
    return Obstacle(raw, Fault.GAP, f"expected {seq} of epoch {epoch}, {found}")
