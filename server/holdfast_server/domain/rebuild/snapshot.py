"""A tree up to one of its entries, to be kept: so that nobody has to fold what came before again.

A snapshot is a pure function of the entries up to its place. It may be lost, and it may be wrong:
its digest shows what became of it since it was taken, folding the same entries again whether it was
right. It begins and ends between two transactions.
"""

from __future__ import annotations

import hashlib
import json
from enum import Enum
from typing import Final

from holdfast_server.domain.entry import canonical_json
from holdfast_server.domain.rebuild.encoding import rebuilt_of, state_of
from holdfast_server.domain.rebuild.state import OffsetsAt, Rebuilt
from holdfast_server.domain.value import value
from holdfast_server.domain.zones import offsets_of

#: What a snapshot means. It rises with every change of `encoding.py` and of what it encodes, and
#: with every change of the fold itself that gives another state for the same entries.
SNAPSHOT_LAYOUT: Final = 2


class UnusableSnapshot(Exception):
    """No tree can be made of it."""


class Follows(Enum):
    """Whether a snapshot follows from its entries."""

    YES = 0
    NO = 1
    #: It did when it was taken. The rules of a time zone have changed since, and with them what
    #: an entry says of days to come.
    OUTDATED = 2


@value(frozen=True, slots=True)
class Snapshot:
    """The state of a tree after `entries` entries, of which the last stands at `seq`."""

    tenant: str
    root: str
    partition: int
    epoch: int
    seq: int
    event_ms: int
    entries: int
    layout: int
    state: bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 over all of it."""
        place = [self.tenant, self.root, self.partition, self.epoch, self.seq]
        head = canonical_json([*place, self.event_ms, self.entries, self.layout])
        return hashlib.sha256(head + self.state).digest()


def take(rebuilt: Rebuilt) -> Snapshot:
    """The snapshot of a tree that was told at least one entry, and none that is half a story."""
    assert rebuilt.entries
    return Snapshot(
        rebuilt.tree.tenant,
        rebuilt.tree.root,
        rebuilt.partition,
        rebuilt.epoch,
        rebuilt.seq,
        rebuilt.event_ms,
        rebuilt.entries,
        SNAPSHOT_LAYOUT,
        canonical_json(state_of(rebuilt)),
    )


def restore(snapshot: Snapshot, digest: bytes, offsets_at: OffsetsAt = offsets_of) -> Rebuilt:
    """The tree as it was when the snapshot was taken, for which its digest vouches.

    Raises `UnusableSnapshot` for one that is of another layout, or not what it was.
    """
    if snapshot.layout != SNAPSHOT_LAYOUT:
        raise UnusableSnapshot(f"its layout is {snapshot.layout}, not {SNAPSHOT_LAYOUT}")
    if snapshot.digest != digest:
        raise UnusableSnapshot("it is not what it was when it was taken")
    try:
        state = json.loads(snapshot.state)
        rebuilt = rebuilt_of(snapshot.tenant, snapshot.root, state, offsets_at)
    except (ValueError, TypeError, KeyError) as error:
        raise UnusableSnapshot(f"it cannot be read: {error}") from error
    rebuilt.partition, rebuilt.epoch, rebuilt.seq = (
        snapshot.partition,
        snapshot.epoch,
        snapshot.seq,
    )
    rebuilt.event_ms, rebuilt.entries = snapshot.event_ms, snapshot.entries
    return rebuilt


def follows(snapshot: Snapshot, digest: bytes, rebuilt: Rebuilt) -> Follows:
    """Holds a snapshot against the tree that its entries gave, from the first one on."""
    if rebuilt.entries and take(rebuilt) == snapshot and snapshot.digest == digest:
        return Follows.YES
    try:
        kept = restore(snapshot, digest)
    except UnusableSnapshot:
        return Follows.NO
    return Follows.NO if _offsets(kept) == _offsets(rebuilt) else Follows.OUTDATED


def _offsets(rebuilt: Rebuilt) -> list[object]:
    return [(state.account, state.offsets) for state in rebuilt.tree.accounts.values()]
