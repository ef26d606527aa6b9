"""Connections: errors of the driver never leave, roles are taken, and reads are bounded."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import TransactionStatus

from holdfast_server.domain.checkpoint import Tip
from holdfast_server.domain.epoch import Acknowledged
from holdfast_server.domain.figures import Difference, Figure
from holdfast_server.domain.operation import Commit
from holdfast_server.domain.policy import Policy, Scope, ScopeKind
from holdfast_server.domain.rebuild import SNAPSHOT_LAYOUT, Snapshot, rebuild
from holdfast_server.domain.reply import HoldState
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.database import READ_MS_MAX, connection_text
from holdfast_server.ledger.due import EntriesPage
from holdfast_server.ledger.records import (
    CreditType,
    Finding,
    ProcessReport,
    RecordedHold,
)
from holdfast_server.ledger.snapshots import Kept
from holdfast_server.ledger.sql import QUERIES
from holdfast_server.ledger.store import Ledger
from tests.support.ledger import query


def late_hold() -> RecordedHold:
    """A hold, whichever."""
    return RecordedHold("0a" * 16, "a", HoldState.EXPIRED, "", {}, 0, 1, 1)


def snapshot() -> Snapshot:
    """One of nothing."""
    return Snapshot("t", "r", 0, 1, 1, 1, 1, SNAPSHOT_LAYOUT, b"[[],[],[]]")


#: Every method of the ledger that asks the database, with arguments.
CALLS: dict[str, Callable[[Ledger], Awaitable[object]]] = {
    "balance_at": lambda ledger: ledger.balance_at("t", "a"),
    "checkpoint_delivered": lambda ledger: ledger.checkpoint_delivered(1),
    "checkpoint_head": lambda ledger: ledger.checkpoint_head(),
    "count_roots": lambda ledger: ledger.count_roots(),
    "entries_at": lambda ledger: ledger.entries_at([Tip(0, 1, 1, b"")]),
    "keep_checkpoint": lambda ledger: ledger.keep_checkpoint(1, bytes(32), "line"),
    "list_findings": lambda ledger: ledger.list_findings(),
    "list_roots": lambda ledger: ledger.list_roots(("", ""), 1),
    "newest_figures": lambda ledger: ledger.newest_figures(("t", "r"), 0, 0, [("a", "c")]),
    "newest_roots": lambda ledger: ledger.newest_roots(0),
    "note_findings": lambda ledger: ledger.note_findings(
        [Finding(0, 1, 1, "t", Difference(Figure("a", "c", "", "held"), 1, 2))]
    ),
    "tree_figures": lambda ledger: ledger.tree_figures(("t", "r"), 0, 0, []),
    "save_snapshot": lambda ledger: ledger.save_snapshot(snapshot()),
    "drop_snapshot": lambda ledger: ledger.drop_snapshot(Kept(snapshot(), bytes(32))),
    "snapshot_behind": lambda ledger: ledger.snapshot_behind(b"", 1),
    "roots_at": lambda ledger: ledger.roots_at([(0, 1)]),
    "begin_tree": lambda ledger: ledger.begin_tree(("t", "r")),
    "go_on": lambda ledger: ledger.go_on(rebuild("t", "r", []), 1),
    "read_trees": lambda ledger: ledger.read_trees([("t", "a")]),
    "chain_hashes": lambda ledger: ledger.chain_hashes({0: (1, 2)}),
    "last_event_times": lambda ledger: ledger.last_event_times(),
    "count_living": lambda ledger: ledger.count_living(),
    "count_silent": lambda ledger: ledger.count_silent(1),
    "epochs": lambda ledger: ledger.epochs(),
    "fence": lambda ledger: ledger.fence([0], "why"),
    "highest_acknowledged": lambda ledger: ledger.highest_acknowledged(),
    "lifeline": lambda ledger: ledger.lifeline(),
    "losses": lambda ledger: ledger.losses(),
    "open_epochs": lambda ledger: ledger.open_epochs([], 0),
    "standings": lambda ledger: ledger.standings(),
    "vote": lambda ledger: ledger.vote("p", "worker", 1, Acknowledged()),
    "burned_by": lambda ledger: ledger.burned_by("t", "0-1-1"),
    "config_version": lambda ledger: ledger.config_version(),
    "create_credit_type": lambda ledger: ledger.create_credit_type(
        "t", CreditType("c", "", 0), "x"
    ),
    "explain_balance": lambda ledger: ledger.explain_balance("t", "a", "c", None, 1),
    "find_grant": lambda ledger: ledger.find_grant("t", "a", "0a" * 16),
    "find_hold": lambda ledger: ledger.find_hold("t", "0a" * 16),
    "find_operation": lambda ledger: ledger.find_operation("t", "Burn", "k"),
    "note_late_use": lambda ledger: ledger.note_late_use(late_hold(), Commit("t", "hold", "k")),
    "find_operations": lambda ledger: ledger.find_operations("t", [("Burn", "k")]),
    "flushed": lambda ledger: ledger.flushed(),
    "glance": lambda ledger: ledger.glance("SELECT 1 AS one"),
    "get_account": lambda ledger: ledger.get_account("t", "a"),
    "hold_entries": lambda ledger: ledger.hold_entries("t", "0a" * 16),
    "list_accounts": lambda ledger: ledger.list_accounts("t", limit=1),
    "list_credit_types": lambda ledger: ledger.list_credit_types("t"),
    "list_entries": lambda ledger: ledger.list_entries("t", "a", limit=1),
    "list_grants": lambda ledger: ledger.list_grants("t", "a", limit=1),
    "list_policy_changes": lambda ledger: ledger.list_policy_changes("t", limit=1),
    "list_processes": lambda ledger: ledger.list_processes(),
    "load_configuration": lambda ledger: ledger.load_configuration(),
    "report_process": lambda ledger: ledger.report_process(ProcessReport("p", "worker", "1", 1, 1)),
    "set_policy": lambda ledger: ledger.set_policy(
        Policy(Scope(ScopeKind.GLOBAL)), expected_version=0, idempotency_key="k", fingerprint=b""
    ),
    "start_deployment": lambda ledger: ledger.start_deployment(4),
    "stream_entries": lambda ledger: anext(ledger.stream_entries(0)),
    "rebuilt": lambda ledger: ledger.rebuilt(),
    "given_up": lambda ledger: ledger.given_up(0),
    "due_between": lambda ledger: ledger.due_between(0, 1, 2),
    "active_in": lambda ledger: ledger.active_in([EntriesPage(0, 1, 2)], 0),
    "tips": lambda ledger: ledger.tips(),
    "transaction_entries": lambda ledger: ledger.transaction_entries("t", 0, 1, 1),
    "verify": lambda ledger: ledger.verify(),
}


def test_every_method_of_the_ledger_is_in_the_list() -> None:
    public = {
        name
        for name, member in inspect.getmembers(Ledger)
        if not name.startswith("_")
        and (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member))
    }

    assert public - {"open", "close"} == set(CALLS)


async def test_no_error_of_the_driver_leaves_while_postgres_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast_server.ledger.database.POOL_WAIT_SECONDS_MAX", 0.05)
    ledger = await Ledger.open("postgresql://nobody@127.0.0.1:1/none")
    try:
        for name, call in CALLS.items():
            with pytest.raises(HoldfastError) as caught:
                await call(ledger)
            assert caught.value.reason is Reason.LEDGER_UNAVAILABLE, name
            assert "127.0.0.1" not in caught.value.message
    finally:
        await ledger.close()


async def test_a_statement_that_is_refused_shows_nothing_of_itself(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HoldfastError) as caught:
        await ledger.hold_entries("t", "no hold")

    assert caught.value.reason is Reason.INTERNAL
    assert "uuid" not in str(caught.value)
    reference = caught.value.metadata["reference"]
    (record,) = [each for each in caplog.records if reference in str(vars(each))]
    assert record.exc_info is not None


async def test_a_connection_that_died_is_replaced(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    assert await ledger.config_version() == 0
    query(
        migrated_postgres_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name LIKE 'holdfast%%' AND datname = current_database()",
    )

    assert await ledger.config_version() == 0


async def test_reads_take_the_role_that_can_only_read(ledger: Ledger) -> None:
    async with ledger.reading("tenant") as cursor:
        await cursor.execute(
            "SELECT current_user AS role, current_setting('holdfast.tenant') AS tenant"
        )
        row = await cursor.fetchone()
        await cursor.execute("SHOW transaction_isolation")
        isolation = await cursor.fetchone()

    assert row == {"role": "holdfast_reader", "tenant": "tenant"}
    assert isolation == {"transaction_isolation": "repeatable read"}
    with pytest.raises(HoldfastError) as caught:
        async with ledger.reading("tenant") as cursor:
            await cursor.execute("CREATE TEMP TABLE anything ()")
    assert isinstance(caught.value.__cause__, psycopg.errors.ReadOnlySqlTransaction)


async def test_a_glance_takes_that_role_too_and_no_longer_than_a_read(
    migrated_postgres_url: str,
) -> None:
    ledger = await Ledger.open(migrated_postgres_url, pool_size=1)
    try:
        async with ledger.reading("tenant", limit_ms=20):
            pass
        row = await ledger.glance(
            "SELECT current_user AS role, current_setting('holdfast.tenant', true) AS tenant, "
            "current_setting('statement_timeout') AS limit"
        )
        async with ledger._readers.connection() as connection:
            assert connection.info.transaction_status is TransactionStatus.IDLE
    finally:
        await ledger.close()

    assert row == {"role": "holdfast_reader", "tenant": "", "limit": f"{READ_MS_MAX // 1_000}s"}


async def test_a_tenant_is_not_left_behind_in_a_connection(migrated_postgres_url: str) -> None:
    """I20: the next reader of the same connection starts with nobody's rows."""
    ledger = await Ledger.open(migrated_postgres_url, pool_size=1)
    try:
        async with ledger.reading("tenant"):
            pass
        async with ledger._readers.connection() as connection:
            cursor = await connection.execute(
                "SELECT current_setting('holdfast.tenant', true) AS t"
            )
            assert await cursor.fetchone() == {"t": ""}
    finally:
        await ledger.close()


