"""Trees that never leave the hot store have snapshots, too, and nobody waits for them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from holdfast_server.control import hot_trees
from holdfast_server.control.hot_trees import STRETCH_ENTRIES, HotTrees, chosen
from holdfast_server.control.snapshots import SnapshotKeeper
from holdfast_server.domain.rebuild import rebuild, take
from holdfast_server.telemetry.names import Snapshotted
from tests.hydration.snapshot_stage import ROOT, Noting, Stage
from tests.hydration.test_layout import boundaries


def hot_trees_of(stage: Stage) -> tuple[HotTrees, Noting]:
    """As a process that has just begun has it."""
    noting = Noting()
    return HotTrees(stage.both.ledger, SnapshotKeeper(stage.both.ledger, noting)), noting


@pytest.fixture
def every_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names its tree."""
    monkeypatch.setattr(hot_trees, "STRETCH_ENTRIES", 1)


@pytest.mark.usefixtures("every_entry")
async def test_a_tree_in_use_is_kept_again_and_again(stage: Stage) -> None:
    await stage.both.flushed()
    looking, noting = hot_trees_of(stage)
    assert await looking.look()
    seqs = [0]
    for _ in range(3):
        await stage.work()
        last = (await stage.read()).rebuilt.seq
        while not await looking.look():
            pass
        (row,) = stage.kept()
        assert seqs[-1] < row["seq"] < last
        seqs.append(row["seq"])
    assert noting.results == [Snapshotted.SAVED] * 3
    assert await stage.bring_back() == []


@pytest.mark.usefixtures("every_entry")
async def test_what_was_before_the_process_is_left_alone(stage: Stage) -> None:
    await stage.work()
    await stage.both.flushed()
    looking, _ = hot_trees_of(stage)
    assert await looking.look()
    assert stage.kept() == []


@pytest.mark.usefixtures("every_entry")
async def test_two_that_walk_do_the_work_of_one(stage: Stage) -> None:
    await stage.both.flushed()
    walks = [hot_trees_of(stage) for _ in range(2)]
    for looking, _ in walks:
        assert await looking.look()
    await stage.work()
    await stage.both.flushed()
    for looking, _ in walks:
        while not await looking.look():
            pass
    assert [noting.results for _, noting in walks] == [[Snapshotted.SAVED], []]


@pytest.mark.usefixtures("every_entry")
async def test_a_long_tail_is_told_part_by_part(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more of them than it is the tree's turn for."""
    monkeypatch.setattr(hot_trees, "PART_ENTRIES", 8)
    monkeypatch.setattr(hot_trees, "PARTS_MAX", 2)
    await stage.both.flushed()
    looking, _ = hot_trees_of(stage)
    await looking.look()
    await stage.work()
    await stage.work()
    await stage.both.flushed()
    while not await looking.look():
        pass
    (row,) = stage.kept()
    assert 8 < row["entries"] <= 16
    await stage.both.grant("child", 1)
    await stage.both.flushed()
    while not await looking.look():
        pass
    (row,) = stage.kept()
    assert 16 < row["entries"] <= 32


@pytest.mark.usefixtures("every_entry")
async def test_one_that_does_not_fit_makes_way_for_a_right_one(stage: Stage) -> None:
    await stage.work()
    before = take((await stage.read()).rebuilt)
    await stage.work()
    wrong = await stage.wrong(state=before.state, entries=before.entries)
    noting = Noting()
    keeper = SnapshotKeeper(stage.both.ledger, noting)
    looking = HotTrees(stage.both.ledger, keeper)
    await looking.look()
    for expected in (0, 1):
        await stage.both.grant("child", 1)
        await stage.both.grant("child", 1)
        await stage.both.flushed()
        while not await looking.look():
            pass
        await keeper.settled()
        assert len(stage.kept()) == expected
    assert noting.results == [Snapshotted.REFUSED, Snapshotted.SAVED]
    (row,) = stage.kept()
    entries = [each for each in await stage.entries() if each.seq <= row["seq"]]
    assert row["seq"] > wrong.seq
    assert row["sha256"] == take(rebuild(*ROOT, entries)).digest


async def test_what_is_told_in_parts_ends_between_two_transactions(stage: Stage) -> None:
    """Wherever a part ends, and whatever of a transaction the ledger has not yet."""
    await stage.work()
    entries = await stage.entries()
    ends = {0, *boundaries(entries)}
    assert len(ends) <= len(entries)
    for limit in range(1, len(entries) + 1):
        rebuilt = rebuild(*ROOT, [])
        assert not await stage.both.ledger.go_on(rebuilt, limit)
        assert rebuilt.entries == max(end for end in ends if end < limit)
        if rebuilt.entries:
            expected = rebuild(*ROOT, entries[: rebuilt.entries])
            assert take(rebuilt) == take(expected)


async def test_parts_add_up_to_the_whole(stage: Stage) -> None:
    await stage.work()
    whole = (await stage.read()).rebuilt
    for limit in (6, 7, 9, 50):
        rebuilt = rebuild(*ROOT, [])
        while not await stage.both.ledger.go_on(rebuilt, limit, whole.seq):
            pass
        assert take(rebuilt) == take(whole)


def test_of_each_stretch_one_entry_is_chosen_whoever_walks() -> None:
    last = 50 * STRETCH_ENTRIES
    found = list(chosen(7, 0, last))
    assert len(found) in {49, 50}
    assert [seq // STRETCH_ENTRIES for seq in found] == list(range(len(found)))
    steps = [*range(0, last, 17_123), last]
    assert [seq for a, b in pairwise(steps) for seq in chosen(7, a, b)] == found
    assert found != list(chosen(8, 0, last))
    assert list(chosen(7, last, last)) == []
