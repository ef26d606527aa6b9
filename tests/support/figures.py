"""What entries add up to, written plainly: the oracle for the ledger's sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.figures import (
    HELD,
    OPEN,
    OPEN_HOLDS,
    REMAINING,
    VERSION,
    Figure,
    Figures,
    grant_part,
    hold_part,
)
from holdfast_server.domain.reply import BUCKETS


def sums(entries: Sequence[Entry]) -> Figures:
    """The figures of the accounts whose entries these are, in order."""
    found = Counter[Figure]()
    for entry in entries:
        place = entry.account, entry.credit_type
        found[Figure(*place, "", VERSION)] = entry.version
        found.update(
            {
                Figure(*place, "", name): amount
                for name, amount in zip(BUCKETS, entry.delta.as_tuple(), strict=True)
            }
        )
        for posting in entry.grants:
            part = grant_part(posting.grant_id)
            found[Figure(*place, part, REMAINING)] += posting.remaining
            found[Figure(*place, part, HELD)] += posting.held
    for hold in _open_holds(entries):
        _add_hold(found, hold, [entry for entry in entries if entry.hold == hold])
    return found


def _open_holds(entries: Sequence[Entry]) -> set[str]:
    placed = {entry.hold for entry in entries if entry.kind is EntryKind.HOLD}
    return placed - {entry.hold for entry in entries if entry.ends_hold}


def _add_hold(found: Counter[Figure], hold: str, entries: Sequence[Entry]) -> None:
    part, placed_by = hold_part(hold), entries[0].actor
    found[Figure(placed_by, "", part, OPEN)] = 1
    found[Figure(placed_by, "", "", OPEN_HOLDS)] += 1
    for entry in entries:
        found[Figure(entry.account, entry.credit_type, part, HELD)] += entry.delta.held
