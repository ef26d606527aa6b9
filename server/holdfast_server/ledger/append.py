"""The one way into the ledger: batches of entries, each in one transaction with its cursors.

In the transaction, the cursors come first: they are set only if they are where the flusher believes
they are, so that of two flushers one fails before it has written anything. Then rows are copied,
plainly: a row that exists already is a fork of history, and never skipped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

from psycopg import AsyncConnection, errors, sql
from psycopg.rows import dict_row

from holdfast_server import failpoint
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger import encoding
from holdfast_server.ledger.database import (
    FLUSHER_ROLE,
    Connection,
    Cursor,
    begin_session,
    connection_text,
    fetch_all,
    fetch_one,
    translated,
)
from holdfast_server.ledger.prepare import (
    EXPLANATION_CHARACTERS_MAX,
    EntriesRefused,
    Fault,
    PartitionCursor,
    Prepared,
)
from holdfast_server.ledger.projection import NOTHING, write
from holdfast_server.ledger.sql import QUERIES

#: Milliseconds that a session may be silent, in a transaction or not, before Postgres ends it. A
#: flusher that was stopped or cut off loses the lead then; one that lives speaks more often.
SILENT_MS_MAX: Final = 15_000
#: Where in Postgres a commit warns that somebody made it stop waiting for its standby: it is done
#: here, and nobody knows about there. The warning has no code of its own, and its text a language.
STANDBY_NOT_REACHED: Final = "SyncRepWaitForLSN"
#: Months whose tables are made ahead of time. The transaction that needs one makes it if it must.
MONTHS_AHEAD: Final = 2


class CursorsMoved(Exception):
    """Another flusher has appended, or an epoch has begun: read the cursors again."""


@dataclass(frozen=True, slots=True)
class QuarantinedEntry:
    """An entry that could not be recorded, as it was found in the outbox."""

    partition: int
    epoch: int
    seq: int
    raw: bytes
    fault: str
    explanation: str


class Appender:
    """One connection that appends. After any error it is closed, and the next call opens another.

    Every method raises LEDGER_UNAVAILABLE where Postgres cannot be reached or has no space left.
    """

    def __init__(self, postgres_url: str) -> None:
        self._url = connection_text(postgres_url, "flusher")
        self._connection: Connection | None = None
        #: Whether Postgres stopped waiting for the standby that a commit must reach.
        self._is_in_doubt = False

    async def lead(self) -> bool:
        """Whether this is the one appender that may work; it stays so until its connection ends.

        That keeps several flushers from getting in each other's way. What keeps them from doing
        harm is the comparison of cursors.
        """
        async with self._working() as cursor:
            row = await fetch_one(cursor, QUERIES["try_to_lead"])
        return bool(row and row["leading"])

    async def cursors(self) -> dict[int, PartitionCursor]:
        """How far the ledger is in every partition, on its standby, too, where it must have one."""
        async with self._working() as cursor:
            await cursor.execute(QUERIES["leave_a_mark"])
            found = await fetch_all(cursor, QUERIES["flush_cursors"])
        await self._confirm()
        return {row["partition"]: PartitionCursor(**row) for row in found}

    async def ensure_partitions(self) -> None:
        """Makes the tables of this month and the next ones, so that no batch has to."""
        async with self._working() as cursor:
            await cursor.execute(QUERIES["ensure_entry_partitions"], {"months_ahead": MONTHS_AHEAD})

    async def append(self, batches: Sequence[Prepared]) -> None:
        """Records all of the batches or nothing. Raises `CursorsMoved` and `EntriesRefused`."""
        async with self._working() as cursor:
            with _refused():
                await _write(batches, cursor)
        failpoint.hit("flusher.after_commit")
        await self._confirm()

    async def quarantine(self, entry: QuarantinedEntry) -> None:
        """Keeps what could not be recorded, as it was found. The same once more changes nothing."""
        async with self._working() as cursor:
            await cursor.execute(QUERIES["quarantine"], asdict(entry))

    def _notice(self, notice: errors.Diagnostic) -> None:
        self._is_in_doubt = self._is_in_doubt or notice.source_function == STANDBY_NOT_REACHED

    async def _confirm(self) -> None:
        """Raises when what was committed is here, but perhaps not on the standby."""
        if self._is_in_doubt:
            self._is_in_doubt = False
            await self.close()
            message = "the ledger's standby was not waited for; retry later"
            raise HoldfastError(Reason.LEDGER_UNAVAILABLE, message)

    async def close(self) -> None:
        """Ends the connection, and with it the lead."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[Cursor]:
        try:
            with translated():
                connection = await self._connected()
                async with connection.transaction(), connection.cursor() as cursor:
                    yield cursor
        except (CursorsMoved, EntriesRefused):
            raise
        except BaseException:
            await self.close()
            raise

    async def _connected(self) -> Connection:
        if self._connection is None:
            connection = await AsyncConnection.connect(
                self._url, autocommit=True, row_factory=dict_row
            )
            connection.add_notice_handler(self._notice)
            await begin_session(connection, FLUSHER_ROLE)
            await connection.execute(QUERIES["limit_silence"], {"limit": str(SILENT_MS_MAX)})
            self._connection = connection
        return self._connection


