"""Keeps snapshots of trees that never leave the hot store, so that they come back fast if it goes.

Of each stretch of a partition's entries, one names its tree. Which one is a matter of chance, and
the same for everybody: so every entry is as likely to name its tree as any other, a tree that has
many is named often, and nobody counts what is behind a snapshot: in the mean, one stretch. Nothing
depends on who walks, from where, or whether anybody does.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

from holdfast_server.control.looking import keep_looking
from holdfast_server.control.snapshots import SNAPSHOT_TAIL, SnapshotKeeper
from holdfast_server.domain.rebuild import Rebuilt
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.histories import NO_END, Begun, Name, Refused

#: Entries of a partition of which one names its tree.
STRETCH_ENTRIES: Final = 20_000
#: Trees that are named and wait. What names more is passed over.
NAMED_MAX: Final = 1_000
#: Entries that are told without a rest, and in a second: nobody is in a hurry, and each takes some
#: 50 us.
PART_ENTRIES: Final = 5_000
ENTRIES_PER_SECOND: Final = 1_000
#: Parts of one tree until others get their turn.
PARTS_MAX: Final = 20
#: Pause between two looks: where trees wait, and where none does.
PAUSE_SECONDS: Final = 0.2
IDLE_SECONDS: Final = 10.0


class Telling(Protocol):
    """Tells trees part by part."""

    async def begin_tree(self, tree: Name) -> Begun:
        """See `Histories.begin_tree`."""
        ...

    async def go_on(self, rebuilt: Rebuilt, limit: int, until: int = NO_END) -> bool:
        """See `Histories.go_on`."""
        ...


class HotLedger(Telling, Protocol):
    """Knows what has been recorded, and of which trees."""

    async def flushed(self) -> Mapping[int, tuple[int, int]]:
        """See `Operations.flushed`."""
        ...

    async def roots_at(self, places: Sequence[tuple[int, int]]) -> Sequence[Name]:
        """See `Snapshots.roots_at`."""
        ...


class HotTrees:
    """Takes snapshots for as long as it runs. Any number may run."""

    def __init__(self, ledger: HotLedger, keeper: SnapshotKeeper) -> None:
        self._ledger, self._keeper = ledger, keeper
        #: How far each partition has been walked; what is older than this process is left alone.
        self._walked: Mapping[int, int] | None = None
        self._named = deque[Name]()

    async def run(self) -> None:
        """Walks until cancelled."""
        await keep_looking(
            "snapshots of trees in use",
            self.look,
            pause_seconds=PAUSE_SECONDS,
            idle_seconds=IDLE_SECONDS,
        )

    async def look(self) -> bool:
        """Takes the next tree forward; answers whether none waits. Raises LEDGER_UNAVAILABLE."""
        if not self._named:
            await self._walk()
        if self._named:
            await self._take(self._named.popleft())
        return not self._named

    async def _walk(self) -> None:
        flushed = await self._ledger.flushed()
        now = {partition: seq for partition, (_, seq) in flushed.items()}
        before, self._walked = self._walked or now, now
        places = [
            (partition, seq)
            for partition, last in now.items()
            for seq in chosen(partition, before.get(partition, last), last)
        ]
        if places:
            self._named.extend(await self._ledger.roots_at(places[:NAMED_MAX]))

    async def _take(self, tree: Name) -> None:
        begun = await self._ledger.begin_tree(tree)
        for refused in begun.refused:
            self._keeper.refuse(refused)
        before = begun.rebuilt.entries
        try:
            await self._tell(begun.rebuilt)
        except HoldfastError:
            raise
        except Exception as fault:
            if begun.kept is None:
                raise
            self._keeper.refuse(
                Refused(begun.kept, f"what is behind it does not follow: {fault!r}")
            )
            return
        if begun.rebuilt.entries - before > SNAPSHOT_TAIL:
            await self._keeper.save(begun.rebuilt)

    async def _tell(self, rebuilt: Rebuilt) -> None:
        for _ in range(PARTS_MAX):
            if await tell_part(self._ledger, rebuilt):
                return


async def tell_part(ledger: Telling, rebuilt: Rebuilt, until: int = NO_END) -> bool:
    """Tells some entries, and rests for what that took; answers whether those were all."""
    before = rebuilt.entries
    is_all = await ledger.go_on(rebuilt, PART_ENTRIES, until)
    await asyncio.sleep((rebuilt.entries - before) / ENTRIES_PER_SECOND)
    return is_all


def chosen(partition: int, walked: int, last: int) -> Iterator[int]:
    """The entries behind one and up to another that name their trees."""
    for stretch in range(walked // STRETCH_ENTRIES, last // STRETCH_ENTRIES + 1):
        digest = hashlib.sha256(f"{partition}/{stretch}".encode()).digest()
        seq = stretch * STRETCH_ENTRIES + int.from_bytes(digest[:8], "big") % STRETCH_ENTRIES
        if walked < seq <= last:
            yield seq
