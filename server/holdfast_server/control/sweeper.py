"""Ends what is due where nobody looks: expired holds and grants, grants that become effective.

Time counts lazily on every access to a tree, so the sweeper is only needed for trees that nobody
touches. It finds them in each partition's index and sends ExpireDue through the engine, like
everybody.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from holdfast_server.domain.operation import Caller, ExpireDue
from holdfast_server.domain.reply import ExpireReply
from holdfast_server.engine.due import DueIndex, DueTree
from holdfast_server.engine.engine import Engine
from holdfast_server.engine.request import Request
from holdfast_server.errors import HoldfastError

#: Trees that are sent to the engine at once.
TREES_AT_ONCE = 200
#: Rounds of one sweep: bounds how long a sweep goes on while more becomes due.
ROUNDS_MAX = 1_000

#: A source of its own: nobody's seed makes processes march in step.
_CHANCE = random.Random()

_CALLER = Caller("sweeper")
_LOG = logging.getLogger(__name__)


class Sweeper:
    """Sweeps all partitions, again and again."""

    def __init__(
        self,
        index: DueIndex,
        engine: Engine,
        interval_s: float,
        on_open_holds: Callable[[int], None] = lambda holds: None,
    ) -> None:
        """`on_open_holds` is told after each sweep how many holds are open."""
        self._index, self._engine = index, engine
        self._interval_s, self._on_open_holds = interval_s, on_open_holds
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `run` after the round it is in."""
        self._stopping.set()

    async def run(self) -> None:
        """Sweeps until stopped. A store that is away is asked again after the interval."""
        while not self._stopping.is_set():
            try:
                await self.sweep()
                self._on_open_holds(await self._index.open_holds())
            except HoldfastError as error:
                _LOG.warning("sweep: %s", error.reason.name)
            await self._pause()

    async def sweep(self) -> tuple[int, int]:
        """Ends all that is due now; answers how many holds and grants that were. Raises
        STORE_UNAVAILABLE.
        """
        holds = grants = 0
        for _ in range(ROUNDS_MAX):
            trees = await self._index.due(TREES_AT_ONCE)
            if not trees or self._stopping.is_set():
                break
            ended = await self._expire(trees)
            holds += sum(reply.holds for reply in ended)
            grants += sum(reply.grants for reply in ended)
        return holds, grants

    async def _expire(self, trees: list[DueTree]) -> list[ExpireReply]:
        requests = [Request(ExpireDue(tree.tenant, tree.root)) for tree in trees]
        answers = await self._engine.decide(_CALLER, requests)
        for answer in answers:
            if isinstance(answer, HoldfastError):
                raise answer
        return [answer for answer in answers if isinstance(answer, ExpireReply)]

    async def _pause(self) -> None:
        """Waits for about the interval, so that several sweepers do not march in step."""
        pause_s = self._interval_s * _CHANCE.uniform(0.8, 1.2)
        try:
            await asyncio.wait_for(self._stopping.wait(), pause_s)
        except TimeoutError:
            return