async def _write(batches: Sequence[Prepared], cursor: Cursor) -> None:
    table = await _advance_cursors(batches, cursor)
    failpoint.hit("flusher.after_cursor")
    entries = [batch.entries for batch in batches]
    await _copy(cursor, table, encoding.ENTRY_COLUMNS, entries)
    operations = [batch.operations for batch in batches if batch.operations]
    await _copy(cursor, "operation", encoding.OPERATION_COLUMNS, operations)
    for batch in batches:
        if batch.projection is not NOTHING:
            await write(cursor, batch.projection)
    failpoint.hit("flusher.after_rows")
    failpoint.hit("flusher.before_commit")


async def _advance_cursors(batches: Sequence[Prepared], cursor: Cursor) -> str:
    """Answers the table of the month in which the rows of this transaction are recorded."""
    row = await fetch_one(
        cursor,
        QUERIES["advance_cursors"],
        partitions=_array(batch.before.partition for batch in batches),
        epochs=_array(batch.before.epoch for batch in batches),
        seqs=_array(batch.before.seq for batch in batches),
        hashes=b"".join(batch.before.hash for batch in batches),
        new_seqs=_array(batch.after.seq for batch in batches),
        new_hashes=b"".join(batch.after.hash for batch in batches),
        new_event_ms=_array(batch.last_event_ms for batch in batches),
    )
    assert row is not None
    if row["advanced"] != len(batches):
        raise CursorsMoved(f"{len(batches) - row['advanced']} cursors are not where they were")
    table: str = row["entry_table"]
    return table


def _array(numbers: Iterable[int]) -> str:
    """Numbers as Postgres writes an array: the driver takes twenty times as long for a list."""
    return f"{{{','.join(map(str, numbers))}}}"


async def _copy(
    cursor: Cursor, table: str, columns: tuple[str, ...], rows: Sequence[bytes]
) -> None:
    """COPY knows no row security, so entries go straight into the table of their month."""
    if not rows:
        return
    async with cursor.copy(_copy_statement(table, columns)) as copy:
        await copy.write(encoding.copy_block(rows))


@lru_cache(MONTHS_AHEAD)
def _copy_statement(table: str, columns: tuple[str, ...]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        sql.Identifier("holdfast", table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )


@contextmanager
def _refused() -> Iterator[None]:
    """Errors that the entries are to blame for. Everything else is the database's own trouble."""
    try:
        yield
    except errors.UniqueViolation as error:
        raise EntriesRefused(Fault.FORK, _explanation(error)) from error
    except (errors.IntegrityError, errors.DataError) as error:
        raise EntriesRefused(Fault.INVALID, _explanation(error)) from error


def _explanation(error: errors.Error) -> str:
    text = f"{error.diag.constraint_name or error.sqlstate}: {error.diag.message_primary}"
    return text[:EXPLANATION_CHARACTERS_MAX]
