"""Trees come back by a snapshot and what is behind it, and never by one that is not right."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast_server.control import snapshots
from holdfast_server.control.snapshots import SnapshotKeeper
from holdfast_server.domain import operation as op
from holdfast_server.domain.rebuild import SNAPSHOT_LAYOUT, rebuild, take
from holdfast_server.telemetry.names import Snapshotted
from holdfast_server.telemetry.recorder import Recorder
from tests.hydration.snapshot_stage import ROOT, Stage
from tests.support.ledger import query


async def test_a_history_of_many_pages_comes_back(stage: Stage) -> None:
    await stage.work()
    whole = await stage.read()
    assert whole.entries > 4 * 3
    assert await stage.bring_back() == [Snapshotted.SAVED]
    behind = await stage.read()
    assert behind.entries == 0
    assert take(behind.rebuilt) == take(whole.rebuilt)


async def test_only_what_is_behind_a_snapshot_is_read(stage: Stage) -> None:
    """Holds that are open at the snapshot are captured, expire and are committed late behind it."""
    expiring, kept = await stage.work()
    assert await stage.bring_back() == [Snapshotted.SAVED]
    (before,) = stage.kept()
    assert (await stage.both.commit(expiring, 2)).applied.seq
    assert (await stage.both.commit(kept, 1, final=False)).applied.seq
    video = op.GrantTerms("video", 5, op.GrantSource.PLAN)
    await stage.both.do(op.Grant("t", "root", video, stage.both.key()))
    await stage.work()
    read = await stage.read()
    assert 0 < read.entries < read.rebuilt.entries
    assert await stage.bring_back() == [Snapshotted.SAVED]
    (after,) = stage.kept()
    assert after["seq"] > before["seq"]
    query(stage.url, "DELETE FROM holdfast.tree_snapshot")
    whole = await stage.read()
    assert (whole.entries, take(whole.rebuilt)) == (after["entries"], take(read.rebuilt))
    assert after["sha256"] == take(whole.rebuilt).digest


async def test_what_was_soon_read_is_not_kept(stage: Stage) -> None:
    assert await stage.bring_back() == []
    await stage.work()
    assert await stage.bring_back() == [Snapshotted.SAVED]
    await stage.both.grant("child", 1)
    assert await stage.bring_back() == []


async def test_late_holds_whose_time_is_over_are_not_kept(stage: Stage) -> None:
    await stage.work()
    assert (await stage.read()).rebuilt.late
    stage.both.real.clock.now_ms += 90_000_000
    await stage.both.grant("child", 1)
    read = await stage.read()
    assert read.rebuilt.late
    await stage.bring_back()
    assert not (await stage.read()).rebuilt.late


BROKEN = {
    "state": "UPDATE holdfast.tree_snapshot SET state = state || '\\x20'",
    "place": "UPDATE holdfast.tree_snapshot SET seq = seq - 1",
    "time": "UPDATE holdfast.tree_snapshot SET event_time = event_time + interval '1 hour'",
    "digest": "UPDATE holdfast.tree_snapshot SET sha256 = sha256(sha256)",
    "count": "UPDATE holdfast.tree_snapshot SET entries = 1",
    "another epoch": "UPDATE holdfast.tree_snapshot SET epoch = epoch + 1",
    "another partition": "UPDATE holdfast.tree_snapshot SET partition = partition + 1",
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
async def test_a_snapshot_that_was_changed_is_not_used(stage: Stage, change: Any) -> None:
    await stage.work()
    await stage.bring_back()
    (right,) = stage.kept()
    query(stage.url, change)
    assert await stage.bring_back() == [Snapshotted.REFUSED, Snapshotted.SAVED]
    (again,) = stage.kept()
    assert again | {"made_at": None} == right | {"made_at": None}


async def test_a_snapshot_of_an_entry_that_the_ledger_lost_is_not_used(stage: Stage) -> None:
    """As after a fail-over of Postgres that somebody slept through who had read before it."""
    await stage.work()
    seq = (await stage.read()).rebuilt.seq
    await stage.wrong(seq=seq + 5)
    assert await stage.bring_back() == [Snapshotted.REFUSED, Snapshotted.SAVED]
    assert [row["seq"] for row in stage.kept()] == [seq]


async def test_a_snapshot_of_another_layout_is_left_to_those_who_read_it(stage: Stage) -> None:
    await stage.work()
    other = await stage.wrong(layout=SNAPSHOT_LAYOUT + 1)
    keeper = SnapshotKeeper(stage.both.ledger, Recorder())
    for refused in (await stage.both.ledger.read_trees([ROOT])).refused:
        keeper.refuse(refused)
    await keeper.settled()
    assert [row["layout"] for row in stage.kept()] == [other.layout]
    assert await stage.bring_back() == [Snapshotted.REFUSED, Snapshotted.SAVED]
    assert [row["layout"] for row in stage.kept()] == [SNAPSHOT_LAYOUT]


async def test_a_snapshot_that_does_not_fit_what_follows_is_not_used(stage: Stage) -> None:
    """One that claims to go further than it does: versions behind it have a gap."""
    await stage.work()
    before = take((await stage.read()).rebuilt)
    await stage.work()
    now = take((await stage.read()).rebuilt)
    for _ in range(2):
        await stage.wrong(seq=now.seq, state=before.state, entries=before.entries)
        await stage.both.grant("child", 1)
        assert await stage.bring_back() == [Snapshotted.REFUSED, Snapshotted.SAVED]
        assert stage.kept()[0]["seq"] > now.seq


async def test_a_snapshot_of_half_a_transaction_is_not_what_the_entries_say(stage: Stage) -> None:
    """Nobody makes one: a tree is kept that was installed, so all of its entries were there."""
    both = stage.both
    await both.grant("child", 3)
    assert (await both.reserve("child", 9)).hold
    assert (await both.reserve("root", 1)).hold
    entries = await stage.entries()
    (cut,) = {each.seq for each in entries[:-1] if each.first_seq < each.seq}
    half = rebuild(*ROOT, [each for each in entries if each.seq < cut])
    assert await both.ledger.save_snapshot(take(half))
    assert (await stage.read()).rebuilt.seq > cut
    with pytest.raises(AssertionError):
        await stage.bring_back()


async def test_a_snapshot_only_goes_forward(stage: Stage) -> None:
    await stage.work()
    older = take((await stage.read()).rebuilt)
    await stage.work()
    newer = take((await stage.read()).rebuilt)
    save = stage.both.ledger.save_snapshot
    assert [await save(each) for each in (newer, older, newer)] == [True, False, False]
    assert [row["seq"] for row in stage.kept()] == [newer.seq]


async def test_of_two_writers_the_one_that_goes_further_stays(stage: Stage) -> None:
    taken = []
    for _ in range(4):
        await stage.work()
        taken.append(take((await stage.read()).rebuilt))
    for _ in range(5):
        query(stage.url, "DELETE FROM holdfast.tree_snapshot")
        await asyncio.gather(*map(stage.both.ledger.save_snapshot, taken[::-1] + taken))
        assert [row["seq"] for row in stage.kept()] == [taken[-1].seq]
    assert await stage.bring_back() == []


async def test_all_snapshots_may_be_deleted_at_any_time(stage: Stage) -> None:
    for _ in range(3):
        await stage.work()
        assert await stage.bring_back() == [Snapshotted.SAVED]
        assert await stage.bring_back() == []
        query(stage.url, "DELETE FROM holdfast.tree_snapshot")
        assert await stage.bring_back() == [Snapshotted.SAVED]


async def test_what_cannot_be_kept_is_only_counted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.work()
    query(stage.url, "ALTER TABLE holdfast.tree_snapshot ADD CHECK (seq < 0)")
    assert await stage.bring_back() == [Snapshotted.FAILED]
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES_MAX", 100)
    assert await stage.bring_back() == [Snapshotted.SKIPPED]
    monkeypatch.setattr(snapshots, "WAITING_MAX", 0)
    assert await stage.bring_back() == [Snapshotted.SKIPPED]
    assert stage.kept() == []
