"""Migrations: today's schema is their sum, each is applied once, and a changed one is refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from psycopg import AsyncConnection, sql

from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.migrate import (
    Migration,
    MigrationError,
    apply_migrations,
    load_migrations,
    migrate,
    ordered,
    pending,
)
from tests.support.entries import Story
from tests.support.ledger import open_ledger, query, record

#: Everything about the schema that a migration can forget, one row per fact.
STRUCTURE = """
SELECT 'column' AS fact, c.table_name || '.' || c.column_name AS name,
       concat_ws(' ', c.ordinal_position, c.data_type, c.collation_name, c.is_nullable,
                 c.column_default, c.generation_expression) AS definition
FROM information_schema.columns AS c WHERE c.table_schema = 'holdfast'
UNION ALL
SELECT 'constraint', r.relname || '.' || c.conname, pg_get_constraintdef(c.oid)
FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
WHERE c.connamespace = 'holdfast'::regnamespace
UNION ALL
SELECT 'index', i.indexname, i.indexdef FROM pg_indexes AS i WHERE i.schemaname = 'holdfast'
UNION ALL
SELECT 'trigger', r.relname || '.' || t.tgname, concat(t.tgenabled, pg_get_triggerdef(t.oid))
FROM pg_trigger AS t JOIN pg_class AS r ON r.oid = t.tgrelid
WHERE r.relnamespace = 'holdfast'::regnamespace
UNION ALL
SELECT 'routine', p.oid::regprocedure::text,
       concat_ws(' ', pg_get_userbyid(p.proowner), pg_get_functiondef(p.oid), p.proacl)
FROM pg_proc AS p WHERE p.pronamespace = 'holdfast'::regnamespace
UNION ALL
SELECT 'relation', c.relname,
       concat_ws(' ', c.relkind, c.relpersistence, c.relrowsecurity, pg_get_userbyid(c.relowner),
                 c.relacl, c.reloptions, CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END,
                 pg_get_partkeydef(c.oid))
