"""What is due in trees that a rebuilt partition has in the ledger alone ends in time, although
nobody touches an account.
"""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg import sql

from holdfast_server import failpoint
from holdfast_server.control import due_search
from holdfast_server.domain import operation as op
from holdfast_server.domain.entry import EntryKind
from holdfast_server.engine import due_notes
from holdfast_server.engine.due_notes import DueNotes, DueRoot, Page
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.sql import QUERIES
from holdfast_server.recovery.verdict import Verdict
from tests.support.both import Both
from tests.support.due import index_of, names_in, sweeper_of
from tests.support.ledger import query
from tests.support.rebuilding import coordinator_of, rebuild, search, search_of

TTL_MS = 60_000
#: The partition that these tests give up.
PARTITION = 1


def kinds(postgres_url: str, account: str) -> list[EntryKind]:
    """What the ledger says of an account by itself, in order."""
    found = query(
        postgres_url,
        "SELECT kind FROM holdfast.entry WHERE account = %s AND caller = 'sweeper' ORDER BY seq",
        account,
    )
    return [EntryKind(row["kind"]) for row in found]


async def due_in(both: Both) -> dict[str, int]:
    """The index of the partition."""
    name = both.real.keys.due(PARTITION, both.real.keys.epoch(PARTITION))
    rows: Any = await both.real.store.client.zrange(name, 0, -1, withscores=True)
    return {member.decode().split("/")[1]: int(score) for member, score in rows}


async def stored(both: Both, root: str) -> bool:
    """Whether a tree is in the hot store."""
    epoch = both.real.keys.epoch(PARTITION)
    tree, _ = both.real.keys.tree_keys(PARTITION, epoch, "t", root)
    return bool(await both.real.store.client.exists(tree))


async def fund(both: Both, *names: str) -> None:
    for name in names:
        await both.account(name)
        await both.grant(name, 100)


async def end_what_is_due(both: Both) -> tuple[int, int]:
    ended = await sweeper_of(both.real).sweep()
    await both.flushed()
    return ended


async def test_holds_expire_although_nobody_comes(both: Both, migrated_postgres_url: str) -> None:
    """One is open, one was extended, and others had ended before the rebuild."""
    names = names_in(both.real.keys, PARTITION, 5)
    open_, extended, committed, released, idle = names
    await fund(both, *names)
    holds = [(await both.reserve(name, 7, TTL_MS)).hold for name in names[:4]]
    await both.do(op.Extend("t", holds[1], 2 * TTL_MS, both.key()))
    await both.commit(holds[2])
    await both.do(op.Release("t", holds[3], both.key()))
    await both.flushed()
    await rebuild(both, migrated_postgres_url, PARTITION)

    await search(both)
    start_ms = both.real.clock.now_ms
    assert await due_in(both) == {open_: start_ms + TTL_MS, extended: start_ms + TTL_MS}
    assert await end_what_is_due(both) == (0, 0)
    both.real.clock.now_ms += TTL_MS
    assert await end_what_is_due(both) == (1, 0)
    assert kinds(migrated_postgres_url, open_) == [EntryKind.HOLD_EXPIRED]
    assert kinds(migrated_postgres_url, extended) == []
    assert await index_of(both.real).open_holds() == 1
    assert await due_in(both) == {extended: start_ms + 2 * TTL_MS}
    both.real.clock.now_ms += TTL_MS
    assert await end_what_is_due(both) == (1, 0)
    assert kinds(migrated_postgres_url, extended) == [EntryKind.HOLD_EXPIRED]
    assert await index_of(both.real).open_holds() == 0
    assert [await stored(both, name) for name in (committed, released, idle)] == [False] * 3
    assert (await both.ledger.verify()).violations == ()


async def test_the_check_can_say_no(both: Both, migrated_postgres_url: str) -> None:
    """Without the search, nothing ends before somebody comes: the negative control."""
    (name,) = names_in(both.real.keys, PARTITION, 1)
    await fund(both, name)
    await both.reserve(name, 7, TTL_MS)
    await both.flushed()
    await rebuild(both, migrated_postgres_url, PARTITION)
    both.real.clock.now_ms += TTL_MS

    assert await end_what_is_due(both) == (0, 0)
    assert kinds(migrated_postgres_url, name) == []
    assert (await both.buckets(name)).held == 0
    await both.flushed()
    assert kinds(migrated_postgres_url, name) == [EntryKind.HOLD_EXPIRED]


