"""Deadlines of calls, most of which are answered long before: one timer for many of them.

With a timer for each call the dispatcher takes half as much again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

#: How much later than its deadline a call may end that had more time than this.
TICK_SECONDS: Final = 0.02

Answer = asyncio.Future[Any]


class Deadlines:
    """Gives up answers that nobody has given in time. For one event loop."""

    def __init__(self, give_up: Callable[[Answer], None]) -> None:
        """`give_up` leaves an answer alone that was given."""
        self._give_up = give_up
        #: What ends in the same tick, by its number.
        self._ticks: dict[int, set[Answer]] = {}

    def add(self, answer: Answer, seconds: float) -> set[Answer]:
        """Gives `answer` up in so many seconds. Who has it sooner MUST take it out of the set."""
        loop = asyncio.get_running_loop()
        if seconds < TICK_SECONDS:
            loop.call_later(seconds, self._give_up, answer)
            return set()
        tick = math.ceil((loop.time() + seconds) / TICK_SECONDS)
        waiting = self._ticks.get(tick)
        if waiting is None:
            waiting = self._ticks[tick] = set()
            loop.call_at(tick * TICK_SECONDS, self._end, tick)
        waiting.add(answer)
        return waiting

    def _end(self, tick: int) -> None:
        for answer in self._ticks.pop(tick):
            self._give_up(answer)
