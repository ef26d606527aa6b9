"""Reading whole trees: what the hot store is rebuilt from.

A tree is its snapshot and the entries behind it, or all of its entries where it has no snapshot
that can be used. Entries are told page by page, so that a history may have any length.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Final, LiteralString

from psycopg import AsyncServerCursor, errors
from psycopg.rows import TupleRow, tuple_row

from holdfast_server.domain.rebuild import (
    Folding,
    Rebuilt,
    UnusableSnapshot,
    restore,
)
from holdfast_server.domain.twin.state import Tree
from holdfast_server.domain.zones import offsets_of
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import (
    EVERY_TENANT,
    Cursor,
    Database,
    fetch_all,
    fetch_tuples,
)
from holdfast_server.ledger.snapshots import Kept, kept_snapshot
from holdfast_server.ledger.sql import QUERIES

#: Entries of one page: they are in memory together, and told without a pause.
PAGE_ENTRIES: Final = 2_000
#: Milliseconds until a page must be there; the first one is sorted out of all that follow.
PAGE_MS_MAX: Final = 60_000
#: Behind every sequence number, and more than every count.
NO_END: Final = 2**63 - 1

#: Tenant, and an account or a root.
Name = tuple[str, str]


class HistoryTooLong(HoldfastError):
    """A page of trees that were read together did not come in time; of fewer it may."""

    def __init__(self) -> None:
        message = "the history of these accounts is too long to be read at once; ask for fewer"
        super().__init__(Reason.LEDGER_UNAVAILABLE, message)


@dataclass(frozen=True, slots=True)
class TreeRead:
    """A tree as the ledger has it."""

    rebuilt: Rebuilt
    #: How many entries were read for it: all of them, or those behind its snapshot.
    entries: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A snapshot that was not used, and why."""

    kept: Kept
    why: str


@dataclass(frozen=True, slots=True)
class TreesRead:
    """Everything of one instant."""

    #: Epoch and last sequence number of each partition.
    cursors: Mapping[int, tuple[int, int]]
    #: The root of each account that exists, of those that were asked for.
    roots: Mapping[Name, str]
    #: Their trees, by tenant and root.
    trees: Mapping[Name, TreeRead]
    refused: Sequence[Refused] = ()


@dataclass(frozen=True, slots=True)
class Begun:
    """A tree of which nothing was told yet but its snapshot, if that could be used."""

    rebuilt: Rebuilt
    kept: Kept | None
    refused: Sequence[Refused]


@dataclass(slots=True)
class _Reading:
    """Trees that are read in one transaction."""

    cursor: Cursor
    foldings: dict[Name, Folding] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)

    async def read(self, trees: Sequence[Name]) -> None:
        """Tells everything of these trees. Raises what keeps one from being a tree."""
        kept = await self.restored(trees)
        await self._from_the_first([tree for tree in trees if tree not in kept])
        if kept:
            await self._behind(list(kept.values()))
            await self._from_the_first(self._unfit(kept))
        for folding in self.foldings.values():
            if folding.fault is not None:
                raise folding.fault

    def found(self) -> dict[Name, TreeRead]:
        """What they are."""
        return {tree: TreeRead(each.state, each.told) for tree, each in self.foldings.items()}

    async def restored(self, trees: Sequence[Name]) -> dict[Name, Kept]:
        """The snapshots that can be used; their trees go on from there."""
        tenants, roots = _columns(trees)
        found = await fetch_all(self.cursor, QUERIES["snapshots_of"], tenants=tenants, roots=roots)
        usable = dict[Name, Kept]()
        for row in found:
            kept = kept_snapshot(row)
            try:
                self.foldings[kept.tree] = Folding(_restore(kept, is_recorded=row["is_recorded"]))
                usable[kept.tree] = kept
            except UnusableSnapshot as error:
                self.refused.append(Refused(kept, str(error)))
            # A large one takes a while: others get their turn.
            await asyncio.sleep(0)
        return usable

    def _unfit(self, kept: Mapping[Name, Kept]) -> list[Name]:
        """The trees whose snapshots do not go together with what follows them."""
        unfit = [tree for tree in kept if self.foldings[tree].fault is not None]
        for tree in unfit:
            why = f"the entries behind it do not follow from it: {self.foldings[tree].fault!r}"
            self.refused.append(Refused(kept[tree], why))
        return unfit

    async def _from_the_first(self, trees: Sequence[Name]) -> None:
        if not trees:
            return
        self.foldings |= {tree: _unborn(tree) for tree in trees}
        tenants, roots = _columns(trees)
        places = {"tenants": tenants, "roots": roots}
        await self._tell(trees, QUERIES["entries_of_trees"], places)

    async def _behind(self, kept: Sequence[Kept]) -> None:
        trees = [each.tree for each in kept]
        places = [(each.snapshot.seq, each.snapshot.event_ms) for each in kept]
        await self._tell(
            trees, QUERIES["entries_behind"], _behind(trees, places, NO_END, limit=NO_END)
        )

    async def _tell(
        self, trees: Sequence[Name], query: LiteralString, parameters: Mapping[str, object]
    ) -> None:
        """Tree by tree, as they come: of one that is told, no entries are in memory."""
        told: Folding | None = None
        async with aclosing(_fetched(self.cursor, query, parameters)) as pages:
            async for page in pages:
                for number, group in groupby(page, key=itemgetter(0)):
                    folding = self.foldings[trees[number - 1]]
                    if told is not None and told is not folding:
                        told.finish()
                    told = folding
                    folding.add([rows.told_entry(row[1:]) for row in group])
                # Telling a page takes a while, too.
                await asyncio.sleep(0)
        if told is not None:
            told.finish()


