"""Work that goes on beside other work, and ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

#: Seconds after which work that shall end is told so again.
CANCEL_AGAIN_SECONDS = 1.0


@asynccontextmanager
async def background(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Runs something for as long as the block lasts. Raises what the work raised."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await cancel(task)
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancels a task until it has ended; what came of it is not looked at.

    Before Python 3.12, `wait_for` forgets a cancellation that comes with what it waited for, and
    the drivers of both stores use it: a loop told only once could go on for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_SECONDS)
