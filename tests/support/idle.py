"""An event loop that says when it is idle, and what keeps it busy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from holdfast_server.engine.idle import IdleLoop
from tests.support.waiting import WAIT_SECONDS


def run(test: Callable[[IdleLoop], Awaitable[None]]) -> None:
    """Runs a test in such a loop, in which nothing else is done."""
    with asyncio.Runner(loop_factory=IdleLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, IdleLoop)

        async def limited() -> None:
            async with asyncio.timeout(WAIT_SECONDS):
                await test(loop)

        runner.run(limited())


@contextmanager
def busy(loop: IdleLoop) -> Iterator[None]:
    """Something is always ready to run while this lasts."""
    ended = False

    def turn() -> None:
        if not ended:
            loop.call_soon(turn)

    turn()
    try:
        yield
    finally:
        ended = True
