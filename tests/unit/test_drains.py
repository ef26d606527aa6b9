"""Whatever is added is worked on, also when all that work end in the same turn of the loop."""

from __future__ import annotations

import asyncio
from collections import deque

from holdfast_server.engine.drains import Drains
from tests.support.waiting import WAIT_SECONDS


async def test_what_is_added_when_all_end_at_once_is_worked_on() -> None:
    waiting, done = deque[str](), list[str]()
    busy, gate, last = asyncio.Semaphore(0), asyncio.Event(), asyncio.Event()

    def add(name: str) -> None:
        waiting.append(name)
        drains.start()

    async def work() -> None:
        while waiting:
            name = waiting.popleft()
            busy.release()
            await gate.wait()
            done.append(name)
            if name == "first":
                asyncio.get_running_loop().call_soon(add, "last")
            elif name == "last":
                last.set()

    drains = Drains(2, work)
    for name in ("first", "second"):
        add(name)
        await busy.acquire()
    gate.set()
    async with asyncio.timeout(WAIT_SECONDS):
        await last.wait()
        await drains.join()

    assert done == ["first", "second", "last"]


async def test_no_more_work_at_once_than_may() -> None:
    waiting, at_once, most = deque(range(9)), 0, 0

    async def work() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        while waiting:
            waiting.popleft()
            await asyncio.sleep(0)
        at_once -= 1

    drains = Drains(3, work)
    for _ in range(5):
        drains.start()
    await drains.join()

    assert (most, at_once, list(waiting)) == (3, 0, [])
