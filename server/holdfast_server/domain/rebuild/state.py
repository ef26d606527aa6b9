"""What is rebuilt, and what every entry does to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.reply import BUCKETS
from holdfast_server.domain.twin.accounts import Offsets
from holdfast_server.domain.twin.memory import LateHold
from holdfast_server.domain.twin.state import Credit, Tree

#: The offsets of a zone as they were given to the scripts at an instant.
OffsetsAt = Callable[[str, int], Offsets]


@dataclass(slots=True)
class Rebuilt:
    """A tree, and its expired holds that may still be committed, by id."""

    tree: Tree
    offsets_at: OffsetsAt
    late: dict[str, LateHold] = field(default_factory=dict)
    #: How many entries it was told, and where and of when the last one is.
    entries: int = 0
    partition: int = 0
    epoch: int = 0
    seq: int = 0
    event_ms: int = 0

    def follow(self, transaction: Sequence[Entry]) -> None:
        """Notes that it was told a transaction."""
        last = transaction[-1]
        self.entries += len(transaction)
        self.partition, self.epoch, self.seq = last.partition, last.epoch, last.seq
        self.event_ms = last.event_ms


class MissingEntries(Exception):
    """Entries do not follow each other: some between them were not told."""


def post(tree: Tree, entry: Entry) -> Credit:
    """Takes over the buckets after an entry and what it did to grants that are effective."""
    credit = tree.accounts[entry.account].credit(entry.credit_type)
    check_version(entry, credit.version)
    credit.version = entry.version
    credit.buckets = dict(zip(BUCKETS, entry.after.as_tuple(), strict=True))
    for posting in entry.grants:
        grant = credit.find(posting.grant_id)
        if grant is not None:
            grant.remaining += posting.remaining
            grant.held += posting.held
            credit.forget(grant)
    return credit


def check_version(entry: Entry, before: int) -> None:
    """Versions have no gaps. Raises `MissingEntries` where one shows."""
    if entry.version != before + 1:
        raise MissingEntries(f"version {entry.version} at {entry.seq} follows {before}")


def detail_of(transaction: Sequence[Entry]) -> dict[str, Any]:
    """What the request said beyond what its entries say."""
    return dict(transaction[0].context.detail)
