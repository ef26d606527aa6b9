"""What stands beside the entries, and no entry says: rows that somebody has added.

The checks of a partition go from what its entries say to the rows that should say the same. These
go the other way, once for all partitions: the tables have no order by which those of one could be
found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from holdfast_server.ledger.database import Cursor, fetch_all
from holdfast_server.ledger.entries import TRANSACTION_ENTRIES_MAX
from holdfast_server.ledger.records import Violation
from holdfast_server.ledger.rows import Row
from holdfast_server.ledger.sql import QUERIES


async def additions(
    cursor: Cursor, partitions: Sequence[int] | None, maximum: int
) -> AsyncIterator[Violation]:
    """Rows that follow from no entry, so many of each table at most. None means any partition,
    also those that there are not.
    """
    wanted: dict[str, object] = {
        "partitions": list(partitions) if partitions else None,
        "limit": maximum,
    }
    for row in await fetch_all(cursor, QUERIES["operations_of_nothing"], **wanted):
        name = f"the operation {row['method']} {row['name']} of {row['tenant']}"
        message = f"{name} is of no entry: what has this key was not applied"
        yield Violation("key", row["partition"], row["seq"], message)
    wanted["transaction_max"] = TRANSACTION_ENTRIES_MAX
    for row in await fetch_all(cursor, QUERIES["grants_of_nothing"], **wanted):
        yield _terms("grant", row)
    for row in await fetch_all(cursor, QUERIES["accounts_of_nothing"], **wanted):
        yield _terms("account", row)


def _terms(table: str, row: Row) -> Violation:
    message = f"the terms of {table} {row['name']} of {row['tenant']} are of no entry"
    return Violation("terms", row["partition"], row["seq"], message)
