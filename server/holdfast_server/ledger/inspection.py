"""What `holdfast doctor` reads from Postgres. It changes nothing and needs no schema."""

from __future__ import annotations

import time
from dataclasses import dataclass

from psycopg import AsyncConnection
from psycopg.rows import class_row, tuple_row

from holdfast_server.ledger.database import connection_text, translated
from holdfast_server.ledger.migrate import pending
from holdfast_server.ledger.sql import read_sql


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of inspect.sql."""

    version_number: int
    version: str
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    connections_max: int
    connections: int
    in_recovery: bool
    superuser: bool
    roles: list[str]
    rewritten: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """What there is to know about the database before it is trusted."""

    version_number: int
    version: str
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    connections_max: int
    connections: int
    in_recovery: bool
    superuser: bool
    #: Those of the schema's roles that exist and that this user may step down to.
    roles: frozenset[str]
    #: How far its clock is ahead of ours, to about half a round trip.
    clock_ahead_ms: int
    #: Names of migrations that are missing.
    pending: tuple[str, ...]
    #: 0 where no deployment has started yet.
    partitions: int
    quarantined: int
    #: Rows that never change and were changed or deleted all the same.
    rewritten: int


async def inspect_ledger(postgres_url: str) -> LedgerFacts:
    """Raises LEDGER_UNAVAILABLE."""
    missing = await pending(postgres_url)
    with translated():
        url = connection_text(postgres_url, "doctor")
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            row, clock_ahead_ms = await _row(connection)
            partitions, quarantined = (0, 0) if missing else await _deployment(connection)
    return LedgerFacts(
        version_number=row.version_number,
        version=row.version,
        fsync=row.fsync == "on",
        full_page_writes=row.full_page_writes == "on",
        synchronous_commit=row.synchronous_commit,
        connections_max=row.connections_max,
        connections=row.connections,
        in_recovery=row.in_recovery,
        superuser=row.superuser,
        roles=frozenset(row.roles),
        clock_ahead_ms=clock_ahead_ms,
        pending=tuple(missing),
        partitions=partitions,
        quarantined=quarantined,
        rewritten=row.rewritten,
    )


async def _row(connection: AsyncConnection) -> tuple[_Row, int]:
    async with connection.cursor(row_factory=class_row(_Row)) as cursor:
        before_ms = time.time() * 1000
        await cursor.execute(read_sql("inspect.sql"))
        row = await cursor.fetchone()
        after_ms = time.time() * 1000
    assert row is not None
    return row, round(row.now_ms - (before_ms + after_ms) / 2)


async def _deployment(connection: AsyncConnection) -> tuple[int, int]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(
            "SELECT coalesce((SELECT partitions FROM holdfast.deployment), 0), "
            "(SELECT count(*) FROM holdfast.quarantine)"
        )
        row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]
