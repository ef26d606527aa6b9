"""Reading what is to be done about rebuilt partitions: which trees were in use, and what is due in
them: open holds and grants, found by the entries that placed and gave them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast_server.ledger import rows
from holdfast_server.ledger.database import EVERY_TENANT, Database, fetch_all, fetch_tuples
from holdfast_server.ledger.sql import QUERIES

#: Milliseconds that one search may take.
DUE_MS_MAX: Final = 60_000


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A partition whose hot state began anew, in the epoch `home`, behind a sequence number."""

    partition: int
    home: int
    start_seq: int


@dataclass(frozen=True, slots=True)
class FormerHome:
    """The epoch under whose name a partition's hot state lay that is no longer used."""

    partition: int
    home: int


@dataclass(frozen=True, slots=True)
class EntriesPage:
    """The entries of a partition from one sequence number on that are below another."""

    partition: int
    first_seq: int
    before_seq: int


@dataclass(frozen=True, slots=True)
class DueTree:
    """A tree in which something may be due, and nothing of what was read before `due_ms`."""

    tenant: str
    root: str
    due_ms: int


class Dues(Database):
    """What is due in the trees of all tenants."""

    async def rebuilt(self) -> list[Rebuilt]:
        """The partitions whose hot state has been given up at least once."""
        async with self.reading("") as cursor:
            found = await fetch_all(cursor, QUERIES["rebuilt"])
        return [Rebuilt(row["partition"], row["home"], row["start_seq"]) for row in found]

    async def given_up(self, until_ms: int) -> list[FormerHome]:
        """The homes that were given up until then, of each partition the oldest first."""
        async with self.reading("") as cursor:
            found = await fetch_all(cursor, QUERIES["given_up"], until_ms=until_ms)
        return [FormerHome(row["partition"], row["home"]) for row in found]

    async def active_in(
        self, pages: Sequence[EntriesPage], since_ms: int
    ) -> dict[int, list[tuple[str, str]]]:
        """Tenant and root of the trees that have entries in these pages which are not older than
        that, by partition.
        """
        async with self.reading(EVERY_TENANT, limit_ms=DUE_MS_MAX) as cursor:
            found = await fetch_tuples(
                cursor,
                QUERIES["active_in"],
                partitions=[each.partition for each in pages],
                first_seqs=[each.first_seq for each in pages],
                before_seqs=[each.before_seq for each in pages],
                since_ms=since_ms,
            )
        trees = defaultdict[int, list[tuple[str, str]]](list)
        for partition, tenant, root in found:
            trees[partition].append((tenant, root))
        return trees

    async def due_between(self, partition: int, first_seq: int, before_seq: int) -> list[DueTree]:
        """The trees of holds and grants that some entries of a partition placed or gave, and that
        may not have ended.
        """
        async with self.reading(EVERY_TENANT, limit_ms=DUE_MS_MAX) as cursor:
            found = await fetch_all(
                cursor,
                QUERIES["due_between"],
                partition=partition,
                first_seq=first_seq,
                before_seq=before_seq,
            )
        return [
            DueTree(row["tenant"], row["root"], rows.milliseconds(row["due_at"])) for row in found
        ]
