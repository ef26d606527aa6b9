"""Calls that run side by side."""

from __future__ import annotations

import asyncio
import inspect

from holdfast_server.engine.side_by_side import CALLS_MAX, gather


async def test_calls_that_were_not_begun_are_closed_with_the_others() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    calls = [wait() for _ in range(CALLS_MAX + 2)]
    gathering = asyncio.create_task(gather(calls))
    await asyncio.sleep(0)
    gathering.cancel()
    await asyncio.wait({gathering})
    assert {inspect.getcoroutinestate(call) for call in calls} == {inspect.CORO_CLOSED}
