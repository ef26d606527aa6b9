"""The flusher with both stores well: what it brings over, says, forgets and leaves alone."""

from __future__ import annotations

import asyncio

import pytest

from holdfast_server.background import background
from holdfast_server.engine.keys import FLUSHED_FIELD
from holdfast_server.flusher.flusher import (
    REST_RATIO,
    REST_SECONDS_MAX,
    REST_SECONDS_MIN,
    rest_seconds,
)
from holdfast_server.flusher.retention import Retention
from holdfast_server.ledger.append import CursorsMoved
from tests.flusher.stage import KEYS, Heard, Stage
from tests.support.entries import Story, history_of, holds_and_commits
from tests.support.ledger import begin_epoch
from tests.support.waiting import until

ACCOUNTS = ["ada", "bob"]


async def test_entries_reach_the_ledger_once_and_in_order(stage: Stage) -> None:
    """I10, I11: gap-free, chained, every entry, over several partitions and batches."""
    stories = [history_of(partition, 30) for partition in (0, 1, 3)]
    entries = [entry for story in stories for entry in story]
    heard = Heard()
    await stage.add(*entries)

    async with stage.flushing(heard, batch_entries_max=25):
        await stage.until_recorded(p0=62, p1=62, p3=62)

    await stage.check(entries)
    assert await stage.watermarks() == {0: 62, 1: 62, 3: 62}
    assert sum(batch.entries for batch in heard.batches) == len(entries)
    assert len(heard.batches) > len(entries) / 26
    assert heard.halts == []


async def test_watermarks_are_only_said_of_what_is_recorded(stage: Stage) -> None:
    """Whoever waits for the ledger must never be told too early."""
    too_early: list[tuple[int, int, int]] = []
    heard = Heard()

    async def watch() -> None:
        while True:
            said = await stage.watermarks()
            recorded = await stage.recorded()
            too_early.extend(
                (partition, seq, recorded.get(partition, 0))
                for partition, seq in said.items()
                if seq > recorded.get(partition, 0)
            )
            await asyncio.sleep(0)

    async with background(watch()), stage.flushing(heard, batch_entries_max=10):
        for entry in holds_and_commits(Story(), ACCOUNTS, 50):
            await stage.add(entry)
        await stage.until_recorded(p0=102)

    assert too_early == []
    places = [seq for partition, _, seq in heard.flushed if partition == 0]
    assert places == sorted(places)
    assert places[-1] == 102


async def test_entries_that_come_later_are_seen_at_once(stage: Stage) -> None:
    story = Story()
    async with stage.flushing():
        await stage.add(story.grant("ada", 100))
        await stage.until_recorded(p0=1)
        await stage.add(story.hold("ada", 1))
        await stage.until_recorded(p0=2)


async def test_a_busy_partition_does_not_keep_others_waiting(stage: Stage) -> None:
    busy = holds_and_commits(Story(0), ACCOUNTS, 200)
    await stage.add(
        *busy, Story(1).grant("cleo", 1, "01" * 16), Story(2).grant("dan", 1, "02" * 16)
    )
    heard = Heard()

    async with stage.flushing(heard, batch_entries_max=20):
        await stage.until_recorded(p0=len(busy), p1=1, p2=1)

    order = [partition for partition, _, seq in heard.flushed if seq]
    assert set(order[:4]) >= {1, 2}


async def test_flushed_entries_are_trimmed_but_never_the_last_or_others(stage: Stage) -> None:
    """Trimming is lazy, in whole nodes of the stream, and never above what is recorded."""
    story = Story()
    entries = holds_and_commits(story, ACCOUNTS, 400)
    await stage.add(*entries)

    async with stage.flushing():
        await stage.until_recorded(p0=len(entries))

        async def is_trimmed() -> bool:
            return await stage.length(0) <= 200

        await until(is_trimmed)
        state = (await stage.outbox.states({0: (1, len(entries))}))[0]
        await stage.add(story.hold("ada", 1, "0f" * 16))
        await stage.until_recorded(p0=len(entries) + 1)

    assert state.last == (1, len(entries))
    assert state.entry is not None


