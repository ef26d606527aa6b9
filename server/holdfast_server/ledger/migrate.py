"""Brings a database to today's schema: `schema.sql` for a new one, else the missing migrations.

Files are `NNNN_{pre|post}_text.sql`. Each is applied once, in one transaction, and remembered
with the SHA-256 of its content: a file that changed after it was applied stops the migration.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import LiteralString

from psycopg import AsyncConnection, errors
from psycopg.rows import TupleRow

from holdfast_server.ledger.database import connection_text, translated
from holdfast_server.ledger.sql import migration_names, read_sql

_NAME = re.compile(r"(\d{4})_(pre|post)_(\w+)\.sql")

OnStep = Callable[[str], None]


class MigrationError(Exception):
    """The database and the migrations of this version do not fit together."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    #: "pre" runs before the new code and suits the old; "post" runs after the old code is gone.
    phase: str
    name: str
    text: LiteralString

    @property
    def sha256(self) -> bytes:
        """What the database remembers of the file."""
        return hashlib.sha256(self.text.encode()).digest()


def load_migrations() -> list[Migration]:
    """Every migration of this version, in order. Raises MigrationError for a wrong name."""
    return ordered([_migration(name) for name in migration_names()])


def ordered(migrations: Sequence[Migration]) -> list[Migration]:
    """By number, `pre` before `post`. Raises MigrationError unless numbered from 1 without gaps."""
    inorder = sorted(migrations, key=lambda each: (each.number, each.phase == "post"))
    numbers = sorted({each.number for each in inorder})
    if numbers != list(range(1, len(numbers) + 1)):
        raise MigrationError(f"migrations are numbered {numbers}, not from 1 without gaps")
    if len({(each.number, each.phase) for each in inorder}) != len(inorder):
        raise MigrationError("two migrations have the same number and phase")
    return inorder


async def migrate(postgres_url: str, *, on_step: OnStep | None = None) -> int:
    """Applies what is missing and answers how many files that was; 0 where nothing was missing.

    `on_step` hears the name of each file after it was applied. Any number of processes may call
    this at once: one does the work, the others wait. Raises LEDGER_UNAVAILABLE and MigrationError.
    """
    async with _connected(postgres_url) as connection:
        await connection.execute("SELECT pg_advisory_lock(hashtextextended('holdfast.migrate', 0))")
        return await _apply_missing(connection, load_migrations(), on_step or _ignore)


async def pending(postgres_url: str) -> list[str]:
    """The files that a database lacks, in order; empty where its schema is today's.

    Changes nothing. Raises LEDGER_UNAVAILABLE, and MigrationError as `migrate` does.
    """
    async with _connected(postgres_url) as connection:
        applied = await _applied(connection)
    migrations = load_migrations()
    _check_unchanged(migrations, applied)
    return [each.name for each in migrations if (each.number, each.phase) not in applied]


async def apply_migrations(
    connection: AsyncConnection[TupleRow], migrations: Sequence[Migration], on_step: OnStep
) -> None:
    """Applies files one by one, each in a transaction of its own."""
    for migration in migrations:
        async with connection.transaction():
            await connection.execute(migration.text)
            await _remember(connection, migration)
        on_step(migration.name)


@asynccontextmanager
async def _connected(postgres_url: str) -> AsyncIterator[AsyncConnection[TupleRow]]:
    with translated():
        url = connection_text(postgres_url, "migrate")
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            try:
                yield connection
            except errors.InsufficientPrivilege as error:
                # What Postgres says names a table, schema or database, and nothing of a caller.
                raise MigrationError(
                    f"the user of HOLDFAST_POSTGRES_URL may not do this: {error}; take the one who "
                    "migrated before, or for a new database one with CREATE on it"
                ) from error


async def _apply_missing(
    connection: AsyncConnection[TupleRow], migrations: Sequence[Migration], on_step: OnStep
) -> int:
    applied = await _applied(connection)
    if not applied:
        await _install(connection, migrations)
        on_step("schema.sql")
        return 1
    missing = [each for each in migrations if (each.number, each.phase) not in applied]
    _check_unchanged(migrations, applied)
    await apply_migrations(connection, missing, on_step)
    return len(missing)


async def _applied(connection: AsyncConnection[TupleRow]) -> dict[tuple[int, str], bytes]:
    row = await (await connection.execute("SELECT to_regclass('holdfast.migration')")).fetchone()
    if row is None or row[0] is None:
        return {}
    found = await connection.execute("SELECT number, phase, sha256 FROM holdfast.migration")
    return {(number, phase): sha256 async for number, phase, sha256 in found}


async def _install(connection: AsyncConnection[TupleRow], migrations: Sequence[Migration]) -> None:
    async with connection.transaction():
        await connection.execute(read_sql("schema.sql"))
        for migration in migrations:
            await _remember(connection, migration)


async def _remember(connection: AsyncConnection[TupleRow], migration: Migration) -> None:
    await connection.execute(
        "INSERT INTO holdfast.migration (number, phase, name, sha256) VALUES (%s, %s, %s, %s)",
        (migration.number, migration.phase, migration.name, migration.sha256),
    )


def _check_unchanged(
    migrations: Sequence[Migration], applied: dict[tuple[int, str], bytes]
) -> None:
    known = {(each.number, each.phase): each for each in migrations}
    if unknown := applied.keys() - known.keys():
        raise MigrationError(f"the database has migrations of a newer version: {sorted(unknown)}")
    changed = [
        each.name for place, each in known.items() if applied.get(place, each.sha256) != each.sha256
    ]
    if changed:
        raise MigrationError(f"changed after they were applied: {', '.join(changed)}")


def _migration(name: str) -> Migration:
    match = _NAME.fullmatch(name)
    if match is None:
        raise MigrationError(f"{name} is not named NNNN_pre_text.sql or NNNN_post_text.sql")
    return Migration(int(match[1]), match[2], name, read_sql(f"migrations/{name}"))


def _ignore(name: str) -> None:
    """Nobody wants to hear."""
