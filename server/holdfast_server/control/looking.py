"""How work in the background goes on for ever, whatever becomes of one look at it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from holdfast_server.errors import HoldfastError

_log = logging.getLogger(__name__)


async def keep_looking(
    what: str,
    look: Callable[[], Awaitable[bool | None]],
    *,
    pause_seconds: float,
    idle_seconds: float | None = None,
) -> None:
    """Looks until cancelled. `look` may answer whether nothing is left to be done for now: then it
    is `idle_seconds` to the next. A store that is away is asked again later; so is what failed,
    since nobody would miss such work before it is too late. That a store is away is told when it
    begins and when it is over: everybody who looks would else repeat it all the while.
    """
    told = ""
    while True:
        is_done: bool | None = True
        failed = ""
        try:
            is_done = await look()
        except HoldfastError as error:
            failed = error.reason.name
        except Exception:
            failed = told = "failed"
            _log.exception("%s: %s", what, failed)
        if failed != told:
            _log.warning("%s: %s", what, failed or "works again")
            told = failed
        await asyncio.sleep(pause_seconds if idle_seconds is None or not is_done else idle_seconds)
