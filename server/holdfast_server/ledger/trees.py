"""Whole trees as the ledger has them at a place of their partition, to be compared with the hot
store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

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
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import (
    EVERY_TENANT,
    READ_MS_MAX,
    Cursor,
    Database,
    fetch_all,
    fetch_one,
)
from holdfast_server.ledger.histories import Name
from holdfast_server.ledger.sql import QUERIES

#: Newest entries of a partition whose trees are named.
NEWEST_ENTRIES: Final = 20

Named = Iterator[tuple[Figure, int]]


class Trees(Database):
    """Trees by tenant and root."""

    async def tree_figures(
        self, tree: Name, partition: int, seq: int, also: Collection[str], *, limited: bool = True
    ) -> Figures | None:
        """The sums of all entries of a tree up to `seq`; None while the ledger is not there yet.

        `also` names accounts that are looked at even if the ledger does not count them in. Takes as
        long as there are entries; with `limited`, LEDGER_UNAVAILABLE after a while.
        """
        tenant, root = tree
        async with self.reading(tenant, limit_ms=READ_MS_MAX if limited else 0) as cursor:
            if not await _reaches(cursor, partition, seq):
                return None
            found = await fetch_all(cursor, QUERIES["tree_accounts"], tenant=tenant, root=root)
            accounts = sorted({row["account"] for row in found} | set(also))
            which = {"tenant": tenant, "accounts": accounts, "partition": partition, "seq": seq}
            sums = await fetch_all(cursor, QUERIES["tree_sums"], **which)
            grants = await fetch_all(cursor, QUERIES["tree_grants"], **which)
            holds = await fetch_all(cursor, QUERIES["tree_holds"], **which)
        return dict([*_credits(sums), *_grants(grants), *_holds(holds)])

    async def newest_figures(
        self, tree: Name, partition: int, seq: int, credits: Collection[tuple[str, str]]
    ) -> Figures | None:
        """What the newest entries of some credits (account, credit type) up to `seq` say."""
        tenant, _ = tree
        async with self.reading(tenant) as cursor:
            if not await _reaches(cursor, partition, seq):
                return None
            found = await fetch_all(
                cursor,
                QUERIES["tree_newest"],
                tenant=tenant,
                accounts=[account for account, _ in credits],
                credit_types=[credit_type for _, credit_type in credits],
                seq=seq,
            )
        return dict(_credits(found))

    async def list_roots(self, after: Name, limit: int) -> list[Name]:
        """A page of all trees, in order."""
        async with self.reading(EVERY_TENANT) as cursor:
            found = await fetch_all(
                cursor, QUERIES["roots"], after_tenant=after[0], after_root=after[1], limit=limit
            )
        return [(row["tenant"], row["root"]) for row in found]

    async def count_roots(self) -> int:
        """How many trees there are."""
        async with self.reading(EVERY_TENANT, limit_ms=0) as cursor:
            row = await fetch_one(cursor, QUERIES["count_roots"])
        return int(row["trees"]) if row else 0

    async def newest_roots(self, partition: int) -> list[Name]:
        """The trees in which something happened last."""
        async with self.reading(EVERY_TENANT) as cursor:
            found = await fetch_all(
                cursor, QUERIES["newest_roots"], partition=partition, limit=NEWEST_ENTRIES
            )
        return [(row["tenant"], row["root"]) for row in found]


async def _reaches(cursor: Cursor, partition: int, seq: int) -> bool:
    row = await fetch_one(cursor, QUERIES["recorded_seq"], partition=partition)
    return row is not None and row["last_seq"] >= seq


def _credits(found: Iterable[rows.Row]) -> Named:
    for row in found:
        place = row["account"], row["credit_type"], ""
        yield Figure(*place, VERSION), row["version"]
        if row["credit_type"]:
            yield from ((Figure(*place, name), row[name]) for name in BUCKETS)


def _grants(found: Iterable[rows.Row]) -> Named:
    for row in found:
        place = row["account"], row["credit_type"], grant_part(row["grant_id"].hex)
        yield Figure(*place, REMAINING), row["remaining"]
        yield Figure(*place, HELD), row["held"]


def _holds(found: Iterable[rows.Row]) -> Named:
    placed = dict[str, set[str]]()
    for row in found:
        part = hold_part(row["hold"].hex)
        yield Figure(row["placed_by"], "", part, OPEN), 1
        yield Figure(row["account"], row["credit_type"], part, HELD), row["held"]
        placed.setdefault(row["placed_by"], set()).add(part)
    for account, holds in placed.items():
        yield Figure(account, "", "", OPEN_HOLDS), len(holds)
