"""Compares some trees with the ledger every few seconds, for ever: what drifts is known before a
customer asks.

Looked at are the trees in which something has just happened, others by chance, and those known to
drift, until they no longer do. Where nothing happens at all, it looks less often.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Final

from holdfast_server.control.reconcile import Comparison, Reconciler
from holdfast_server.engine.cold import Name
from holdfast_server.engine.trees import TreeReader
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.records import Finding
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.names import Alert, Audited
from holdfast_server.telemetry.recorder import Recorder

#: Pause between two looks, and while nothing happens. Each also asks for all positions.
LOOK_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 30.0
#: Entries of a tree that are added up; of larger ones the newest entry of each credit is looked at.
ENTRIES_MAX: Final = 5_000
#: Trees that are known to drift: more would say nothing new.
DRIFTING_MAX: Final = 1_000
#: Of what drifts in one tree, so much is logged and kept.
DIFFERENCES_KEPT_MAX: Final = 50

#: A source of its own: nobody's seed makes processes march in step.
_CHANCE = random.Random()

_log = logging.getLogger(__name__)


class Auditor:
    """Looks at trees for as long as it runs. Any number may run."""

    def __init__(
        self,
        reconciler: Reconciler,
        reader: TreeReader,
        ledger: Ledger,
        recorder: Recorder,
        trees_per_second: int,
    ) -> None:
        """`trees_per_second` is how many are compared while something happens."""
        self._reconciler, self._reader, self._ledger = reconciler, reader, ledger
        self._recorder = recorder
        self._trees = round(trees_per_second * LOOK_SECONDS)
        #: How many figures of each tree differ; a partition has no names.
        self._drifting: dict[tuple[int, Name], int] = {}
        self._positions: Mapping[int, tuple[int, int]] = {}

    async def run(self) -> None:
        """Looks until cancelled. A store that is away is asked again later."""
        # An alert needs a figure before the first drift.
        self._recorder.drift(0)
        while True:
            idle = False
            try:
                idle = await self.look()
            except HoldfastError as error:
                _log.warning("audit: %s", error.reason.name)
            except Exception:
                # Whoever audits must not end in silence, least of all by what it finds.
                _log.exception("an audit failed")
                self._recorder.alert(Alert.DRIFT)
            await asyncio.sleep(
                (IDLE_SECONDS if idle else LOOK_SECONDS) * _CHANCE.uniform(0.8, 1.2)
            )

    async def look(self) -> bool:
        """Compares some trees and all positions; answers whether nothing has happened since the
        last look. Raises STORE_UNAVAILABLE and LEDGER_UNAVAILABLE.
        """
        positions = await self._ledger.flushed()
        idle, self._positions = positions == self._positions, positions
        await self._judge_positions(await self._reconciler.compare_positions())
        for tree in await self._chosen(positions):
            comparison = await self._reconciler.compare(tree, ENTRIES_MAX)
            self._recorder.audited(comparison.result)
            if comparison.result in (Audited.AGREES, Audited.DRIFTS, Audited.COLD):
                await self._judge(comparison)
        return idle

    async def _chosen(self, positions: Mapping[int, object]) -> list[Name]:
        """Some that drift, some of those that changed last, and the rest by chance."""
        known = [tree for _, tree in self._drifting if tree != ("", "")]
        drifting = _CHANCE.sample(known, min(len(known), max(1, self._trees // 4)))
        partition = _CHANCE.choice(list(positions)) if positions else 0
        newest = await self._ledger.newest_roots(partition)
        _CHANCE.shuffle(newest)
        sampled = await self._reader.sample(self._trees)
        chosen = [*drifting, *newest[: self._trees // 2], *sampled]
        return list(dict.fromkeys(chosen))[: self._trees]

    async def _judge_positions(self, comparisons: list[Comparison]) -> None:
        behind = {comparison.partition for comparison in comparisons}
        for partition, tree in list(self._drifting):
            if tree == ("", "") and partition not in behind:
                del self._drifting[partition, tree]
        for comparison in comparisons:
            await self._judge(comparison)

    async def _judge(self, comparison: Comparison) -> None:
        """Tells people what drifts, once for each tree, and the metric how much does."""
        name = comparison.partition, (comparison.tenant, comparison.root)
        if not comparison.differences:
            self._drifting.pop(name, None)
        elif name in self._drifting or len(self._drifting) < DRIFTING_MAX:
            if name not in self._drifting:
                await self._tell(comparison)
            self._drifting[name] = len(comparison.differences)
        self._recorder.drift(sum(self._drifting.values()))

    async def _tell(self, comparison: Comparison) -> None:
        self._recorder.alert(Alert.DRIFT)
        kept = comparison.findings[:DIFFERENCES_KEPT_MAX]
        for finding in kept:
            _log.error("drift between hot store and ledger", extra={"facts": _facts(finding)})
        await self._ledger.note_findings(kept)


def _facts(finding: Finding) -> dict[str, object]:
    difference, figure = finding.difference, finding.difference.figure
    return {
        "partition": finding.partition,
        "tenant": finding.tenant,
        "account": figure.account,
        "credit_type": figure.credit_type,
        "version": difference.version,
        "figure": figure.what,
        "hot": difference.hot,
        "ledger": difference.ledger,
    }
