"""A whole run against a real service, and the audit of real stores that were tampered with."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
import redis
from psycopg import sql
from rich.console import Console

from holdfast import AsyncClient, GrantSource, new_key
from holdfast_server.engine.rows import pack_row
from holdfast_server.workload.checks.audit import Audit, Auditor
from holdfast_server.workload.checks.store import ACCOUNT_CREDITS, CREDIT_VERSION, unpack_row
from holdfast_server.workload.history import History
from holdfast_server.workload.report import JSON_FIELDS
from holdfast_server.workload.run import Options, run
from holdfast_server.workload.trace import generate_trace
from tests.support.server import RunningService

REQUESTS = 150

FIND = """
SELECT n.nspname || '.' || c.relname FROM holdfast.entry AS e
JOIN pg_class AS c ON c.oid = e.tableoid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE e.account = %s LIMIT 1
"""
SELECT = "SELECT {column} FROM {rows} WHERE account = %s AND method = 'Burn'"
UPDATE = "UPDATE {rows} SET {column} = %s WHERE account = %s AND method = 'Burn'"
UNGUARD = "ALTER TABLE {rows} DISABLE TRIGGER refuse_row_change"
GUARD = "ALTER TABLE {rows} ENABLE ALWAYS TRIGGER refuse_row_change"


@pytest.mark.slow
async def test_a_run_leaves_nothing_that_does_not_hold(holdfast_server: RunningService) -> None:
    shown = io.StringIO()
    report = await run(
        holdfast_server.target,
        "",
        holdfast_server.postgres_url,
        holdfast_server.redis_url,
        generate_trace(REQUESTS, 3),
        Options(seed=3),
        Console(file=shown, width=120),
    )
    assert report.violations == ()
    assert report.failures == {}
    assert report.ok
    fields = json.loads(report.as_json())
    assert tuple(fields) == JSON_FIELDS
    assert fields["requests"] == report.granted + report.denied == REQUESTS
    assert fields["operations"] > REQUESTS
    assert (fields["conservation"], fields["chain"]) == ("ok", "ok")
    assert fields["ledger_rows"] >= fields["operations"] - fields["denied"]
    assert report.replays
    assert report.expired_holds
    assert 0 < fields["reserve_p50_ms"] <= fields["reserve_p99_ms"]
    assert "every check holds" in shown.getvalue()


async def _traffic(client: AsyncClient, account: str) -> History:
    """A grant and a burn, acknowledged."""
    history = History()
    await client.create_credit_type("ai")
    created = await client.create_account(account, key="create-" + account)
    history.kept("CreateAccount", "create-" + account, created, 0)
    granted = await client.grant(
        account, 100, source=GrantSource.PURCHASE, credit_type="ai", key="grant-" + account
    )
    history.kept("Grant", "grant-" + account, granted, 100)
    burned = await client.burn(account, 30, credit_type="ai", key="burn-" + account)
    history.answered("Burn", "burn-" + account, burned, 30)
    return history


@contextmanager
def _changed_bucket(url: str, account: str) -> Iterator[None]:
    """One credit more in the hot store, where nobody gave one."""
    with redis.Redis.from_url(url) as store:
        (key,) = store.scan_iter(match=f"*:t:*/{account}", count=10_000)
        packed = store.hget(key, "a" + account)
        assert isinstance(packed, bytes)
        state = unpack_row(packed)
        credit = unpack_row(state[ACCOUNT_CREDITS + 1])
        credit[CREDIT_VERSION + 1] += 1
        state[ACCOUNT_CREDITS + 1] = pack_row(credit)
        store.hset(key, "a" + account, pack_row(state))
        try:
            yield
        finally:
            store.hset(key, "a" + account, packed)


@contextmanager
def _changed_row(url: str, account: str, column: str) -> Iterator[None]:
    """A row of the ledger that somebody with all rights has rewritten."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(FIND, (account,)).fetchone()
        assert found is not None
        names = {"rows": sql.Identifier(*found[0].split(".")), "column": sql.Identifier(column)}
        row = connection.execute(sql.SQL(SELECT).format(**names), (account,)).fetchone()
        assert row is not None
        connection.execute(sql.SQL(UNGUARD).format(**names))
        try:
            connection.execute(sql.SQL(UPDATE).format(**names), ("other", account))
            yield
        finally:
            connection.execute(sql.SQL(UPDATE).format(**names), (row[0], account))
            connection.execute(sql.SQL(GUARD).format(**names))


async def _audit(
    client: AsyncClient, server: RunningService, account: str, history: History
) -> Audit:
    return await Auditor(client, server.postgres_url, server.redis_url, [account]).audit(history)


async def test_tampering_with_either_store_is_found(holdfast_server: RunningService) -> None:
    account = f"tampered-{new_key()}"
    async with AsyncClient(holdfast_server.target) as client:
        history = await _traffic(client, account)
        assert (await _audit(client, holdfast_server, account, history)).violations == ()

        with _changed_bucket(holdfast_server.redis_url, account):
            hot = await _audit(client, holdfast_server, account, history)
        assert any("the hot store" in one for one in hot.conservation)
        assert any("answered" in one for one in hot.conservation)

        with _changed_row(holdfast_server.postgres_url, account, "feature"):
            rewritten = await _audit(client, holdfast_server, account, history)
        assert rewritten.chain
        assert rewritten.conservation == ()

        with _changed_row(holdfast_server.postgres_url, account, "idempotency_key"):
            relabelled = await _audit(client, holdfast_server, account, history)
        assert len(relabelled.lost) == 1

        assert (await _audit(client, holdfast_server, account, history)).violations == ()


async def test_a_service_that_does_not_come_to_rest_is_a_failure(
    holdfast_server: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast_server.workload.checks.audit.REST_TIMEOUT_S", 0.5)
    account = f"busy-{new_key()}"
    async with AsyncClient(holdfast_server.target) as client:
        history = await _traffic(client, account)
        await client.reserve(account, 10, credit_type="ai", ttl_ms=60_000)
        with pytest.raises(TimeoutError, match="all holds have ended"):
            await _audit(client, holdfast_server, account, history)


def test_options_have_defaults_that_the_command_shows() -> None:
    assert isinstance(Options.concurrency, int)
    assert asyncio.iscoroutinefunction(run)