async def test_grants_expire_and_begin_although_nobody_comes(
    both: Both, migrated_postgres_url: str
) -> None:
    """Of an account below a root too; what time has done already, or cannot do, brings no tree."""
    now_ms = both.real.clock.now_ms
    names = names_in(both.real.keys, PARTITION, 6)
    expiring, beginning, root, burned, passed, never = names
    for name in names:
        await both.account(name)
    await both.account("below", parent=root)
    await both.grant(expiring, 10, expires_at_ms=now_ms + 5_000)
    await both.grant(beginning, 10, effective_at_ms=now_ms + 3_000, expires_at_ms=now_ms + 9_000)
    await both.grant("below", 10, expires_at_ms=now_ms + 4_000)
    await both.grant(burned, 10, expires_at_ms=now_ms + 6_000)
    await both.do(op.Burn("t", burned, (op.Line("ai", 10),), both.key()))
    await both.grant(passed, 10, expires_at_ms=now_ms + 1_000)
    await both.grant(never, 10)
    both.real.clock.now_ms += 1_000
    assert (await both.buckets(passed)).expired == 10
    await both.grant(passed, 10)
    await both.flushed()
    await rebuild(both, migrated_postgres_url, PARTITION)

    await search(both)
    assert await due_in(both) == {
        expiring: now_ms + 5_000,
        beginning: now_ms + 3_000,
        root: now_ms + 4_000,
    }
    both.real.clock.now_ms = now_ms + 5_000
    assert await end_what_is_due(both) == (0, 3)
    assert kinds(migrated_postgres_url, expiring) == [EntryKind.GRANT_EXPIRED]
    assert kinds(migrated_postgres_url, beginning) == [EntryKind.GRANT_EFFECTIVE]
    assert kinds(migrated_postgres_url, "below") == [EntryKind.GRANT_EXPIRED]
    both.real.clock.now_ms = now_ms + 9_000
    assert await end_what_is_due(both) == (0, 1)
    assert await due_in(both) == {}
    assert not any([await stored(both, name) for name in (burned, passed, never)])
    assert (await both.ledger.verify()).violations == ()


async def test_a_refund_may_have_given_what_expires(both: Both, migrated_postgres_url: str) -> None:
    now_ms = both.real.clock.now_ms
    (name,) = names_in(both.real.keys, PARTITION, 1)
    await both.account(name)
    await both.grant(name, 10, expires_at_ms=now_ms + 1_000)
    burn = await both.do(op.Burn("t", name, (op.Line("ai", 10),), both.key()))
    both.real.clock.now_ms += 2_000
    refund = op.Refund(
        "t",
        burn.applied.transaction_id,
        both.key(),
        (op.RefundLine("ai", 4),),
        "sorry",
        goodwill_ttl_ms=7_000,
    )
    assert (await both.do(refund)).applied.seq
    await both.flushed()
    await rebuild(both, migrated_postgres_url, PARTITION)

    await search(both)
    assert await due_in(both) == {name: now_ms + 9_000}
    both.real.clock.now_ms = now_ms + 9_000
    assert await end_what_is_due(both) == (0, 1)
    assert kinds(migrated_postgres_url, name) == [EntryKind.GRANT_EXPIRED]


