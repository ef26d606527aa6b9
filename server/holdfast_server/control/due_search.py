"""Finds out what is due in trees that nobody has used since their partition was rebuilt.

Such a partition begins with an empty index of due times, and its trees are in the ledger. Their
open holds, and grants that expire or begin, are looked for there: page by page, from the newest
entry that the ledger had when the partition was rebuilt down to its first. How far that is stands
in the partition itself, so that whoever comes next goes on from there (engine/lua/note_due.lua).
"""

from __future__ import annotations

import logging
from typing import Final

from holdfast_server import failpoint
from holdfast_server.control.looking import keep_looking
from holdfast_server.control.rebuilt import RebuiltPartitions
from holdfast_server.engine.due_notes import DueNotes, DueRoot, Page
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.store import ScriptFault
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.due import Dues, Rebuilt

#: Entries that one page reads.
PAGE_ENTRIES: Final = 2_000
#: Pause between two looks: where something is left to be read, and where nothing is.
PAUSE_SECONDS: Final = 0.2
IDLE_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class DueSearch:
    """Searches rebuilt partitions for as long as it runs. Any number may run."""

    def __init__(self, ledger: Dues, notes: DueNotes, keys: Keys) -> None:
        self._ledger, self._notes = ledger, notes
        self._partitions = RebuiltPartitions(ledger, keys)

    async def run(self) -> None:
        """Searches until cancelled."""
        await keep_looking(
            "search for what is due",
            self.look,
            pause_seconds=PAUSE_SECONDS,
            idle_seconds=IDLE_SECONDS,
        )

    async def look(self) -> bool:
        """Reads one page of each partition that is not searched yet; answers whether all are.
        Raises LEDGER_UNAVAILABLE.
        """
        for each in await self._partitions.due():
            await self._look_at(each)
        return self._partitions.are_done

    async def _look_at(self, rebuilt: Rebuilt) -> None:
        """A partition of which nothing can be read or noted keeps nobody from the others."""
        try:
            unread = await self._read_page(rebuilt)
        except (HoldfastError, ScriptFault) as error:
            facts = {"partition": rebuilt.partition, "why": str(error)}
            _log.warning("a search for what is due failed", extra={"facts": facts})
            self._partitions.rest(rebuilt)
            return
        if unread <= 1:
            self._partitions.finish(rebuilt)
            facts = {"partition": rebuilt.partition, "home": rebuilt.home}
            _log.info("a rebuilt partition knows what is due in it", extra={"facts": facts})

    async def _read_page(self, rebuilt: Rebuilt) -> int:
        """Reads and notes one page; answers below which number entries are still to be read."""
        unread = await self._notes.unread(rebuilt.partition)
        if unread is None:
            unread = rebuilt.start_seq + 1
        first = max(1, unread - PAGE_ENTRIES)
        found = await self._ledger.due_between(rebuilt.partition, first, unread)
        failpoint.hit("due_search.after_read")
        roots = [DueRoot(each.tenant, each.root, each.due_ms) for each in found]
        place = await self._notes.note(Page(rebuilt.partition, unread, first, roots))
        failpoint.hit("due_search.after_note")
        return place
