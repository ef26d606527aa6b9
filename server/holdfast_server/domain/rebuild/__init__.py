"""The state of a tree from its entries in the ledger: what the scripts would hold of it now.

Entries are facts, so nothing is decided anew: buckets are those after the last entry, grants and
holds what the entries did to them. What entries do not say, what was counted under limits, follows
from them by the rules of `domain.twin`, whose state this builds. Pure: no clock, no stores.
"""

from holdfast_server.domain.rebuild.folding import Folding
from holdfast_server.domain.rebuild.history import rebuild, tell
from holdfast_server.domain.rebuild.snapshot import (
    SNAPSHOT_LAYOUT,
    Follows,
    Snapshot,
    UnusableSnapshot,
    follows,
    restore,
    take,
)
from holdfast_server.domain.rebuild.state import MissingEntries, Rebuilt

__all__ = [
    "SNAPSHOT_LAYOUT",
    "Folding",
    "Follows",
    "MissingEntries",
    "Rebuilt",
    "Snapshot",
    "UnusableSnapshot",
    "follows",
    "rebuild",
    "restore",
    "take",
    "tell",
]