async def test_nothing_is_trimmed_that_the_ledger_does_not_have(stage: Stage) -> None:
    entries = holds_and_commits(Story(), ACCOUNTS, 200)
    await stage.add(*entries)

    await stage.outbox.trim({0: (1, 0)})
    await stage.outbox.trim({0: (1, 1)})

    assert [await stage.length(each) for each in (0, 1)] == [len(entries), 0]


def test_retention_lets_go_after_its_time_and_once() -> None:
    retention = Retention(1_000, 1_000)
    retention.flushed({0: (1, 10)})
    assert retention.due(0) == {}
    retention.flushed({0: (1, 20), 1: (1, 5)})
    assert retention.due(500) == {}
    assert retention.due(1_000) == {0: (1, 10)}
    assert retention.due(1_500) == {0: (1, 20), 1: (1, 5)}
    assert retention.due(9_000) == {}


def test_retention_lets_go_of_what_is_too_much() -> None:
    """What is written in its time may be more than there is room for."""
    retention = Retention(1_000, 15)
    for now_ms, seq in enumerate((100, 110, 115, 120, 140)):
        retention.flushed({0: (1, seq), 1: (1, 7)})
        found = retention.due(now_ms)
        # Entries that this process has seen flushed, and that stay: 0, 10, 15, then too many.
        expected = {120: {0: (1, 110), 1: (1, 7)}, 140: {0: (1, 140), 1: (1, 7)}}
        assert found == expected.get(seq, {})
    assert retention.due(9_000) == {}


def test_what_could_not_be_trimmed_is_due_again() -> None:
    retention = Retention(1_000, 15)
    retention.flushed({0: (1, 10)})
    assert retention.due(0) == {}
    retention.flushed({0: (1, 12)})
    found = retention.due(1_000)
    retention.put_back(found)
    assert retention.due(1_001) == found == {0: (1, 10)}


def test_retention_forgets_what_the_ledger_has_lost() -> None:
    """F35: what was flushed to the primary before is not flushed any more."""
    retention = Retention(1_000, 1_000)
    retention.flushed({0: (1, 10), 1: (1, 10), 2: (1, 10)})
    assert retention.due(0) == {}
    retention.flushed({0: (1, 20), 1: (1, 20), 2: (1, 20)})
    assert retention.due(500) == {}
    retention.flushed({0: (1, 30)})
    retention.bring_down({0: (1, 15), 1: (1, 20), 2: (2, 25)})
    assert retention.due(1_000) == {0: (1, 10), 1: (1, 10)}
    assert retention.due(9_000) == {1: (1, 20)}
    assert retention.due(99_000) == {}


async def test_watermarks_are_only_raised(stage: Stage) -> None:
    """F40: a flusher that was stopped for long cannot take back what its successor said."""
    for seq in (5, 3, 7, 7, 1):
        await stage.outbox.publish_flushed({0: (1, seq), 2: (1, 2)})

    assert await stage.watermarks() == {0: 7, 2: 2}


async def test_watermarks_that_were_lost_are_said_again(stage: Stage) -> None:
    """F39: killed between commit and publishing, the successor says what the ledger has."""
    await stage.add(Story().grant("ada", 100))
    async with stage.flushing():
        await stage.until_recorded(p0=1)
    await stage.client.hdel(KEYS.state(0, 1), FLUSHED_FIELD)

    async with stage.flushing():

        async def is_said() -> bool:
            return (await stage.watermarks()).get(0) == 1

        await until(is_said)


async def test_three_flushers_compete_and_nothing_is_doubled(stage: Stage) -> None:
    """F37: any number may run; the ledger has each entry once."""
    stories = [history_of(partition, 100) for partition in range(4)]
    entries = [entry for story in stories for entry in story]
    heard = [Heard(), Heard(), Heard()]

    async with (
        stage.flushing(heard[0], batch_entries_max=30),
        stage.flushing(heard[1], batch_entries_max=30),
        stage.flushing(heard[2], batch_entries_max=30),
    ):
        for entry in entries:
            await stage.add(entry)
        await stage.until_recorded(**{f"p{partition}": 202 for partition in range(4)})

    await stage.check(entries)
    assert sum(batch.entries for each in heard for batch in each.batches) == len(entries)


