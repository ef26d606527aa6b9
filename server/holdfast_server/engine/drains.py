"""Tasks that work for as long as something waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


class Drains:
    """Up to so many tasks, each of which works until nothing waits.

    A task leaves in the same step as it looks for the last time. A done callback would come a turn
    of the event loop later, and whoever adds work in between would count on a task that does not
    look any more.
    """

    def __init__(self, tasks_max: int, work: Callable[[], Awaitable[None]]) -> None:
        """`work` ends when nothing waits that no other task will take, and awaits nothing behind
        its last look.
        """
        self._tasks_max, self._work = tasks_max, work
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """To be called when something has been added: begins one more task, if there may be one."""
        if len(self._tasks) < self._tasks_max:
            self._tasks.add(asyncio.create_task(self._run()))

    async def join(self) -> None:
        """Waits until nobody works."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            # Everything that became ready in this turn of the event loop shall travel together.
            await asyncio.sleep(0)
            await self._work()
        finally:
            self._tasks.discard(task)
