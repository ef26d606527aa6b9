"""Waiting in tests: for a condition, with a limit, never for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

#: Seconds that a test waits for something to happen.
WAIT_SECONDS = 30.0
#: Seconds between two looks.
LOOK_SECONDS = 0.01


async def until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    """Waits until a condition holds; it may be a coroutine function."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if await holds if asyncio.iscoroutine(holds) else holds:
                return
            await asyncio.sleep(LOOK_SECONDS)