async def test_when_the_flusher_that_leads_ends_another_takes_over(stage: Stage) -> None:
    story, heard = Story(), Heard()
    leading = stage.flusher()
    running = asyncio.create_task(leading.run())
    await stage.add(story.grant("ada", 100))
    await stage.until_recorded(p0=1)

    async with stage.flushing(heard):
        leading.stop()
        await running
        await stage.add(story.hold("ada", 1))
        await stage.until_recorded(p0=2)

    assert [batch.entries for batch in heard.batches] == [1]


async def test_whoever_does_not_lead_any_more_says_so(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    async with stage.flushing(heard) as flusher:
        await stage.add(Story().grant("ada", 100))
        await until(lambda: heard.flushed)
        assert not heard.standbys

        async def lost() -> bool:
            raise CursorsMoved("another flusher leads")

        async def lead() -> bool:
            return False

        monkeypatch.setattr(flusher._appender, "lead", lead)
        monkeypatch.setattr(flusher, "_housekeep", lost)
        await until(lambda: heard.standbys)


async def test_without_the_lock_cursors_alone_keep_flushers_from_harm(stage: Stage) -> None:
    """The lock is for peace, the comparison of cursors for safety."""
    entries = holds_and_commits(Story(), ACCOUNTS, 150)
    heard = Heard()
    flushers = [stage.flusher(heard, batch_entries_max=10) for _ in range(3)]
    for flusher in flushers:

        async def lead() -> bool:
            return True

        flusher._appender.lead = lead  # type: ignore[method-assign]
    running = [asyncio.create_task(flusher.run()) for flusher in flushers]
    await stage.add(*entries)
    await stage.until_recorded(p0=len(entries))
    for flusher in flushers:
        flusher.stop()
    await asyncio.gather(*running)

    await stage.check(entries)


async def test_stop_lets_the_ledger_have_what_is_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was answered has an entry by then."""
    monkeypatch.setattr("holdfast_server.flusher.flusher.STOP_SECONDS_MAX", 60.0)
    entries = holds_and_commits(Story(), ACCOUNTS, 300)
    heard = Heard()
    await stage.add(*entries)

    async with stage.flushing(heard, batch_entries_max=10) as flusher:
        await until(lambda: heard.batches)
        flusher.stop()

    await stage.check(entries)
    assert (await stage.watermarks())[0] == len(entries)


async def test_stop_does_not_last_for_ever_and_lets_the_batch_under_way_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast_server.flusher.flusher.STOP_SECONDS_MAX", 0.0)
    entries = holds_and_commits(Story(), ACCOUNTS, 300)
    heard = Heard()
    await stage.add(*entries)

    async with stage.flushing(heard, batch_entries_max=10) as flusher:
        await until(lambda: heard.batches)
        flusher.stop()

    recorded = (await stage.recorded())[0]
    assert recorded < len(entries)
    assert (await stage.watermarks())[0] == recorded
    assert recorded == sum(batch.entries for batch in heard.batches)
    assert (await stage.ledger.verify()).ok


async def test_an_epoch_that_begins_moves_the_flusher_to_its_stream(stage: Stage) -> None:
    """I19: entries of the epoch before are done with; the next one follows in sequence."""
    story = Story()
    first = story.grant("ada", 100)
    await stage.add(first)
    async with stage.flushing():
        await stage.until_recorded(p0=1)

    assert await begin_epoch(stage.ledger, 0, 1)
    story.epoch = 2
    second = story.hold("ada", 1)
    await stage.add(second)
    async with stage.flushing():
        await stage.until_recorded(p0=2)

    await stage.check([first, second])
    assert await stage.watermarks(epoch=2) == {0: 2}


def test_the_flusher_rests_as_its_work_allows_and_never_for_long() -> None:
    assert rest_seconds(0.0) == REST_SECONDS_MIN
    assert rest_seconds(0.02) == 0.02 * REST_RATIO
    assert rest_seconds(3.0) == REST_SECONDS_MAX
