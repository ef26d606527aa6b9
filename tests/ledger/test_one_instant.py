"""What happened in one millisecond is told in the order in which it happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from holdfast_server.domain.entry import Context, Entry
from holdfast_server.domain.figures import VERSION, Figure
from holdfast_server.domain.reply import Buckets
from holdfast_server.ledger.store import Ledger
from tests.support.entries import START_MS, Story
from tests.support.ledger import record

GRANTS = tuple(f"{n:032x}" for n in (2, 3, 1))


@pytest.fixture
async def told(ledger: Ledger, migrated_postgres_url: str) -> list[Entry]:
    """Three grants and a hold of one instant."""
    story = Story()
    entries = [story.grant("ada", 10 * n, each) for n, each in enumerate(GRANTS, 1)]
    entries.append(story.hold("ada", 5, grant_id=GRANTS[0]))
    entries = [replace(each, event_ms=START_MS) for each in entries]
    await record(migrated_postgres_url, *entries)
    return entries


async def one_by_one(read: Callable[..., Awaitable[list[Any]]]) -> list[Any]:
    """All pages, each with one item."""
    items: list[Any] = []
    while page := await read("tenant", "ada", limit=1, before=items[-1].place if items else None):
        items += page
    return items


async def test_pages_leave_out_nothing_of_an_instant(ledger: Ledger, told: list[Entry]) -> None:
    entries = await one_by_one(ledger.list_entries)
    grants = await one_by_one(ledger.list_grants)

    assert [each.entry.seq for each in entries] == [4, 3, 2, 1]
    assert [each.grant_id for each in grants] == sorted(GRANTS, reverse=True)


async def test_a_balance_is_what_the_last_entry_of_its_instant_says(
    ledger: Ledger, told: list[Entry]
) -> None:
    last = Buckets(granted=60, available=55, held=5)
    balance = await ledger.balance_at("tenant", "ada", START_MS)
    explained = await ledger.explain_balance("tenant", "ada", "ai", START_MS, 2)
    newest = await ledger.newest_figures(("tenant", "ada"), 0, 4, [("ada", "ai")])

    assert balance.credits == {"ai": (last, 4)}
    assert ([each.entry.seq for each in explained.entries], explained.closing) == ([3, 4], last)
    assert newest is not None
    assert newest[Figure("ada", "ai", "", VERSION)] == 4


async def test_one_key_of_two_methods_is_two_operations(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    story = Story()
    grant, hold, commit = story.grant("ada", 9), story.hold("ada", 7), story.commit("ada", 7)
    same = Context(commit.context.method, grant.context.key, b"f")
    other = story.grant("ada", 1, GRANTS[0])
    await record(migrated_postgres_url, grant, hold, replace(commit, context=same), other)

    names = [(each, same.key) for each in ("Commit", "Grant")] + [("Grant", other.context.key)]
    found = await ledger.find_operations("tenant", [*names, ("Burn", same.key)])

    assert {name: each.first_seq for name, each in found.items()} == dict(
        zip(names, (3, 1, 4), strict=True)
    )
    assert await ledger.find_operation("tenant", "Grant", "other") is None