async def test_whoever_dies_is_followed_by_another(
    both: Both, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, with a new process for each step of it; no page is read twice but the one that
    was not noted yet.
    """
    monkeypatch.setattr(due_search, "PAGE_ENTRIES", 5)
    names = names_in(both.real.keys, PARTITION, 6)
    for name in names:
        await fund(both, name)
        await both.reserve(name, 7, TTL_MS)
    await both.flushed()
    await rebuild(both, migrated_postgres_url, PARTITION)
    notes = DueNotes(both.real.store, both.real.keys)
    seen: list[int | None] = []

    for point in ("due_search.after_read", "due_search.after_note"):
        monkeypatch.setattr(failpoint, "_points", failpoint.parse(f"{point}=error"))
        with pytest.raises(failpoint.FailpointError):
            await search_of(both).look()
        seen.append(await notes.unread(PARTITION))
    while not await search_of(both).look():
        seen.append(await notes.unread(PARTITION))

    assert seen == [None, 14, 9, 4]
    assert await notes.unread(PARTITION) == 1
    assert set(await due_in(both)) == set(names)
    both.real.clock.now_ms += TTL_MS
    assert await end_what_is_due(both) == (6, 0)


@pytest.mark.parametrize("verdict", [Verdict.KEPT, Verdict.REBUILT])
async def test_a_recovery_in_the_middle(
    both: Both,
    migrated_postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    verdict: Verdict,
) -> None:
    """What is kept is searched from where it was; what is given up again, from the beginning."""
    monkeypatch.setattr(due_search, "PAGE_ENTRIES", 5)
    keys, notes = both.real.keys, DueNotes(both.real.store, both.real.keys)
    names = names_in(keys, PARTITION, 3)
    for name in names:
        await fund(both, name)
        await both.reserve(name, 7, TTL_MS)
    await both.flushed()
    await rebuild(both, migrated_postgres_url, PARTITION)
    assert not await search_of(both).look()
    assert await notes.unread(PARTITION) == 5

    if verdict is Verdict.REBUILT:
        await rebuild(both, migrated_postgres_url, PARTITION)
    else:
        state = keys.state(PARTITION, keys.epoch(PARTITION))
        await both.real.store.client.hset(state, "e", "2 0 FENCED")
        (done,) = await coordinator_of(both, migrated_postgres_url).recover()
        assert (done.verdict, done.armed) == (Verdict.KEPT, True)
    assert keys.epoch(PARTITION) == 3
    assert await notes.unread(PARTITION) == (None if verdict is Verdict.REBUILT else 5)
    await search(both)
    both.real.clock.now_ms += TTL_MS
    assert await end_what_is_due(both) == (3, 0)


async def test_two_that_search_agree(both: Both, migrated_postgres_url: str) -> None:
    (name,) = names_in(both.real.keys, PARTITION, 1)
    await fund(both, name)
    await both.reserve(name, 7, TTL_MS)
    await both.flushed()
    await rebuild(both, migrated_postgres_url, PARTITION)
    notes = DueNotes(both.real.store, both.real.keys)

    assert await notes.note(Page(PARTITION, 4, 2, [DueRoot("t", name, 5_000)])) == 2
    assert await notes.note(Page(PARTITION, 4, 1, [DueRoot("t", "other", 5_000)])) == 2
    assert await notes.note(Page(PARTITION, 2, 1, [DueRoot("t", name, 6_000)])) == 1
    assert await due_in(both) == {name: 5_000}
    # A tree that is there has due times of its own.
    await both.buckets(name)
    before = await due_in(both)
    assert before[name] > 5_000
    assert await notes.note(Page(PARTITION, 1, 1, [DueRoot("t", name, 4_000)])) == 1
    assert await due_in(both) == before
    # So has one that somebody removed by hand.
    keys = both.real.keys
    await both.real.store.client.delete(
        keys.tree_keys(PARTITION, keys.epoch(PARTITION), "t", name)[0]
    )
    assert await notes.note(Page(PARTITION, 1, 1, [DueRoot("t", name, 4_000)])) == 1
    assert await due_in(both) == before


async def test_a_page_is_noted_in_parts(
    both: Both, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_notes, "TREES_MAX", 2)
    await rebuild(both, migrated_postgres_url, PARTITION)
    notes = DueNotes(both.real.store, both.real.keys)
    roots = [DueRoot("t", name, 5_000) for name in names_in(both.real.keys, PARTITION, 5)]

    assert await notes.note(Page(PARTITION, 9, 1, roots)) == 1
    assert set(await due_in(both)) == {each.root for each in roots}


async def test_a_fenced_partition_notes_nothing(both: Both, migrated_postgres_url: str) -> None:
    await rebuild(both, migrated_postgres_url, PARTITION)
    keys = both.real.keys
    state = keys.state(PARTITION, keys.epoch(PARTITION))
    armed = await both.real.store.client.hget(state, "e")
    await both.real.store.client.hset(state, "e", "2 0 FENCED")

    with pytest.raises(HoldfastError) as refused:
        await DueNotes(both.real.store, keys).note(
            Page(PARTITION, 9, 1, [DueRoot("t", "any", 5_000)])
        )
    assert refused.value.reason is Reason.FENCED
    assert await due_in(both) == {}
    looking = search_of(both)
    assert not await looking.look()
    assert await DueNotes(both.real.store, keys).unread(PARTITION) is None
    # It is left alone for a while by whoever has found it fenced.
    await both.real.store.client.hset(state, "e", armed or "")
    assert not await looking.look()
    assert await search_of(both).look()


async def test_a_tree_with_nothing_due_leaves_the_index(
    both: Both, migrated_postgres_url: str
) -> None:
    """Whether it comes back from the ledger, is there already, or never was."""
    cold, warm, ghost = names_in(both.real.keys, PARTITION, 3)
    await fund(both, cold, warm)
    await both.flushed()
    await rebuild(both, migrated_postgres_url, PARTITION)
    await both.buckets(warm)
    name = both.real.keys.due(PARTITION, both.real.keys.epoch(PARTITION))
    early = {f"t/{each}": 1 for each in (cold, warm, ghost)}
    await both.real.store.client.zadd(name, early)

    assert await end_what_is_due(both) == (0, 0)
    assert await due_in(both) == {}


def test_a_page_reads_no_whole_table(migrated_postgres_url: str) -> None:
    """How a hold ended is looked up by the hold, and a grant by its id; else each page would read
    all operations, and all grants for each entry.
    """
    page: dict[str, object] = {"partition": PARTITION, "first_seq": 1, "before_seq": 2_000}
    with psycopg.connect(migrated_postgres_url) as connection:
        # So that it is no matter that the tables are small.
        connection.execute("SET enable_seqscan = off")
        explain = sql.SQL("EXPLAIN (FORMAT JSON) ") + sql.SQL(QUERIES["due_between"])
        plan = json.dumps(connection.execute(explain, page).fetchone())
    assert "(hold_ended = page.hold)" in plan
    assert "(grant_id = given.grant_id)" in plan
