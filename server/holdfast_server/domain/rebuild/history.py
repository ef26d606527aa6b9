"""Folds the entries of a tree, transaction by transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.rebuild import accounts, grants, holds, settlements
from holdfast_server.domain.rebuild.state import OffsetsAt, Rebuilt
from holdfast_server.domain.twin.state import Tree
from holdfast_server.domain.zones import offsets_of

Fold = Callable[[Rebuilt, Sequence[Entry]], None]

_FOLDS: Mapping[EntryKind, Fold] = {
    EntryKind.ACCOUNT: accounts.account,
    EntryKind.GRANT: grants.grant,
    EntryKind.GRANT_EFFECTIVE: grants.effective,
    EntryKind.GRANT_EXPIRED: grants.expired,
    EntryKind.REVOKE: grants.revoke,
    EntryKind.REFUND: grants.refund,
    EntryKind.UNENFORCED: grants.unenforced,
    EntryKind.HOLD: holds.hold,
    EntryKind.EXTEND: holds.extend,
    EntryKind.BURN: holds.burn,
    EntryKind.COMMIT: settlements.settle,
    EntryKind.OVERAGE: settlements.settle,
    EntryKind.RELEASE: settlements.settle,
    EntryKind.HOLD_EXPIRED: settlements.expire,
    EntryKind.LATE_COMMIT: settlements.commit_late,
    EntryKind.RECOVERED_COMMIT: settlements.commit_lost,
}


def tell(state: Rebuilt, entries: Iterable[Entry]) -> None:
    """Goes on with entries of this tree, complete and in the order of their numbers."""
    for _, group in groupby(entries, key=lambda entry: entry.first_seq):
        transaction = list(group)
        _FOLDS[transaction[0].kind](state, transaction)
        state.follow(transaction)


def rebuild(
    tenant: str, root: str, entries: Iterable[Entry], offsets_at: OffsetsAt = offsets_of
) -> Rebuilt:
    """The state of a tree after all of its entries, which come in the order of their numbers.

    `offsets_at` answers the offsets that were given to the scripts for a zone at an instant.
    """
    state = Rebuilt(Tree(tenant, root), offsets_at)
    tell(state, entries)
    return state
