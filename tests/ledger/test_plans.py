"""What Postgres reads to answer: no more than what is asked for, whoever else has how much."""

from __future__ import annotations

import re

import psycopg
from psycopg import sql

from holdfast_server.ledger.sql import QUERIES
from holdfast_server.ledger.store import Ledger
from tests.support.entries import Story, holds_and_commits
from tests.support.ledger import open_ledger, query, record
from tests.support.waiting import until

#: Rows of months that were read as a whole.
READ = """
SELECT coalesce(sum(seq_tup_read), 0)::bigint AS entries
FROM pg_stat_user_tables WHERE relname ~ '^entry_[0-9]'
"""
#: A connection that has ended has said what it did.
OTHERS = """
SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def test_a_transaction_is_read_and_nothing_that_came_after(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """Of a partition that has 10,000 more, a refund would read as many."""
    await record(migrated_postgres_url, *holds_and_commits(Story(), ["ada"], 200))
    (found,) = await ledger.transaction_entries("tenant", 0, 1, 5)
    assert found.entry.seq == 5
    which = {"tenant": "tenant", "partition": 0, "epoch": 1, "first_seq": 5, "end_seq": 10_005}
    with psycopg.connect(migrated_postgres_url) as connection:
        # So that it is no matter that the table is small.
        connection.execute("SET enable_seqscan = off")
        explain = sql.SQL("EXPLAIN ANALYZE ") + sql.SQL(QUERIES["transaction_entries"])
        plan = str(connection.execute(explain, which).fetchall())
    assert "Index Scan" in plan
    assert sum(map(int, re.findall(r"Rows Removed by Filter: (\d+)", plan))) <= 1


async def test_a_small_tree_is_found_beside_one_that_has_nearly_everything(
    migrated_postgres_url: str,
) -> None:
    story = Story()
    async with open_ledger(migrated_postgres_url):
        small = story.account("bob"), story.account("ada")
        await record(migrated_postgres_url, *small, *holds_and_commits(story, ["ada"], 1_000))
    query(migrated_postgres_url, "ANALYZE holdfast.entry")
    await until(lambda: not query(migrated_postgres_url, OTHERS))
    before = query(migrated_postgres_url, READ)
    async with open_ledger(migrated_postgres_url) as ledger:
        read = await ledger.read_trees([("tenant", "bob")])
    await until(lambda: not query(migrated_postgres_url, OTHERS))

    assert read.trees["tenant", "bob"].entries == 1
    assert query(migrated_postgres_url, READ) == before
