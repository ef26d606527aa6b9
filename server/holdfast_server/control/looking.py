"""How work in the background goes on for ever, whatever becomes of one look at it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from holdfast_server.errors import HoldfastError

_log = logging.getLogger(__name__)


async def keep_looking(
    what: str, look: Callable[[], Awaitable[bool]], *, pause_seconds: float, idle_seconds: float
) -> None:
    """Looks until cancelled. `look` answers whether nothing is left to be done for now, which
    decides how long to pause. A store that is away is asked again later; so is what failed, since
    nobody would miss such work before it is too late.
    """
    while True:
        is_done = True
        try:
            is_done = await look()
        except HoldfastError as error:
            _log.warning("%s: %s", what, error.reason.name)
        except Exception:
            _log.exception("%s: failed", what)
        await asyncio.sleep(idle_seconds if is_done else pause_seconds)