FROM pg_class AS c WHERE c.relnamespace = 'holdfast'::regnamespace
UNION ALL
SELECT 'column privileges', c.relname || '.' || a.attname, a.attacl::text
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'holdfast'::regnamespace AND a.attacl IS NOT NULL
UNION ALL
SELECT 'policy', p.tablename || '.' || p.policyname, p::text
FROM pg_policies AS p WHERE p.schemaname = 'holdfast'
UNION ALL
SELECT 'schema', n.nspname, concat_ws(' ', pg_get_userbyid(n.nspowner), n.nspacl)
FROM pg_namespace AS n WHERE n.nspname = 'holdfast'
ORDER BY 1, 2, 3
"""


def structure(postgres_url: str) -> list[dict[str, Any]]:
    """The schema as facts that can be compared."""
    return query(postgres_url, STRUCTURE)


async def apply_files(postgres_url: str, migrations: list[Migration]) -> None:
    """Applies migrations to a database that has none of them, not even the schema of today."""
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await apply_migrations(connection, migrations, lambda name: None)


async def test_schema_is_the_sum_of_the_migrations(
    postgres_url: str, migrated_postgres_url: str
) -> None:
    await apply_files(postgres_url, load_migrations())

    facts = structure(postgres_url)

    assert len(facts) > 200
    assert facts == structure(migrated_postgres_url)


async def test_a_new_database_gets_the_schema_of_today_once(postgres_url: str) -> None:
    steps: list[str] = []

    first = await migrate(postgres_url, on_step=steps.append)
    second = await migrate(postgres_url, on_step=steps.append)

    assert (first, second, steps) == (1, 0, ["schema.sql"])
    assert await pending(postgres_url) == []


@pytest.mark.parametrize("version", range(1, len(load_migrations())))
async def test_a_ledger_of_an_earlier_version_keeps_its_entries_and_gets_the_rest(
    postgres_url: str, version: int
) -> None:
    """What was made for the entries of months before is made for those of months to come, too."""
    await apply_files(postgres_url, load_migrations()[:version])
    story = Story()
    entries = story.account("ada"), story.grant("ada", 100), story.hold("ada", 30)
    async with open_ledger(postgres_url) as ledger:
        await record(postgres_url, *entries)
        assert await migrate(postgres_url) == len(load_migrations()) - version
        await record(postgres_url, story.commit("ada", 30))
        (grant,) = await ledger.list_grants("tenant", "ada", limit=9)
        report = await ledger.verify()
    assert (grant.remaining, grant.burned) == (70, 30)
    assert (report.entries, report.violations) == (4, ())
    query(postgres_url, "SELECT holdfast.ensure_entry_partition('2999-01-01')")
    before, after = query(
        postgres_url,
        "SELECT array_agg(replace(indexdef, right(tablename, 7), '') ORDER BY indexdef) AS indexes "
        "FROM pg_indexes WHERE schemaname = 'holdfast' AND tablename ~ '^entry_[0-9]' "
        "GROUP BY tablename",
    )
    assert before == after


async def test_migrations_that_are_missing_are_applied(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(postgres_url)
    newer = Migration(len(load_migrations()) + 1, "pre", "newer.sql", "CREATE TABLE newer ()")
    migrations = [*load_migrations(), newer]
    monkeypatch.setattr("holdfast_server.ledger.migrate.load_migrations", lambda: migrations)

    assert await pending(postgres_url) == ["newer.sql"]
    assert await migrate(postgres_url) == 1
    assert query(postgres_url, "SELECT * FROM newer") == []
    assert await migrate(postgres_url) == 0


async def test_a_migration_that_fails_leaves_nothing_behind(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(postgres_url)
    text = "CREATE TABLE half (); SELECT no_such_function()"
    broken = Migration(len(load_migrations()) + 1, "pre", "broken.sql", text)
    migrations = [*load_migrations(), broken]
    monkeypatch.setattr("holdfast_server.ledger.migrate.load_migrations", lambda: migrations)

    with pytest.raises(HoldfastError) as caught:
        await migrate(postgres_url)

    assert caught.value.reason is Reason.INTERNAL
    assert query(postgres_url, "SELECT to_regclass('half') AS half") == [{"half": None}]
    assert await pending(postgres_url) == ["broken.sql"]


async def test_many_processes_migrate_at_once_and_one_does_the_work(postgres_url: str) -> None:
    applied = await asyncio.gather(*(migrate(postgres_url) for _ in range(5)))

    assert sorted(applied) == [0, 0, 0, 0, 1]


async def test_a_migration_that_changed_after_it_was_applied_is_refused(postgres_url: str) -> None:
    await migrate(postgres_url)
    query(postgres_url, r"UPDATE holdfast.migration SET sha256 = '\x00'")

    with pytest.raises(MigrationError, match="0001_pre_initial"):
        await migrate(postgres_url)


async def test_a_database_of_a_newer_version_is_refused(postgres_url: str) -> None:
    await migrate(postgres_url)
    query(
        postgres_url, r"INSERT INTO holdfast.migration VALUES (999, 'pre', 'later', '\x00', now())"
    )

    with pytest.raises(MigrationError, match="newer version"):
        await migrate(postgres_url)


def test_pre_comes_before_post_and_numbers_have_no_gaps() -> None:
    first = Migration(1, "post", "b", "")

    assert [each.phase for each in ordered([first, replace(first, phase="pre")])] == ["pre", "post"]
    with pytest.raises(MigrationError, match="gaps"):
        ordered([replace(first, number=2)])
    with pytest.raises(MigrationError, match="same number"):
        ordered([first, first])


async def test_a_user_who_may_not_migrate_is_told(
    postgres_url: str, migrated_postgres_url: str
) -> None:
    """Neither begin nor look."""
    name = f"weak_{uuid4().hex}"
    role = sql.Identifier(name)
    query(postgres_url, sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'w'").format(role))
    try:
        for url, what in (postgres_url, "database"), (migrated_postgres_url, "schema holdfast"):
            parts = urlsplit(url)
            weak = parts._replace(netloc=f"{name}:w@{parts.hostname}:{parts.port}")
            with pytest.raises(MigrationError, match=f"permission denied for {what}"):
                await migrate(urlunsplit(weak))
    finally:
        query(postgres_url, sql.SQL("DROP ROLE {}").format(role))


async def test_a_database_that_is_away_is_unavailable() -> None:
    with pytest.raises(HoldfastError) as caught:
        await migrate("postgresql://nobody@127.0.0.1:1/none")

    assert caught.value.reason is Reason.LEDGER_UNAVAILABLE
