"""Whether the hot store still has the history that was flushed.

A store that restarted or failed over may have lost entries that the ledger has, and then used
their sequence numbers again. The last entry that was flushed stays in the outbox to tell.
"""

from __future__ import annotations

from holdfast_server.domain.columns import chain_hash, columns
from holdfast_server.domain.entry import GENESIS_HASH
from holdfast_server.domain.packed import MALFORMED
from holdfast_server.engine.outbox import OutboxEntry, OutboxEntryError, OutboxState, unpack
from holdfast_server.flusher.obstacle import Obstacle
from holdfast_server.ledger.prepare import Fault, PartitionCursor


def obstacle(cursor: PartitionCursor, state: OutboxState) -> Obstacle | None:
    """What keeps the flusher from going on from the cursor, or None."""
    if not cursor.has_begun:
        return None
    if state.last is None or state.last < (cursor.epoch, cursor.seq):
        place = OutboxEntry(cursor.partition, cursor.epoch, cursor.seq, b"")
        explanation = f"the ledger has {cursor.seq}, the outbox ends at {state.last}"
        return Obstacle(place, Fault.REGRESSED, explanation)
    return None if state.entry is None else contradiction(cursor, state.entry)


def contradiction(cursor: PartitionCursor, found: OutboxEntry) -> Obstacle | None:
    """An obstacle where the entry found at the cursor is not the one that was recorded there."""
    try:
        hashed = columns(unpack(found))
        recorded = chain_hash(cursor.hash_before or GENESIS_HASH, hashed) == cursor.hash
    except (OutboxEntryError, *MALFORMED):
        recorded = False
    explanation = "the last entry that was recorded is another one in the outbox"
    return None if recorded else Obstacle(found, Fault.FORK, explanation)
