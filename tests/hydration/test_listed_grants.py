"""What became of grants where a snapshot stands for most entries of their account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain.rebuild import take
from holdfast_server.ledger import grants
from holdfast_server.ledger.records import RecordedGrant
from tests.hydration.snapshot_stage import ROOT, Stage
from tests.support.ledger import query, tamper


async def lives(stage: Stage) -> None:
    """Grants that are spent, paid debts, wait, were lost in part and as a whole, and came back."""
    both, clock = stage.both, stage.both.real.clock
    held = await both.grant("child", 9, priority=-2, expires_at_ms=clock.now_ms + 30_000)
    hold = await both.reserve("child", 5, ttl_ms=3_600_000)
    burned = await both.do(op.Burn("t", "child", (op.Line("ai", 3),), both.key()))
    await both.grant("child", 4, expires_at_ms=clock.now_ms + 20_000)
    waiting = await both.grant("child", 7, effective_at_ms=clock.now_ms + 3_600_000)
    await both.grant("child", 8, effective_at_ms=clock.now_ms + 10_000)
    for grant_id in (waiting, await both.grant("child", 6)):
        revoke = op.Revoke("t", "child", grant_id, both.key(), durability=op.Durability.MEMORY)
        await both.do(revoke)
    for open_hold in await stage.work():
        assert (await both.commit(open_hold)).applied.seq
    clock.now_ms += 40_000
    assert (await both.commit(hold.hold, 1)).applied.seq
    await both.do(op.Refund("t", burned.applied.transaction_id, both.key(), reason_code="test"))
    await both.flushed()
    listed = {each.grant_id: each for each in await of_child(stage)}
    assert (listed[held].burned, listed[held].expired) == (2, 7)
    assert listed[waiting].revoked == 7


async def of_child(stage: Stage) -> list[RecordedGrant]:
    """All of its grants."""
    found = await stage.both.ledger.list_grants("t", "child", limit=100)
    for each in found:
        parts = each.remaining, each.held, each.burned, each.expired, each.revoked
        assert min(parts) >= 0
        assert sum(parts) == each.terms.amount
    return found


async def snapshots(stage: Stage) -> AsyncIterator[None]:
    """Has the snapshot behind each transaction of the tree, one after the other."""
    for entry, following in pairwise(await stage.entries()):
        if entry.first_seq == following.first_seq:
            continue
        query(stage.url, "DELETE FROM holdfast.tree_snapshot")
        begun = await stage.both.ledger.begin_tree(ROOT)
        assert await stage.both.ledger.go_on(begun.rebuilt, 10_000, entry.seq)
        assert await stage.both.ledger.save_snapshot(take(begun.rebuilt))
        yield


async def test_grants_are_what_all_entries_say_wherever_a_snapshot_was_taken(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lives(stage)
    stage.both.real.clock.now_ms += 3_600_000
    await lives(stage)
    expected = await of_child(stage)
    monkeypatch.setattr(grants, "SUMMED_ENTRIES_MAX", 0)
    count = 0
    async for _ in snapshots(stage):
        count += 1
        assert await of_child(stage) == expected
    assert count > 40


async def test_entries_before_a_snapshot_are_not_read_for_a_list_of_grants(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account may have millions of them: they are other figures here, and make no difference."""
    await lives(stage)
    expected = await of_child(stage)
    monkeypatch.setattr(grants, "SUMMED_ENTRIES_MAX", 0)
    read = await stage.read()
    assert await stage.both.ledger.save_snapshot(take(read.rebuilt))
    tamper(
        stage.url,
        "UPDATE holdfast.entry "
        "SET grant_changes = array_fill(7, array[cardinality(grant_changes)]) "
        "WHERE delta_expired = 0 AND delta_revoked = 0 AND grant_changes IS NOT NULL",
    )
    assert await of_child(stage) == expected


async def test_an_account_that_is_newer_than_the_snapshot_of_its_tree_has_its_grants(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "SUMMED_ENTRIES_MAX", 0)
    read = await stage.read()
    assert await stage.both.ledger.save_snapshot(take(read.rebuilt))
    await stage.both.account("late", parent="root")
    await stage.both.grant("late", 5)
    await stage.both.flushed()
    (grant,) = await stage.both.ledger.list_grants("t", "late", limit=9)
    assert (grant.remaining, grant.burned) == (5, 0)
