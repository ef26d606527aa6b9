"""How far the flusher is: what is recorded, what is under way, and where it cannot go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from holdfast_server.engine.outbox import Positions
from holdfast_server.flusher.continuity import Continuity
from holdfast_server.flusher.events import Halt
from holdfast_server.ledger.prepare import PartitionCursor, Prepared


@dataclass(slots=True)
class Progress:
    """While one batch is written, the next is read and prepared behind it, as if all went well."""

    #: What the ledger has.
    recorded: dict[int, PartitionCursor] = field(default_factory=dict)
    #: What it will have once all that is under way is recorded.
    ahead: dict[int, PartitionCursor] = field(default_factory=dict)
    #: The bytes of the entry at `ahead`, where they are known.
    last_raws: dict[int, bytes] = field(default_factory=dict)
    halted: dict[int, Halt] = field(default_factory=dict)
    continuity: Continuity = field(default_factory=Continuity)

    def load(self, cursors: Mapping[int, PartitionCursor]) -> None:
        """Starts from what the ledger says. Somebody else may have written to it meanwhile."""
        self.recorded = dict(cursors)
        self.halted = {}
        self.retreat()

    def advance(self, prepared: Prepared, last_raw: bytes) -> None:
        """One more part is under way."""
        self.ahead[prepared.after.partition] = prepared.after
        self.last_raws[prepared.after.partition] = last_raw

    def record(self, batches: Iterable[Prepared]) -> None:
        """The ledger has these."""
        self.recorded.update({batch.after.partition: batch.after for batch in batches})

    def retreat(self) -> None:
        """What is under way will not all be recorded: back to what is."""
        self.ahead = dict(self.recorded)
        self.last_raws = {}
        self.continuity = Continuity()

    def positions(self, cursors: Mapping[int, PartitionCursor]) -> Positions:
        """Places in the outbox, without the partitions that have halted."""
        return {
            partition: (cursor.epoch, cursor.seq)
            for partition, cursor in cursors.items()
            if partition not in self.halted
        }
