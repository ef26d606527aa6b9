"""An event loop that says when it has nothing to do, and those who wait for that.

What comes in while a process is busy can travel along with what came before: nobody's answer is
late, because everybody waits for that process anyway. Once it is idle, waiting would be in vain.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Final

#: Seconds that somebody waits for a process that is never idle, at most.
BUSY_SECONDS_MAX: Final = 0.005
#: Turns in a row, with something ready to run in each, in which a loop does not look at its
#: connections: that takes longer than most of what runs.
BLIND_TURNS_MAX: Final = 4

Ready = list[tuple[selectors.SelectorKey, int]]


class IdleLoop(asyncio.SelectorEventLoop):
    """The event loop of processes that gather what they do."""

    def __init__(self) -> None:
        self._idle = _Selector()
        super().__init__(self._idle)

    def when_idle(self, listener: Callable[[], None]) -> None:
        """Calls it once, as soon as nothing is ready to run and no connection has anything new."""
        self._idle.listeners.add(listener)


class _Selector(selectors.DefaultSelector):
    """The loop asks with a timeout of 0 while something is ready to run, and with another one where
    it would rest. It does not rest behind a listener, who may have made something ready.
    """

    def __init__(self) -> None:
        super().__init__()
        self.listeners: set[Callable[[], None]] = set()
        self._blind_turns = 0

    def select(self, timeout: float | None = None) -> Ready:
        if timeout == 0 and self._blind_turns < BLIND_TURNS_MAX:
            self._blind_turns += 1
            return []
        self._blind_turns = 0
        ready = super().select(0 if self.listeners else timeout)
        if not ready and timeout != 0:
            listeners, self.listeners = self.listeners, set()
            for listener in listeners:
                listener()
        return ready


class UntilIdle:
    """One who waits until the process is idle. In any other event loop it always seems to be."""

    def __init__(self) -> None:
        self._end: asyncio.Future[None] | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits."""
        return self._end is not None

    def end(self) -> None:
        """Whoever waits goes on."""
        if self._end is not None and not self._end.done():
            self._end.set_result(None)

    async def wait(self) -> None:
        """Returns when the process is idle, when it is told to, or after `BUSY_SECONDS_MAX`."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, IdleLoop):
            return
        self._end = loop.create_future()
        loop.when_idle(self.end)
        timer = loop.call_later(BUSY_SECONDS_MAX, self.end)
        try:
            await self._end
        finally:
            timer.cancel()
            self._end = None
