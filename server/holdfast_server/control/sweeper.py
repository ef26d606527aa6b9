"""Ends what is due where nobody looks: expired holds and grants, grants that become effective.

Time counts lazily on every access to a tree, so the sweeper is only needed for trees that nobody
touches. It finds them in each partition's index and sends ExpireDue through the engine, like
everybody.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence

from holdfast_server.domain.operation import Caller, ExpireDue
from holdfast_server.domain.reply import ExpireReply
from holdfast_server.engine.due import DueIndex, DueTree
from holdfast_server.engine.engine import Engine
from holdfast_server.engine.request import Request
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.recorder import Recorder

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
        recorder: Recorder,
    ) -> None:
        """`recorder` is told what could not be ended, and how many holds are open."""
        self._index, self._engine = index, engine
        self._interval_s, self._recorder = interval_s, recorder
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `run` after the round it is in."""
        self._stopping.set()

    async def run(self) -> None:
        """Sweeps until stopped. A store that is away is asked again after the interval."""
        while not self._stopping.is_set():
            try:
                await self.sweep()
                self._recorder.holds_open(await self._index.open_holds())
            except HoldfastError as error:
                _LOG.warning("sweep: %s", error.reason.name)
            await self._pause()

    async def sweep(self) -> tuple[int, int]:
        """Ends all that is due now; answers how many holds and grants that were. A tree in which
        that fails keeps nobody from the others. Raises STORE_UNAVAILABLE.
        """
        holds = grants = 0
        failed = Counter[Reason]()
        self._index.begin()
        try:
            for _ in range(ROUNDS_MAX):
                trees = await self._index.due(TREES_AT_ONCE)
                if not trees or self._stopping.is_set():
                    break
                ended = await self._expire(trees, failed)
                holds += sum(reply.holds for reply in ended)
                grants += sum(reply.grants for reply in ended)
        finally:
            self._tell(failed)
        return holds, grants

    async def _expire(self, trees: Sequence[DueTree], failed: Counter[Reason]) -> list[ExpireReply]:
        """What ended. What did not is passed over, and counted by reason."""
        requests = [Request(ExpireDue(tree.tenant, tree.root)) for tree in trees]
        answers = await self._engine.decide(_CALLER, requests)
        errors = {i: each for i, each in enumerate(answers) if isinstance(each, HoldfastError)}
        self._index.pass_over(trees[index] for index in errors)
        failed.update(each.reason for each in errors.values())
        return [answer for answer in answers if isinstance(answer, ExpireReply)]

    def _tell(self, failed: Counter[Reason]) -> None:
        for reason, count in failed.items():
            self._recorder.sweep_failed(reason, count)
            facts = {"reason": reason.name, "trees": count}
            _LOG.warning("what is due could not be ended", extra={"facts": facts})

    async def _pause(self) -> None:
        """Waits for about the interval, so that several sweepers do not march in step."""
        pause_s = self._interval_s * _CHANCE.uniform(0.8, 1.2)
        try:
            await asyncio.wait_for(self._stopping.wait(), pause_s)
        except TimeoutError:
            return
