"""Reading the history of whole trees: what the hot store is rebuilt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast_server.domain.entry import Entry
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import EVERY_TENANT, Cursor, Database, fetch_tuples
from holdfast_server.ledger.sql import QUERIES

#: Entries that are read at once. Whoever asks for trees that have more asks for fewer of them.
HISTORY_ENTRIES_MAX: Final = 500_000
#: Milliseconds that such a read may take.
HISTORY_MS_MAX: Final = 60_000

#: Tenant, and an account or a root.
Name = tuple[str, str]


class HistoryTooLong(HoldfastError):
    """Trees have more entries together than are read at once; fewer of them may not."""

    def __init__(self) -> None:
        message = "the history of these accounts is too long to be read at once; ask for fewer"
        super().__init__(Reason.LEDGER_UNAVAILABLE, message)


@dataclass(frozen=True, slots=True)
class TreesRead:
    """Everything of one instant."""

    #: Epoch and last sequence number of each partition.
    cursors: Mapping[int, tuple[int, int]]
    #: The root of each account that exists, of those that were asked for.
    roots: Mapping[Name, str]
    #: All entries of their trees, by tenant and root, in order.
    entries: Mapping[Name, Sequence[Entry]]


class Histories(Database):
    """The trees of all tenants."""

    async def read_trees(self, names: Sequence[Name]) -> TreesRead:
        """The trees that the named accounts belong to, and how far all partitions are.

        Raises LEDGER_UNAVAILABLE, and `HistoryTooLong` where there are more entries than can be
        read at once.
        """
        async with self.reading(EVERY_TENANT, limit_ms=HISTORY_MS_MAX) as cursor:
            found = await fetch_tuples(cursor, QUERIES["cursors_now"])
            cursors = {partition: (epoch, last_seq) for partition, epoch, last_seq in found}
            roots = await _roots(cursor, names)
            trees = sorted({(tenant, root) for (tenant, _), root in roots.items()})
            entries = await _entries(cursor, trees)
        return TreesRead(cursors, roots, entries)


async def _roots(cursor: Cursor, names: Sequence[Name]) -> dict[Name, str]:
    tenants, accounts = _columns(names)
    found = await fetch_tuples(cursor, QUERIES["roots_of"], tenants=tenants, accounts=accounts)
    return {(tenant, account): root for tenant, account, root in found}


async def _entries(cursor: Cursor, trees: Sequence[Name]) -> dict[Name, list[Entry]]:
    tenants, roots = _columns(trees)
    found = await fetch_tuples(
        cursor,
        QUERIES["entries_of_trees"],
        tenants=tenants,
        roots=roots,
        limit=HISTORY_ENTRIES_MAX,
    )
    if len(found) == HISTORY_ENTRIES_MAX:
        raise HistoryTooLong
    entries: dict[Name, list[Entry]] = {name: [] for name in trees}
    for root, *told in found:
        entry = rows.told_entry(told)
        entries[entry.tenant, root].append(entry)
    return entries


def _columns(names: Sequence[Name]) -> tuple[list[str], list[str]]:
    return [tenant for tenant, _ in names], [account for _, account in names]
