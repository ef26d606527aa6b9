"""Saves what the hot store still has and the ledger does not, and compares what both have.

Entries are taken as the flusher takes them: behind the cursor, in order, each exactly once. What
contradicts the ledger is set aside, from the first entry that does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from holdfast_server.domain.columns import chain_hash, columns
from holdfast_server.domain.entry import GENESIS_HASH
from holdfast_server.domain.packed import MALFORMED, PackedEntry
from holdfast_server.engine.outbox import Outbox, OutboxEntry, OutboxEntryError, unpack
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.prepare import EntriesRefused, PartitionCursor, prepare
from holdfast_server.ledger.store import Ledger

#: Entries that are looked at in one step.
STEP_ENTRIES: Final = 2_000

_BEGINNING: Final = (0, 0)


@dataclass(slots=True)
class Salvaged:
    """What was found of one partition."""

    #: How far the ledger is now.
    cursor: PartitionCursor
    #: Where in the stream to go on.
    place: tuple[int, int] = _BEGINNING
    #: What contradicts the ledger, and what follows it.
    divergent: list[OutboxEntry] = field(default_factory=list)
    #: An entry that the ledger does not take, and why.
    refused: str = ""

    @property
    def is_open(self) -> bool:
        """Whether entries can still be taken."""
        return not self.divergent and not self.refused


@dataclass(frozen=True, slots=True)
class Salvage:
    """Goes through the streams of fenced partitions."""

    ledger: Ledger
    outbox: Outbox
    appender: Appender

    async def run(self, partitions: Sequence[int]) -> dict[int, Salvaged]:
        """Everything that can be saved is in the ledger afterwards.

        Raises `CursorsMoved` where another flusher is at work, and LEDGER_UNAVAILABLE.
        """
        cursors = await self.appender.cursors()
        found = {each: Salvaged(cursors[each]) for each in partitions}
        # One step sees so many entries in all: a partition of which it saw none may have some yet.
        while await self._step(found, sorted(partitions)):
            pass
        return found

    async def catch_up(self, wanted: Mapping[int, int]) -> None:
        """Records so much of partitions that are not fenced, as far as that is possible.

        Raises the same.
        """
        cursors = await self.appender.cursors()
        places = {each: (cursors[each].epoch, cursors[each].seq) for each in wanted}
        left = {each: Salvaged(cursors[each], places[each]) for each in wanted}
        while left and await self._step(left, sorted(left)):
            left = {
                each: salvaged
                for each, salvaged in left.items()
                if salvaged.is_open and salvaged.cursor.seq < wanted[each]
            }

    async def _step(self, found: Mapping[int, Salvaged], partitions: Sequence[int]) -> bool:
        """Looks at some entries; answers whether there were any."""
        entries = await self.outbox.read_after(
            {each: found[each].place for each in partitions},
            {each: found[each].cursor.epoch for each in partitions},
            STEP_ENTRIES,
        )
        steps: dict[int, list[OutboxEntry]] = {}
        for partition, group in groupby(entries, key=lambda each: each.partition):
            new = [each for each in group if (each.epoch, each.seq) > found[partition].place]
            if new:
                steps[partition] = new
        hashes = await self._hashes(found, steps)
        for partition, new in steps.items():
            found[partition].place = new[-1].epoch, new[-1].seq
            await self._take(found[partition], new, hashes)
        return bool(steps)

    async def _hashes(
        self, found: Mapping[int, Salvaged], steps: Mapping[int, Sequence[OutboxEntry]]
    ) -> dict[tuple[int, int], bytes]:
        """What the ledger has of these entries, and of the one before each."""
        ranges = {
            partition: (entries[0].seq - 1, min(entries[-1].seq, found[partition].cursor.seq))
            for partition, entries in steps.items()
            if entries[0].seq <= found[partition].cursor.seq
        }
        return await self.ledger.chain_hashes(ranges) if ranges else {}

    async def _take(
        self,
        salvaged: Salvaged,
        entries: Sequence[OutboxEntry],
        hashes: Mapping[tuple[int, int], bytes],
    ) -> None:
        behind: list[PackedEntry] = []
        expected = salvaged.cursor.seq
        for entry in entries:
            if salvaged.divergent:
                salvaged.divergent.append(entry)
            elif entry.seq <= salvaged.cursor.seq:
                if not _is_recorded(entry, hashes):
                    salvaged.divergent.append(entry)
            elif (entry.epoch, entry.seq) != (salvaged.cursor.epoch, expected + 1):
                salvaged.divergent.append(entry)
            elif (packed := self._unpacked(salvaged, entry)) is not None:
                behind.append(packed)
                expected += 1
        if behind and not salvaged.refused:
            await self._append(salvaged, behind)

    def _unpacked(self, salvaged: Salvaged, entry: OutboxEntry) -> PackedEntry | None:
        try:
            return unpack(entry)
        except OutboxEntryError as error:
            salvaged.refused = salvaged.refused or f"{entry.seq}: {error.explanation}"
            return None

    async def _append(self, salvaged: Salvaged, entries: Sequence[PackedEntry]) -> None:
        try:
            prepared = prepare(salvaged.cursor, entries)
            await self.appender.append([prepared])
        except EntriesRefused as refusal:
            salvaged.refused = refusal.explanation
        else:
            salvaged.cursor = prepared.after


def _is_recorded(entry: OutboxEntry, hashes: Mapping[tuple[int, int], bytes]) -> bool:
    """Whether the ledger has this very entry."""
    before = hashes.get((entry.partition, entry.seq - 1), GENESIS_HASH if entry.seq == 1 else None)
    recorded = hashes.get((entry.partition, entry.seq))
    if before is None or recorded is None:
        return False
    try:
        return chain_hash(before, columns(unpack(entry))) == recorded
    except (OutboxEntryError, *MALFORMED):
        return False
