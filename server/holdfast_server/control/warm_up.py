"""Brings back by themselves the trees of rebuilt partitions that were lately in use.

They would come back when somebody uses them (control/hydration.py), one by one and under the eyes
of whoever waits. Here they come many at a time, the newest first: the ledger is read page by page
from the entry that it had last when the partition was rebuilt, until entries are too old. Where
this is stands nowhere: whoever begins anew finds most trees there already, which costs little, and
once the newest entries have grown old there is nothing left to read.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast_server import failpoint
from holdfast_server.control.looking import keep_looking
from holdfast_server.control.rebuilt import Rebuilds, RebuiltPartitions
from holdfast_server.engine.cold import Absent, Brought, Hydration, Name, Outcome
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.side_by_side import in_parts
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.due import EntriesPage, Rebuilt

#: Trees that were in use for so long ago are left to whoever uses them: as long as a tree must
#: rest before it may leave the store, unless a setting says otherwise.
ACTIVE_MS: Final = 3_600_000
#: Entries that one page of a partition has.
PAGE_ENTRIES: Final = 2_000
#: Partitions that are read together: many have few trees each.
PARTITIONS_MAX: Final = 16
#: Trees that are asked for at once: fewer than may wait (control/hydration.py).
TREES_MAX: Final = 1_000
#: Trees of a partition that could not be brought and are tried once more at its end. More of them
#: are a sign that something else is wrong: the partition is begun anew later.
FAILED_MAX: Final = 1_000
#: Pause between two looks: where something is left to be read, where nothing is, and where memory
#: is wanted.
PAUSE_SECONDS: Final = 0.05
IDLE_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)

#: A source of its own: nobody's seed makes processes march in step.
_CHANCE = random.Random()


class ActiveTrees(Rebuilds, Protocol):
    """Knows what was in use."""

    async def active_in(
        self, pages: Sequence[EntriesPage], since_ms: int
    ) -> Mapping[int, Sequence[Name]]:
        """See `Dues.active_in`."""
        ...


@dataclass(slots=True)
class _Walk:
    """How far a partition has been read."""

    home: int
    #: Entries below this number are still to be read.
    unread: int
    #: Trees that could not be brought.
    failed: set[Name] = field(default_factory=set)


class WarmUp:
    """Brings trees for as long as it runs. Any number may run."""

    def __init__(
        self,
        ledger: ActiveTrees,
        hydration: Hydration,
        keys: Keys,
        wants_memory: Callable[[], Awaitable[bool]],
        clock_ms: Callable[[], int],
    ) -> None:
        self._ledger, self._hydration = ledger, hydration
        self._wants_memory, self._clock_ms = wants_memory, clock_ms
        self._partitions = RebuiltPartitions(ledger, keys)
        self._walks = dict[int, _Walk]()

    async def run(self) -> None:
        """Brings trees until cancelled."""
        await keep_looking(
            "trees come back by themselves",
            self.look,
            pause_seconds=PAUSE_SECONDS,
            idle_seconds=IDLE_SECONDS,
        )

    async def look(self) -> bool:
        """Brings the trees of one page of each partition that is not done; answers whether nothing
        is left to be done for now. Raises errors of both stores.

        Others that do the same take the partitions in another order.
        """
        if not self._clock_ms():
            # What is old is not known yet.
            return True
        found = await self._partitions.due()
        for some in in_parts(_CHANCE.sample(found, len(found)), PARTITIONS_MAX):
            if await self._wants_memory():
                # Room is made for those that are in use; what comes now would be in the way.
                return True
            await self._look_at(some)
        return not found

    async def _look_at(self, some: Sequence[Rebuilt]) -> None:
        """Partitions of which nothing can be read rest, and others go on."""
        pages = {each: self._page(each) for each in some}
        since_ms = self._clock_ms() - ACTIVE_MS
        try:
            found = await self._ledger.active_in(list(pages.values()), since_ms)
        except HoldfastError as error:
            facts = {"partitions": len(some), "why": str(error)}
            _log.warning("trees do not come back by themselves", extra={"facts": facts})
            for each in some:
                self._partitions.rest(each)
            return
        failpoint.hit("warm_up.after_read")
        missing = await self._bring(
            [
                name
                for partition, names in found.items()
                for name in names
                if name not in self._walks[partition].failed
            ]
        )
        for each, page in pages.items():
            names = found.get(each.partition, ())
            failed = missing.keys() & set(names)
            if any(isinstance(missing[name], Absent) for name in failed):
                # The ledger knows them: the store is not armed yet for the partition.
                self._partitions.rest(each)
            else:
                await self._go_on(each, page, failed, is_last=not names)

    def _page(self, rebuilt: Rebuilt) -> EntriesPage:
        """What is to be read next."""
        walk = self._walks.get(rebuilt.partition)
        if walk is None or walk.home != rebuilt.home:
            walk = _Walk(rebuilt.home, rebuilt.start_seq + 1)
            self._walks[rebuilt.partition] = walk
        return EntriesPage(rebuilt.partition, max(1, walk.unread - PAGE_ENTRIES), walk.unread)

    async def _go_on(
        self, rebuilt: Rebuilt, page: EntriesPage, failed: Set[Name], *, is_last: bool
    ) -> None:
        walk = self._walks[rebuilt.partition]
        walk.failed |= failed
        walk.unread = page.first_seq
        if len(walk.failed) > FAILED_MAX:
            self._partitions.rest(rebuilt)
            del self._walks[rebuilt.partition]
        elif is_last or page.first_seq <= 1:
            await self._finish(rebuilt, walk)

    async def _bring(self, names: Sequence[Name]) -> dict[Name, Outcome]:
        """What became of those that could not be brought."""
        missing = dict[Name, Outcome]()
        for part in in_parts(names, TREES_MAX):
            outcomes = await self._hydration.bring(part)
            missing |= {
                name: each for name, each in outcomes.items() if not isinstance(each, Brought)
            }
        return missing

    async def _finish(self, rebuilt: Rebuilt, walk: _Walk) -> None:
        """A store may have been away for a moment: what failed is tried once more."""
        failed = await self._bring(sorted(walk.failed))
        facts = {"partition": rebuilt.partition, "home": rebuilt.home, "failed": len(failed)}
        _log.info("trees that were in use are back", extra={"facts": facts})
        self._partitions.finish(rebuilt)
        del self._walks[rebuilt.partition]
