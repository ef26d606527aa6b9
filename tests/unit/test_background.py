"""Work that goes on beside other work."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from holdfast_server import background
from tests.support.waiting import WAIT_SECONDS


async def test_background_work_that_misses_a_cancellation_still_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "CANCEL_AGAIN_SECONDS", 0.01)
    has_begun = asyncio.Event()

    async def work() -> None:
        has_begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def run() -> None:
        async with background.background(work()):
            await has_begun.wait()

    # A timeout around it would cancel the work itself, and so could not fail.
    done, _ = await asyncio.wait({asyncio.create_task(run())}, timeout=WAIT_SECONDS)

    assert done
    await done.pop()
