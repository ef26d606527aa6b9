"""I12: nothing that is recorded can be changed or removed, and what each safeguard stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import errors, sql

from holdfast_server.domain.rebuild import Snapshot
from holdfast_server.ledger.inspection import inspect_ledger
from holdfast_server.ledger.store import Ledger
from tests.support.entries import Story
from tests.support.ledger import query, record, tamper
from tests.support.waiting import until

APPEND_ONLY = (
    "entry",
    "operation",
    "grant_terms",
    "partition_epoch",
    "fencing",
    "loss_report",
    "deployment",
    "credit_type",
    "policy_audit",
    "quarantine",
    "audit_finding",
)

ROLES = ("holdfast_reader", "holdfast_flusher", "holdfast_control")

#: Changes of one row of an append-only table, by a column that each of them has.
COLUMN = {
    "deployment": "partitions",
    "credit_type": "scale",
    "policy_audit": "version",
    "fencing": "why",
}


def named(table: str) -> sql.Identifier:
    return sql.Identifier("holdfast", table)


def changes(table: str) -> list[sql.Composed]:
    """Every statement that changes or removes rows of a table."""
    column = sql.Identifier(COLUMN.get(table, "partition"))
    return [
        sql.SQL("UPDATE {} SET {} = {}").format(named(table), column, column),
        sql.SQL("DELETE FROM {}").format(named(table)),
        sql.SQL("TRUNCATE {}").format(named(table)),
    ]


@contextmanager
def session(postgres_url: str, *settings: str) -> Iterator[psycopg.Connection]:
    """A session of the superuser with some settings, rolled back at the end."""
    with psycopg.connect(postgres_url) as connection:
        for setting in settings:
            connection.execute(setting.encode())
        yield connection
        connection.rollback()


@pytest.fixture
async def url(ledger: Ledger, migrated_postgres_url: str) -> str:
    """A ledger with a row in every table that entries go to."""
    story = Story()
    await record(migrated_postgres_url, story.grant("ada", 100), story.hold("ada", 10))
    return migrated_postgres_url


def month_table(postgres_url: str) -> str:
    """The partition that the entries are in."""
    (row,) = query(
        postgres_url, "SELECT DISTINCT tableoid::regclass::text AS name FROM holdfast.entry"
    )
    name: str = row["name"]
    return name.removeprefix("holdfast.")


async def test_runtime_roles_lack_the_privileges(url: str) -> None:
    tables = [*APPEND_ONLY, month_table(url)]
    for role in ROLES:
        with session(url, f"SET ROLE {role}") as connection:
            for statement in (each for table in tables for each in changes(table)):
                with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
                    connection.execute(statement)


async def test_neither_can_rows_be_locked_or_overwritten_on_conflict(url: str) -> None:
    statements = (
        sql.SQL("SELECT * FROM holdfast.entry FOR UPDATE"),
        sql.SQL(
            "INSERT INTO holdfast.operation SELECT * FROM holdfast.operation "
            "ON CONFLICT (tenant, method, idempotency_key) DO UPDATE SET answer = ''"
        ),
    )
    with session(url, "SET ROLE holdfast_flusher") as connection:
        for statement in statements:
            with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
                connection.execute(statement)


async def test_triggers_refuse_the_owner_and_the_superuser(url: str) -> None:
    tables = [*(table for table in APPEND_ONLY if _has_rows(url, table)), month_table(url)]
    assert {"entry", "operation", "grant_terms", "deployment"} < set(tables)
    for step_down in ("SET ROLE holdfast_owner", "RESET ROLE"):
        with session(url, step_down) as connection:
            for statement in (each for table in tables for each in changes(table)):
                with pytest.raises(errors.RestrictViolation), connection.transaction():
                    connection.execute(statement)


async def test_tables_without_rows_cannot_be_truncated_either(url: str) -> None:
    with session(url) as connection:
        for table in APPEND_ONLY:
            with pytest.raises(errors.RestrictViolation), connection.transaction():
                connection.execute(changes(table)[-1])


async def test_triggers_fire_in_replica_mode_and_on_partitions_directly(url: str) -> None:
    with session(url, "SET session_replication_role = replica") as connection:
        for statement in changes("entry") + changes(month_table(url)):
            with pytest.raises(errors.RestrictViolation), connection.transaction():
                connection.execute(statement)


async def test_partitions_of_months_to_come_are_protected_as_well(url: str) -> None:
    with session(url) as connection:
        connection.execute("SELECT holdfast.ensure_entry_partition('2031-05-17')")
        with pytest.raises(errors.RestrictViolation):
            connection.execute("TRUNCATE holdfast.entry_2031_05")


async def test_nobody_at_run_time_can_switch_the_triggers_off(url: str) -> None:
    for role in ROLES:
        disable = "ALTER TABLE holdfast.entry DISABLE TRIGGER ALL"
        with pytest.raises(errors.InsufficientPrivilege), session(url, f"SET ROLE {role}", disable):
            pass


async def test_what_an_owner_does_who_switches_them_off_is_detected(
    url: str, ledger: Ledger
) -> None:
    """The last line is the chain; see test_verify for each kind of change."""
    assert (await ledger.verify()).ok

    tamper(url, "UPDATE holdfast.entry SET actor = 'eve' WHERE seq = 1")

    assert {violation.check for violation in (await ledger.verify()).violations} == {"chain"}


async def test_no_row_was_ever_updated_or_deleted(url: str) -> None:
    (row,) = query(
        url,
        "SELECT sum(n_tup_upd + n_tup_del)::int AS changed FROM pg_stat_all_tables "
        "WHERE schemaname = 'holdfast' AND relname LIKE 'entry%%'",
    )

    assert row["changed"] == 0


async def test_reader_sees_one_tenant_only(url: str, ledger: Ledger) -> None:
    """Second line behind the queries, which name the tenant: row security."""
    tables = ("entry", "grant_terms", "tenant_operation", "tree_snapshot")
    await ledger.save_snapshot(Snapshot("tenant", "ada", 0, 1, 2, 1, 2, 1, b"[[],[],[]]"))
    seen = {}
    for tenant in ("tenant", "other", "", "*"):
        with session(
            url, "SET ROLE holdfast_reader", f"SET holdfast.tenant = '{tenant}'"
        ) as connection:
            counts = [
                connection.execute(
                    sql.SQL("SELECT count(*) FROM {}").format(named(table))
                ).fetchone()
                for table in tables
            ]
        seen[tenant] = [row[0] for row in counts if row]

    everything, nothing = [2, 1, 1, 1], [0, 0, 0, 0]
    assert seen == {"tenant": everything, "other": nothing, "": nothing, "*": everything}


async def test_reader_cannot_go_around_row_security(url: str) -> None:
    tables = ("operation", month_table(url), "token_key")
    with session(url, "SET ROLE holdfast_reader", "SET holdfast.tenant = 'other'") as connection:
        for table in tables:
            with pytest.raises(errors.InsufficientPrivilege), connection.transaction():
                connection.execute(sql.SQL("SELECT * FROM {}").format(named(table)))


def _has_rows(postgres_url: str, table: str) -> bool:
    with session(postgres_url) as connection:
        select = sql.SQL("SELECT 1 FROM {} LIMIT 1").format(named(table))
        return connection.execute(select).fetchone() is not None


async def test_what_was_changed_all_the_same_is_counted(url: str) -> None:
    """Whoever switches the triggers off and knows no chain still leaves this trace."""
    assert (await inspect_ledger(url)).rewritten == 0
    tamper(url, "UPDATE holdfast.entry SET reason = 'because' WHERE seq = 1")

    async def counted() -> bool:
        return (await inspect_ledger(url)).rewritten == 1

    await until(counted)
