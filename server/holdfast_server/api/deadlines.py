"""Deadlines of calls and of what comes on streams: one timer for many of them.

Most are answered long before. With a timer for each call the dispatcher takes half as much again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from holdfast_server.errors import HoldfastError, Reason

#: How much later than its deadline a call may end that had more time than this.
TICK_SECONDS: Final = 0.02

#: What an answer is given by.
Answer = TypeVar("Answer", bound=Hashable)


class Deadlines(Generic[Answer]):
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


def deadline_exceeded() -> HoldfastError:
    """The answer when the time for a call is over."""
    return HoldfastError(
        Reason.DEADLINE_EXCEEDED,
        "The time allowed is over and the result is not known; retry with the same key.",
    )
