"""A ledger for tests, filled without a hot store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.packed import PackedEntry
from holdfast_server.engine.outbox import OutboxEntry, unpack
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.prepare import Prepared, prepare
from holdfast_server.ledger.recovery import Opening
from holdfast_server.ledger.store import Ledger
from tests.support.entries import pack

#: Partitions of the deployments of these tests.
PARTITIONS = 4


@asynccontextmanager
async def open_ledger(postgres_url: str, partitions: int = PARTITIONS) -> AsyncIterator[Ledger]:
    """A ledger whose deployment has started."""
    ledger = await Ledger.open(postgres_url, pool_size=4)
    try:
        await ledger.start_deployment(partitions)
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def open_appender(postgres_url: str) -> AsyncIterator[Appender]:
    """An appender of its own connection."""
    appender = Appender(postgres_url)
    try:
        yield appender
    finally:
        await appender.close()


def packed(entry: Entry) -> PackedEntry:
    """The entry as the flusher finds it."""
    return unpack(OutboxEntry(entry.partition, entry.epoch, entry.seq, pack(entry)))


async def prepared(appender: Appender, entries: Iterable[Entry]) -> list[Prepared]:
    """Entries made ready behind the cursors of today, grouped by partition."""
    cursors = await appender.cursors()
    ordered = sorted(entries, key=lambda entry: (entry.partition, entry.seq))
    return [
        prepare(cursors[partition], [packed(entry) for entry in group])
        for partition, group in groupby(ordered, key=lambda entry: entry.partition)
    ]


async def record(postgres_url: str, *entries: Entry) -> None:
    """Appends entries to the ledger, as the flusher would."""
    async with open_appender(postgres_url) as appender:
        await appender.append(await prepared(appender, entries))


async def begin_epoch(ledger: Ledger, partition: int, epoch: int, home: int | None = None) -> bool:
    """Ends an epoch where the ledger is; the next one's keys begin anew, unless `home` is given."""
    tip = (await ledger.tips())[partition]
    opening = Opening(
        partition, epoch, tip.seq, tip.hash, epoch + 1, home or epoch + 1, "f" * 40, "kept"
    )
    opened, _ = await ledger.open_epochs([opening], fencing=0)
    return bool(opened)


def query(
    postgres_url: str, statement: LiteralString | sql.Composed, *parameters: object
) -> list[dict[str, Any]]:
    """Rows, read as the superuser of the test server."""
    with psycopg.connect(postgres_url, row_factory=dict_row) as connection:
        cursor = connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def tamper(postgres_url: str, *statements: LiteralString | sql.Composed) -> None:
    """What somebody with all privileges can do who switches the triggers off."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "DO $$ DECLARE month regclass; BEGIN "
            "ALTER TABLE holdfast.entry DISABLE TRIGGER ALL; "
            "FOR month IN SELECT inhrelid FROM pg_inherits "
            "WHERE inhparent = 'holdfast.entry'::regclass LOOP "
            "EXECUTE format('ALTER TABLE %s DISABLE TRIGGER ALL', month); END LOOP; END $$"
        )
        for statement in statements:
            connection.execute(statement)
