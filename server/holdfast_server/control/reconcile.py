"""Compares trees in the hot store with the ledger, exactly, while both go on working.

A tree is read in one step together with the sequence number that its partition has then. The sums
of the ledger's entries up to that very number must be the same: every version, bucket, grant and
open hold. So there is no moment to wait for and nothing to be tolerated: a difference is drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast_server.domain.figures import (
    VERSION,
    Difference,
    Figure,
    Figures,
    contradictions,
    differences,
    newest_only,
)
from holdfast_server.engine.cold import Name
from holdfast_server.engine.trees import HotTree, TreeReader
from holdfast_server.engine.watermark import Watermarks
from holdfast_server.ledger.records import Finding
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.names import Audited

#: How long the ledger may take to reach what was read.
LEDGER_WAIT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of one tree (or, with empty names, of a partition) at `seq` of its partition."""

    tenant: str
    root: str
    partition: int
    epoch: int
    seq: int
    result: Audited
    differences: tuple[Difference, ...] = ()

    @property
    def findings(self) -> list[Finding]:
        """Its differences, to be kept."""
        place = self.partition, self.epoch, self.seq, self.tenant
        return [Finding(*place, difference) for difference in self.differences]


class Reconciler:
    """Compares. Every method raises STORE_UNAVAILABLE and LEDGER_UNAVAILABLE."""

    def __init__(self, reader: TreeReader, ledger: Ledger, watermarks: Watermarks) -> None:
        self._reader, self._ledger, self._watermarks = reader, ledger, watermarks

    async def compare(self, tree: Name, entries_max: int | None = None) -> Comparison:
        """Compares one tree. With more than `entries_max` entries, only the newest are looked at.

        What differs is looked at twice: an epoch may have begun between the two reads of one look.
        """
        first = await self._look(tree, entries_max)
        return await self._look(tree, entries_max) if first.differences else first

    async def compare_positions(self) -> list[Comparison]:
        """The partitions whose hot store is behind the ledger: entries that it has lost."""
        recorded = await self._ledger.flushed()
        hot = await self._reader.seqs(list(recorded))
        return [
            Comparison(
                *("", "", partition, epoch, hot[partition], Audited.DRIFTS),
                (Difference(Figure("", "", f"partition {partition}", "seq"), hot[partition], seq),),
            )
            for partition, (epoch, seq) in recorded.items()
            if hot[partition] < seq
        ]

    async def _look(self, tree: Name, entries_max: int | None) -> Comparison:
        hot = await self._reader.read(*tree)
        place = (*tree, hot.partition, hot.epoch, hot.seq)
        if hot.figures is None or hot.is_cold:
            return Comparison(*place, Audited.COLD if hot.is_cold else Audited.TOO_LARGE)
        shallow = entries_max is not None and _entries(hot.figures) > entries_max
        if hot.seq:
            await self._watermarks.wait(hot.partition, hot.epoch, hot.seq, LEDGER_WAIT_SECONDS)
        recorded = await self._recorded(tree, hot, hot.figures, entries_max, shallow)
        if recorded is None:
            return Comparison(*place, Audited.BEHIND)
        compared = newest_only(hot.figures) if shallow else hot.figures
        found = (*differences(compared, recorded), *contradictions(hot.figures))
        return Comparison(*place, Audited.DRIFTS if found else Audited.AGREES, found)

    async def _recorded(
        self, tree: Name, hot: HotTree, figures: Figures, entries_max: int | None, shallow: bool
    ) -> Figures | None:
        if shallow:
            credits = sorted({figure[:2] for figure in newest_only(figures)})
            return await self._ledger.newest_figures(tree, hot.partition, hot.seq, credits)
        return await self._ledger.tree_figures(
            *(tree, hot.partition, hot.seq, {figure.account for figure in figures}),
            limited=entries_max is not None,
        )


def _entries(figures: Figures) -> int:
    """How many entries stand behind the figures: versions have no gaps."""
    return sum(value for figure, value in figures.items() if figure.name == VERSION)
