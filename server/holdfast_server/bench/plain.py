"""The floor of the flusher: plain COPYs of rows that the ledger has, into a table with nothing else
than their columns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from holdfast_server.bench.rounds import Done
from holdfast_server.flusher.flusher import BATCH_ENTRIES_MAX
from holdfast_server.ledger import encoding

#: What stands before the first row of a binary COPY, and behind the last.
HEADER_BYTES: Final = 19
TRAILER_BYTES: Final = 2
#: Columns of JSON, which are to be read and written as what it is to a binary COPY: text.
JSON_COLUMNS: Final = frozenset({"labels", "detail"})

_NAMES: Final = sql.SQL(", ").join(map(sql.Identifier, encoding.ENTRY_COLUMNS))
_VALUES: Final = sql.SQL(", ").join(
    sql.SQL("{}::text" if name in JSON_COLUMNS else "{}").format(sql.Identifier(name))
    for name in encoding.ENTRY_COLUMNS
)
_COPY: Final = sql.SQL("COPY plain ({}) FROM STDIN (FORMAT binary)").format(_NAMES)


@asynccontextmanager
async def plain_table(postgres_url: str) -> AsyncIterator[Plain]:
    """A table for as long as a benchmark runs, and the one connection that uses it."""
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE plain (LIKE holdfast.entry INCLUDING DEFAULTS)")
        yield Plain(connection)
        await connection.execute("DROP TABLE plain")


class Plain:
    """Copies what it took, in transactions as large as the flusher's."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection
        self._types: list[int] = []
        self._rows: list[tuple[Any, ...]] = []
        self._bytes: list[bytes] = []

    async def take(self, count: int) -> None:
        """Empties the table, and reads the rows that were recorded last: as values, and as a binary
        COPY has them.
        """
        await self._connection.execute("TRUNCATE plain")
        cursor = await self._connection.execute(_newest(_VALUES, count))
        assert cursor.description is not None
        self._types = [column.type_code for column in cursor.description]
        self._rows = await cursor.fetchall()
        copied = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(_newest(_NAMES, count))
        async with self._connection.cursor() as reading, reading.copy(copied) as copy:
            first, *rows, trailer = [bytes(block) async for block in copy]
        assert len(trailer) == TRAILER_BYTES
        self._bytes = [first[HEADER_BYTES:], *rows]

    async def copy_rows(self) -> Done:
        """As the driver copies rows that a process has as values, in the faster of its formats."""
        for first in range(0, len(self._rows), BATCH_ENTRIES_MAX):
            async with self._connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.set_types(self._types)
                for row in self._rows[first : first + BATCH_ENTRIES_MAX]:
                    await copy.write_row(row)
        return Done(len(self._rows))

    async def copy_bytes(self) -> Done:
        """The same, where nothing has to be made of any value: what no flusher could do."""
        for first in range(0, len(self._bytes), BATCH_ENTRIES_MAX):
            async with self._connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                some = self._bytes[first : first + BATCH_ENTRIES_MAX]
                await copy.write(encoding.copy_block(some))
        return Done(len(self._bytes))


def _newest(columns: sql.Composed, count: int) -> sql.Composed:
    query = "SELECT {} FROM holdfast.entry ORDER BY recorded_at DESC LIMIT {}"
    return sql.SQL(query).format(columns, sql.Literal(count))
