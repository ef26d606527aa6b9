"""Removes what partitions had before they were rebuilt, when it has been kept for long enough.

It stays as evidence for a while (domain/bounds.py); then every server is scanned for it, step by
step. A partition counts as cleared once a whole scan has found nothing of it: on a cluster, a slot
that moves may escape one scan. That is written down in the partition, and nobody scans again.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast_server import failpoint
from holdfast_server.control.looking import keep_looking
from holdfast_server.domain.bounds import FORMER_HOME_MS
from holdfast_server.engine.former_keys import FormerKeys
from holdfast_server.ledger.due import Dues

#: Steps of one look, and the pause before the next while something is left.
STEPS_MAX: Final = 50
PAUSE_SECONDS: Final = 0.5
#: Pause after a scan, and before it is asked again whether something is there to be removed.
IDLE_SECONDS: Final = 600.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Scan:
    """One scan of all servers."""

    #: Of each partition, the newest home that may go.
    homes: Mapping[int, int]
    #: What is still to be scanned: home, server and cursor.
    left: deque[tuple[int, str, int]]
    #: How many keys were found of each partition.
    found: Counter[int] = field(default_factory=Counter)


class FormerHomes:
    """Removes former homes for as long as it runs. Any number may run."""

    def __init__(self, ledger: Dues, former: FormerKeys, clock_ms: Callable[[], int]) -> None:
        self._ledger, self._former, self._clock_ms = ledger, former, clock_ms
        self._scan: _Scan | None = None
        #: Of each partition, up to which home nothing is left, as far as is known here.
        self._cleared = dict[int, int]()

    async def run(self) -> None:
        """Removes until cancelled."""
        await keep_looking(
            "removal of former hot state",
            self.look,
            pause_seconds=PAUSE_SECONDS,
            idle_seconds=IDLE_SECONDS,
        )

    async def look(self) -> bool:
        """Takes some steps; answers whether nothing is left to be done for now. An error of a
        store, which it raises, ends the scan: the next look begins another.
        """
        scan, self._scan = self._scan or await self._begin(), None
        if scan is None:
            return True
        for _ in range(STEPS_MAX):
            await self._step(scan)
            if not scan.left:
                await self._finish(scan)
                return True
        self._scan = scan
        return False

    async def _begin(self) -> _Scan | None:
        """A scan for what has been kept for long enough; None where there is nothing."""
        given_up = await self._ledger.given_up(self._clock_ms() - FORMER_HOME_MS)
        newest = {each.partition: each.home for each in given_up}
        unknown = [each for each, home in newest.items() if self._cleared.get(each, 0) < home]
        self._cleared |= await self._former.cleared(unknown) if unknown else {}
        homes = {
            each: newest[each] for each in unknown if self._cleared.get(each, 0) < newest[each]
        }
        if not homes:
            return None
        wanted = sorted({each.home for each in given_up if each.partition in homes})
        places = await self._former.places()
        return _Scan(homes, deque((home, place, 0) for home in wanted for place in places))

    async def _step(self, scan: _Scan) -> None:
        home, place, cursor = scan.left.popleft()
        cursor, found = await self._former.remove_some(place, cursor, home, scan.homes)
        failpoint.hit("former_homes.after_step")
        scan.found.update(found)
        if cursor:
            scan.left.appendleft((home, place, cursor))

    async def _finish(self, scan: _Scan) -> None:
        cleared = {each: home for each, home in scan.homes.items() if not scan.found[each]}
        await self._former.note_cleared(cleared)
        self._cleared |= cleared
        if scan.found:
            facts = {"partitions": len(scan.found), "keys": scan.found.total()}
            _log.info("former hot state was removed", extra={"facts": facts})
