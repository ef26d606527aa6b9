"""Removes trees from the hot store that nobody has used for long: millions of accounts live in the
ledger, and those in use in memory.

Trees are found by chance, as the store itself would choose what to evict, so that finding them
costs little however many there are. One is removed only if the ledger has all of it and nothing is
held in it (engine/lua/evict_tree.lua); it comes back when somebody uses it (control/hydration.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast_server.control.looking import keep_looking
from holdfast_server.engine.cold import Name
from holdfast_server.engine.store import ScriptFault
from holdfast_server.engine.tree_store import Evicted, SeenTree, TreeStore
from holdfast_server.engine.trees import TreeReader
from holdfast_server.engine.watermark import Watermarks
from holdfast_server.telemetry.recorder import Recorder

#: Pause between two looks, and the keys that one looks at. More than half of them are trees.
LOOK_SECONDS: Final = 1.0
SAMPLE_KEYS: Final = 1_000
#: How long the ledger may take to reach what was seen.
LEDGER_WAIT_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvictionLimits:
    """When a tree may go."""

    #: Nobody has used it for so long. 0: no tree ever goes.
    idle_ms: int
    #: The store has used so much of its `maxmemory`. 0: however little that is.
    memory_percent: int


class Evictor:
    """Looks for trees to be removed for as long as it runs. Any number may run."""

    def __init__(
        self,
        trees: TreeStore,
        reader: TreeReader,
        watermarks: Watermarks,
        limits: EvictionLimits,
        recorder: Recorder,
    ) -> None:
        self._trees, self._reader, self._watermarks = trees, reader, watermarks
        self._keys, self._limits, self._recorder = trees.keys, limits, recorder

    async def run(self) -> None:
        """Looks until cancelled."""
        await keep_looking("eviction", self._look_where_full, pause_seconds=LOOK_SECONDS)

    async def look(self) -> int:
        """Removes what may go of a sample; answers how many trees that were. Raises errors of the
        store.
        """
        idle_ms = await self._trees.idle_ms(await self._reader.sample(SAMPLE_KEYS))
        return await self.evict(
            [name for name, ms in idle_ms.items() if ms >= self._limits.idle_ms]
        )

    async def evict(self, names: Sequence[Name]) -> int:
        """Removes those of the trees that may go, and answers how many. One that is none keeps
        nobody from the others.
        """
        try:
            return await self._evict(names)
        except ScriptFault as fault:
            if len(names) == 1:
                facts = {"tree": names[0], "why": str(fault)}
                _log.warning("a tree cannot be evicted", extra={"facts": facts})
                return 0
        half = len(names) // 2
        return await self.evict(names[:half]) + await self.evict(names[half:])

    async def _look_where_full(self) -> None:
        if await self._trees.memory_percent() >= self._limits.memory_percent:
            await self.look()

    async def _evict(self, names: Sequence[Name]) -> int:
        seen = await self._trees.see(names)
        outcomes = await self._trees.evict(await self._recorded(seen))
        count = sum(outcome is Evicted.EVICTED for outcome in outcomes.values())
        self._recorder.evicted(count)
        return count

    async def _recorded(self, seen: Sequence[SeenTree]) -> list[SeenTree]:
        """Those that the ledger has in time."""
        newest: dict[int, int] = {}
        for tree in seen:
            partition = self._keys.partition(*tree.name)
            newest[partition] = max(newest.get(partition, 0), tree.seq)
        reached = await asyncio.gather(
            *(
                self._watermarks.wait(
                    partition, self._keys.epoch(partition), seq, LEDGER_WAIT_SECONDS
                )
                for partition, seq in newest.items()
            )
        )
        there = {partition for partition, is_there in zip(newest, reached, strict=True) if is_there}
        return [tree for tree in seen if self._keys.partition(*tree.name) in there]
