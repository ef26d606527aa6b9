"""What other partitions have that the ledger does not know yet, while some are recovered.

A partition says where the roots of accounts of its names are, whichever partition these are in. Of
one that has lost that, the ledger is asked. So the ledger must know all accounts before the
partition goes on: one that it does not know would not exist, and could be created once more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from typing import Final

from holdfast_server.engine.fences import Fences
from holdfast_server.ledger.append import CursorsMoved
from holdfast_server.recovery.salvage import Salvage

#: Seconds for which it is tried beside another flusher that is at work.
SECONDS_MAX: Final = 5.0

_log = logging.getLogger(__name__)


async def record_others(salvage: Salvage, fences: Fences, but: Collection[int]) -> None:
    """The ledger has what all partitions have now but some, as far as it can be recorded.

    Raises STORE_UNAVAILABLE and LEDGER_UNAVAILABLE.
    """
    cursors = await salvage.appender.cursors()
    epochs = {each: cursor.epoch for each, cursor in cursors.items() if each not in but}
    seen = await fences.read(epochs) if epochs else {}
    wanted = {each: found.seq for each, found in seen.items()}
    deadline = time.monotonic() + SECONDS_MAX
    while behind := await _behind(salvage, wanted):
        try:
            # What is left behind this cannot be recorded, and keeps nobody from the others.
            return await salvage.catch_up(behind)
        except CursorsMoved:
            if time.monotonic() > deadline:
                facts = {"partitions": sorted(behind)}
                _log.warning("accounts may be unknown: the ledger lags", extra={"facts": facts})
                return


async def _behind(salvage: Salvage, wanted: Mapping[int, int]) -> dict[int, int]:
    """The partitions of which the ledger does not have so much yet."""
    cursors = await salvage.appender.cursors()
    return {each: seq for each, seq in wanted.items() if seq > cursors[each].seq}