async def test_a_read_that_takes_too_long_is_stopped(ledger: Ledger) -> None:
    with pytest.raises(HoldfastError) as caught:
        async with ledger.reading("tenant", limit_ms=20) as cursor:
            await cursor.execute("SELECT pg_sleep(30)")

    assert caught.value.reason is Reason.LEDGER_UNAVAILABLE
    assert "in time" in caught.value.message


async def change_while_another_is_silent(silent: Ledger, other: Ledger) -> None:
    async with silent.changing() as cursor:
        await cursor.execute(QUERIES["lock_configuration"])
        async with asyncio.timeout(20):
            await other.create_credit_type("t", CreditType("c", "", 0), "x")


async def test_a_change_whose_process_is_gone_holds_up_no_other(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that lost its power says no goodbye, and Postgres may believe in it for hours."""
    monkeypatch.setattr("holdfast_server.ledger.database.SILENT_CHANGE_MS_MAX", 300)
    async with AsyncExitStack() as stack:
        gone, other = [await Ledger.open(migrated_postgres_url) for _ in range(2)]
        stack.push_async_callback(gone.close)
        stack.push_async_callback(other.close)
        with pytest.raises(HoldfastError):
            await change_while_another_is_silent(gone, other)
        assert [each.code for each in await other.list_credit_types("t")] == ["c"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ],
)
async def test_postgres_notices_a_host_that_is_gone(
    ledger: Ledger, migrated_postgres_url: str, setting: str, value: str
) -> None:
    """Else it keeps what it had locked: the lead in flushing, a recovery, a change."""
    shown = sql.SQL("SELECT current_setting({}) AS value").format(setting)
    async with ledger.reading("t") as cursor:
        await cursor.execute(shown)
        assert await cursor.fetchone() == {"value": value}
    assert query(migrated_postgres_url, shown) != [{"value": value}]


def test_settings_of_the_url_win_over_ours() -> None:
    ours = connection_text("postgresql://ada@host/db", "reader")
    given = connection_text("postgresql://ada@host/db?connect_timeout=9", "reader")

    assert "connect_timeout=3" in ours
    assert "application_name='holdfast reader'" in ours
    assert "connect_timeout=9" in given
