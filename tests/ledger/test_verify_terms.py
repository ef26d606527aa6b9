"""Verification finds terms of grants and accounts that were changed, as no chain shows."""

from __future__ import annotations

from dataclasses import replace
from typing import LiteralString

import pytest
from psycopg import sql

from holdfast_server.domain.entry import EntryKind, GrantPosting
from holdfast_server.domain.reply import Buckets
from holdfast_server.ledger import projection_check
from holdfast_server.ledger.store import Ledger
from tests.support.entries import GRANT, Story
from tests.support.ledger import record, tamper

GOODWILL = "0e" * 16


@pytest.fixture
async def url(ledger: Ledger, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Accounts of which one was changed once, a grant, and what a refund gave anew."""
    monkeypatch.setattr(projection_check, "LOOKED_UP", 2)
    story = Story()
    told = [story.account(name) for name in ("ada", "bob", "cleo")]
    told += [story.account("ada", 2, display_name="Ada L."), story.grant("ada", 100)]
    refund = story.write(
        EntryKind.REFUND,
        "ada",
        Buckets(granted=5, available=5),
        grants=(GrantPosting(GOODWILL, remaining=5),),
    )
    made = {"grant_id": GOODWILL, "ttl_ms": 60_000, "issuer": "till"}
    context = replace(refund.context, detail={"goodwill": [made]})
    await record(migrated_postgres_url, *told, replace(refund, context=context))
    return migrated_postgres_url


async def wrong(ledger: Ledger) -> set[tuple[int, str]]:
    """The entries that say otherwise, and of what."""
    violations = (await ledger.verify()).violations
    assert {each.check for each in violations} <= {"terms"}
    return {(each.seq, each.message.split()[4]) for each in violations}


async def test_terms_are_what_entries_say(url: str, ledger: Ledger) -> None:
    assert await wrong(ledger) == set()


@pytest.mark.parametrize(
    "change",
    [
        "amount = 1_000",
        "account = 'eve'",
        "credit_type = 'video'",
        "priority = 7",
        "expires_at = '2030-01-01'",
        "effective_at = '2030-01-01'",
        "cost_amount = 1",
        "labels = '{}'",
        "repay_debt = false",
        "issuer = 'eve'",
        "epoch = 2",
    ],
)
async def test_a_grant_whose_terms_were_changed_is_found(
    url: str, ledger: Ledger, change: LiteralString
) -> None:
    """A refund goes by them, and so does who expires what."""
    tamper(
        url,
        "ALTER TABLE holdfast.grant_terms DISABLE TRIGGER ALL",
        sql.SQL("UPDATE holdfast.grant_terms SET {} WHERE grant_id = {}").format(
            sql.SQL(change), GRANT
        ),
    )
    assert await wrong(ledger) == {(5, GRANT)}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("DELETE FROM holdfast.account WHERE account = 'cleo'", {(3, "cleo")}),
        ("UPDATE holdfast.account SET root = 'ada' WHERE account = 'bob'", {(2, "bob")}),
        (
            "UPDATE holdfast.account SET terms = jsonb_set(terms, '{display_name}', '\"Ada\"') "
            "WHERE account = 'ada'",
            {(4, "ada")},
        ),
        ("UPDATE holdfast.account SET version = 1 WHERE account = 'ada'", {(4, "ada")}),
    ],
)
async def test_an_account_that_was_changed_is_found(
    url: str, ledger: Ledger, change: LiteralString, found: set[tuple[int, str]]
) -> None:
    tamper(url, change)
    assert await wrong(ledger) == found


async def test_a_grant_that_a_refund_gave_and_nobody_finds_is_found(
    url: str, ledger: Ledger
) -> None:
    tamper(
        url,
        "ALTER TABLE holdfast.grant_terms DISABLE TRIGGER ALL",
        sql.SQL("DELETE FROM holdfast.grant_terms WHERE grant_id = {}").format(GOODWILL),
    )
    assert await wrong(ledger) == {(6, GOODWILL)}