def _unborn(tree: Name) -> Folding:
    return Folding(Rebuilt(Tree(*tree), offsets_of))


def _restore(kept: Kept, *, is_recorded: bool) -> Rebuilt:
    if not is_recorded:
        raise UnusableSnapshot("the ledger does not have the entry it ends with")
    return restore(kept.snapshot, kept.sha256)


class Histories(Database):
    """The trees of all tenants."""

    async def read_trees(self, names: Sequence[Name]) -> TreesRead:
        """The trees that the named accounts belong to, and how far all partitions are.

        Raises LEDGER_UNAVAILABLE, and `HistoryTooLong` where fewer trees may be read in time.
        """
        async with self.reading(EVERY_TENANT, limit_ms=PAGE_MS_MAX) as cursor:
            await cursor.execute(QUERIES["prefer_indexes"])
            found = await fetch_tuples(cursor, QUERIES["cursors_now"])
            cursors = {partition: (epoch, last_seq) for partition, epoch, last_seq in found}
            roots = await _roots(cursor, names)
            trees = sorted({(tenant, root) for (tenant, _), root in roots.items()})
            reading = _Reading(cursor)
            await reading.read(trees)
            return TreesRead(cursors, roots, reading.found(), reading.refused)

    async def begin_tree(self, tree: Name) -> Begun:
        """A tree as its snapshot has it, or before its first entry. Raises LEDGER_UNAVAILABLE."""
        async with self.reading(EVERY_TENANT) as cursor:
            reading = _Reading(cursor)
            kept = (await reading.restored([tree])).get(tree)
        folding = reading.foldings[tree] if kept else _unborn(tree)
        return Begun(folding.state, kept, reading.refused)

    async def go_on(self, rebuilt: Rebuilt, limit: int, until: int = NO_END) -> bool:
        """Tells a tree what comes next, in so many entries at most, and answers whether that was
        all there is, up to an entry with which a transaction ends.

        Where that is not given, more may come of the last transaction, which is not told. Raises
        LEDGER_UNAVAILABLE, and what keeps the entries from being a tree.
        """
        tree, folding = (rebuilt.tree.tenant, rebuilt.tree.root), Folding(rebuilt)
        place = [(rebuilt.seq, rebuilt.event_ms)]
        async with self.reading(EVERY_TENANT, limit_ms=PAGE_MS_MAX) as cursor:
            found = await fetch_tuples(
                cursor, QUERIES["entries_behind"], **_behind([tree], place, until, limit=limit)
            )
        for first in range(0, len(found), PAGE_ENTRIES):
            some = found[first : first + PAGE_ENTRIES]
            folding.add([rows.told_entry(row[1:]) for row in some])
            await asyncio.sleep(0)
        is_all = len(found) < limit
        if is_all and until != NO_END:
            folding.finish()
        else:
            folding.settle()
        if folding.fault is not None:
            raise folding.fault
        return is_all


async def snapshot_of(cursor: Cursor, tree: Name) -> Rebuilt | None:
    """A tree as its snapshot has it, inside a transaction that is already open; None where it has
    none that can be used.
    """
    reading = _Reading(cursor)
    return reading.foldings[tree].state if tree in await reading.restored([tree]) else None


async def _roots(cursor: Cursor, names: Sequence[Name]) -> dict[Name, str]:
    tenants, accounts = _columns(names)
    found = await fetch_tuples(cursor, QUERIES["roots_of"], tenants=tenants, accounts=accounts)
    return {(tenant, account): root for tenant, account, root in found}


async def _fetched(
    cursor: Cursor, query: LiteralString, parameters: Mapping[str, object]
) -> AsyncGenerator[list[TupleRow], None]:
    """The rows of a query, page by page, while the transaction lasts."""
    pages = AsyncServerCursor(cursor.connection, "history", row_factory=tuple_row)
    async with pages:
        try:
            await pages.execute(query, parameters, binary=True)
            while page := await pages.fetchmany(PAGE_ENTRIES):
                yield page
        except errors.QueryCanceled as error:
            raise HistoryTooLong from error


def _behind(
    trees: Sequence[Name], places: Sequence[tuple[int, int]], until: int, *, limit: int
) -> dict[str, object]:
    """What is wanted behind places of trees, by number and time."""
    tenants, roots = _columns(trees)
    return {
        "tenants": tenants,
        "roots": roots,
        "seqs": [seq for seq, _ in places],
        "times_ms": [time_ms for _, time_ms in places],
        "until": until,
        "limit": limit,
    }


def _columns(names: Sequence[Name]) -> tuple[list[str], list[str]]:
    return [tenant for tenant, _ in names], [account for _, account in names]
