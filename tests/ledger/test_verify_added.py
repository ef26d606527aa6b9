"""Verification finds rows that were added beside the entries, as no chain shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, LiteralString

import pytest
from psycopg import sql

from holdfast_server.domain.entry import EntryKind, GrantPosting
from holdfast_server.domain.reply import Buckets
from holdfast_server.ledger.store import Ledger
from tests.support.entries import Story
from tests.support.ledger import record, tamper

GOODWILL = "0e" * 16
ADD_A_KEY: Final = """
INSERT INTO holdfast.operation
    (tenant, method, idempotency_key, fingerprint, answer, partition, epoch, first_seq)
VALUES ({})
"""
ADD_A_GRANT: Final = """
CREATE TEMPORARY TABLE one AS SELECT * FROM holdfast.grant_terms WHERE first_seq = 3;
UPDATE one SET {};
INSERT INTO holdfast.grant_terms TABLE one
"""
ADD_AN_ACCOUNT: Final = """
CREATE TEMPORARY TABLE one AS SELECT * FROM holdfast.account WHERE account = 'ada';
UPDATE one SET {};
INSERT INTO holdfast.account TABLE one
"""


@pytest.fixture
async def url(ledger: Ledger, migrated_postgres_url: str) -> str:
    """Two accounts, a grant, one that a refund gave anew behind another entry, and a hold's end."""
    story = Story()
    told = [story.account("ada"), story.account("bob"), story.grant("ada", 100)]
    told += [story.hold("ada", 7), story.expire("ada", 7)]
    first = story.write(EntryKind.REFUND, "bob", Buckets())
    refund = story.write(
        EntryKind.REFUND,
        "ada",
        Buckets(granted=5, available=5),
        grants=(GrantPosting(GOODWILL, remaining=5),),
        first_seq=first.seq,
    )
    made = {"grant_id": GOODWILL, "ttl_ms": 60_000, "issuer": "till"}
    context = replace(refund.context, detail={"goodwill": [made]})
    await record(migrated_postgres_url, *told, first, replace(refund, context=context))
    return migrated_postgres_url


async def added(ledger: Ledger, *partitions: int) -> list[tuple[str, int, int]]:
    """Check, partition and sequence number of what is found."""
    report = await ledger.verify(partitions)
    return [(each.check, each.partition, each.seq) for each in report.violations]


async def test_what_entries_say_was_not_added(url: str, ledger: Ledger) -> None:
    assert await added(ledger) == []


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ("'tenant', 'Grant', 'other', 'f', 'x', 0, 1, 3", ("key", 0, 3)),
        ("'tenant', 'Burn', 'grant-0-3', 'f', 'x', 0, 1, 3", ("key", 0, 3)),
        ("'other', 'Grant', 'grant-0-3', 'f', 'x', 0, 1, 3", ("key", 0, 3)),
        # A Reserve may be asked for again, once its key is forgotten.
        ("'tenant', 'Reserve', 'reserve-0-4', 'f', 'x', 0, 1, 4", ("key", 0, 4)),
        ("'tenant', 'Expire', 'other', '', '', 0, 1, 5", ("key", 0, 5)),
        ("'tenant', 'Commit', 'to come', 'f', 'x', 0, 1, 99", ("key", 0, 99)),
        ("'tenant', 'Commit', 'to come', 'f', 'x', 77, 1, 1", ("key", 77, 1)),
    ],
)
async def test_a_key_that_was_added_is_found(
    url: str, ledger: Ledger, columns: LiteralString, found: tuple[str, int, int]
) -> None:
    """Whoever comes with it would be told that it was done, and it would not be."""
    tamper(url, sql.SQL(ADD_A_KEY).format(sql.SQL(columns)))
    assert await added(ledger) == [found]
    assert found in await added(ledger, found[1])
    assert await added(ledger, 1) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("grant_id = gen_random_uuid()", ("terms", 0, 3)),
        ("tenant = 'other'", ("terms", 0, 3)),
        ("grant_id = gen_random_uuid(), first_seq = 6", ("terms", 0, 6)),
        ("grant_id = gen_random_uuid(), partition = 77", ("terms", 77, 3)),
    ],
)
async def test_a_grant_that_was_added_is_found(
    url: str, ledger: Ledger, change: LiteralString, found: tuple[str, int, int]
) -> None:
    """Lists show it, and a refund of what it never paid would go by it."""
    tamper(url, sql.SQL(ADD_A_GRANT).format(sql.SQL(change)))
    assert await added(ledger) == [found]
    assert await added(ledger, 1) == []


@pytest.mark.parametrize("change", ["account = 'eve'", "tenant = 'other'"])
async def test_an_account_that_was_added_is_found(
    url: str, ledger: Ledger, change: LiteralString
) -> None:
    tamper(url, sql.SQL(ADD_AN_ACCOUNT).format(sql.SQL(change)))
    assert await added(ledger) == [("terms", 0, 0)]
    assert await added(ledger, 1) == []
