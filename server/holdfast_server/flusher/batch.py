"""What was read from the outbox: entries that can be appended, and what halts a partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast_server.domain.packed import PackedEntry
from holdfast_server.engine.outbox import OutboxEntry, OutboxRun, unpack_run
from holdfast_server.flusher.continuity import Continuity
from holdfast_server.flusher.history import contradiction
from holdfast_server.flusher.obstacle import Obstacle
from holdfast_server.ledger.prepare import Fault, PartitionCursor


@dataclass(slots=True)
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
    cursor: PartitionCursor, last_raw: bytes | None, found: OutboxRun, continuity: Continuity
) -> Readable:
    """What was found of one partition, up to the first that does not follow or cannot be read.

    `last_raw` holds the bytes of the entry at the cursor, where they are known: new entries only
    count behind the very entry that the ledger has last.
    """
    known = 1 if cursor.has_begun else 0
    expected = cursor.seq + 1 - known
    if (found.epoch, found.first_seq) != (cursor.epoch, expected):
        return Readable([], _gap(found.at(0), cursor.epoch, expected))
    if known and found.raws[0] != last_raw and (obstacle := contradiction(cursor, found.at(0))):
        return Readable([], obstacle)
    entries, error = unpack_run(found, skipped=known)
    if broken := continuity.first_flaw(entries):
        place, flaw = broken
        return Readable(entries[:place], Obstacle(found.at(known + place), Fault.INVALID, flaw))
    if error:
        return Readable(entries, Obstacle(error.found, Fault.UNREADABLE, error.explanation))
    if found.stray:
        expected = found.first_seq + len(found.raws)
        return Readable(entries, _gap(found.stray, cursor.epoch, expected))
    return Readable(entries, None)


def _gap(raw: OutboxEntry, epoch: int, seq: int) -> Obstacle:
    found = f"found {raw.seq} of epoch {raw.epoch}"
    return Obstacle(raw, Fault.GAP, f"expected {seq} of epoch {epoch}, {found}")
