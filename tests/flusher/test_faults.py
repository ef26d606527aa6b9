"""What the flusher does when something is wrong: it halts one partition, loudly, or it waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import LiteralString

import pytest

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.reply import Buckets
from holdfast_server.engine.outbox import Outbox, Positions
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.prepare import Fault
from tests.flusher.stage import KEYS, KILL_FLUSHERS, Heard, Stage, open_store
from tests.support.entries import Story, add, grant_detail, holds_and_commits, pack
from tests.support.ledger import query
from tests.support.waiting import until


@pytest.fixture
def good() -> list[Entry]:
    """A partition that has nothing to do with the trouble of another."""
    return holds_and_commits(Story(1), ["cleo"], 20)


@asynccontextmanager
async def halting(stage: Stage, heard: Heard) -> AsyncIterator[Flusher]:
    """A flusher whose first partition has halted."""
    async with stage.flushing(heard) as flusher:
        await until(lambda: heard.halts)
        yield flusher


async def test_an_undecodable_entry_halts_its_partition_only(
    stage: Stage, good: list[Entry]
) -> None:
    """F41, I23: evidence is kept, nothing is skipped, others go on."""
    story, heard = Story(), Heard()
    before, poison, behind = story.grant("ada", 100), story.hold("ada", 1), story.hold("ada", 2)
    await stage.add(before, *good[:10])
    await stage.add_raw(poison, b"\xc1poison")
    await stage.add(behind, *good[10:])

    async with halting(stage, heard) as flusher:
        await stage.until_recorded(p0=1, p1=len(good))
        assert [(p, halt.seq, halt.fault) for p, halt in flusher.halted.items()] == [
            (0, 2, Fault.UNREADABLE)
        ]

    await stage.check([before, *good])
    assert stage.quarantine() == [
        {"partition": 0, "seq": 2, "fault": "unreadable", "raw": b"\xc1poison"}
    ]
    assert [(halt.partition, halt.seq) for halt in heard.halts] == [(0, 2)]
    assert (await stage.watermarks())[0] == 1


async def test_a_store_that_takes_no_writes_is_flushed_and_told_later(
    stage: Stage, good: list[Entry]
) -> None:
    """F27: what can still be read there must reach the ledger all the sooner."""
    await stage.add(*good)
    await stage.client.config_set("min-replicas-to-write", 1)
    try:
        async with stage.flushing():
            await stage.until_recorded(p1=len(good))
            assert (await stage.watermarks()).get(1) is None
            await stage.client.config_set("min-replicas-to-write", 0)

            async def is_said() -> bool:
                return (await stage.watermarks()).get(1) == len(good)

            await until(is_said)
    finally:
        await stage.client.config_set("min-replicas-to-write", 0)


async def test_an_entry_that_breaks_a_rule_halts_at_that_very_entry(
    stage: Stage, good: list[Entry]
) -> None:
    """F41: the batch is halved until only the entry at fault is left; what is before it counts."""
    entries = holds_and_commits(Story(), ["ada"], 20)
    place = 30
    poison = replace(entries[place], tenant="")
    heard = Heard()
    await stage.add(*entries[:place], poison, *entries[place + 1 :], *good)

    async with halting(stage, heard):
        await stage.until_recorded(p0=place, p1=len(good))

    await stage.check([*entries[:place], *good])
    (halt,) = heard.halts
    assert (halt.partition, halt.seq, halt.fault) == (0, place + 1, Fault.INVALID)
    assert "entry_names" in halt.explanation
    assert [row["raw"] for row in stage.quarantine()] == [pack(poison)]


async def test_buckets_changed_by_hand_halt_at_the_entry_that_shows_it(
    stage: Stage, good: list[Entry]
) -> None:
    """I2: each row adds up by itself, and Postgres would take it; but it does not go on from the
    one before."""
    story, heard = Story(), Heard()
    grant, hold = story.grant("ada", 100), story.hold("ada", 10)
    after = Buckets(granted=105, available=95, held=10)
    await stage.add(grant, replace(hold, after=after), *good)

    async with halting(stage, heard):
        await stage.until_recorded(p0=1, p1=len(good))

    (halt,) = heard.halts
    assert (halt.seq, halt.fault) == (2, Fault.INVALID)
    assert "do not give" in halt.explanation
    await stage.check([grant, *good])


@pytest.mark.parametrize("version", [1, 3])
async def test_a_version_that_does_not_come_next_halts(stage: Stage, version: int) -> None:
    """I10b: per credits there are no gaps either, and a tree does not go back in time."""
    story, heard = Story(), Heard()
    grant, hold = story.grant("ada", 100), story.hold("ada", 10)
    await stage.add(grant, replace(hold, version=version))

    async with halting(stage, heard):
        await stage.until_recorded(p0=1)

    assert [(halt.seq, halt.fault) for halt in heard.halts] == [(2, Fault.INVALID)]
    assert f"version {version} follows 1" in heard.halts[0].explanation


async def test_an_entry_without_a_row_halts_at_that_very_entry(
    stage: Stage, good: list[Entry]
) -> None:
    entries = holds_and_commits(Story(), ["ada"], 5)
    poison = replace(entries[6], hold="0b" * 9)
    heard = Heard()
    await stage.add(*entries[:6], poison, *good)

    async with halting(stage, heard):
        await stage.until_recorded(p0=6, p1=len(good))

    await stage.check([*entries[:6], *good])
    assert [(halt.seq, halt.fault) for halt in heard.halts] == [(7, Fault.INVALID)]


async def test_several_poisoned_partitions_halt_each_by_itself(
    stage: Stage, good: list[Entry]
) -> None:
    heard, sound = Heard(), []
    for partition in (0, 2, 3):
        story = Story(partition)
        account = f"ada-{partition}"
        sound.append(story.grant(account, 100, f"{partition:032x}"))
        poison = replace(story.hold(account, 1), tenant="")
        await stage.add(sound[-1], poison, story.hold(account, 2))
    await stage.add(*good)

    async with stage.flushing(heard):
        await until(lambda: len(heard.halts) == 3)
        await stage.until_recorded(p0=1, p1=len(good), p2=1, p3=1)

    await stage.check([*sound, *good])
    assert [(row["partition"], row["seq"]) for row in stage.quarantine()] == [
        (0, 2),
        (2, 2),
        (3, 2),
    ]


async def test_a_gap_halts_before_it(stage: Stage, good: list[Entry]) -> None:
    """I10a: what is missing is never skipped."""
    story, heard = Story(), Heard()
    first, _, third = story.grant("ada", 100), story.hold("ada", 1), story.hold("ada", 2)
    await stage.add(first, third, *good)

    async with halting(stage, heard):
        await stage.until_recorded(p0=1, p1=len(good))

    await stage.check([first, *good])
    assert [(halt.seq, halt.fault) for halt in heard.halts] == [(3, Fault.GAP)]


async def test_an_entry_of_another_epoch_halts(stage: Stage) -> None:
    """I19: a stream of one epoch that holds an entry of another is no history of ours."""
    story, heard = Story(), Heard()
    first = story.grant("ada", 100)
    stray = story.hold("ada", 1)
    await stage.add(first)
    await stage.client.xadd(KEYS.outbox(0, 1), {"e": pack(stray)}, id="2-2")

    async with halting(stage, heard):
        await stage.until_recorded(p0=1)

    assert [(halt.epoch, halt.seq, halt.fault) for halt in heard.halts] == [(2, 2, Fault.GAP)]


async def test_a_key_that_is_used_again_is_a_fork(stage: Stage, good: list[Entry]) -> None:
    """I7: the database refuses it, and nobody hides that with ON CONFLICT DO NOTHING."""
    story, heard = Story(), Heard()
    first, other = story.grant("ada", 100), story.grant("ada", 5, "0e" * 16)
    context = replace(first.context, detail=grant_detail("0e" * 16, 5))
    await stage.add(first, replace(other, context=context), *good)

    async with halting(stage, heard):
        await stage.until_recorded(p0=1, p1=len(good))

    await stage.check([first, *good])
    assert [(halt.seq, halt.fault) for halt in heard.halts] == [(2, Fault.FORK)]


async def test_a_history_that_was_rewritten_while_away_is_a_fork(stage: Stage) -> None:
    """F14: a stale replica took over and used sequence numbers again for other entries."""
    story, heard = Story(), Heard()
    entries = [story.grant("ada", 100), story.hold("ada", 10)]
    await stage.add(*entries)
    async with stage.flushing():
        await stage.until_recorded(p0=2)

    other = Story()
    rewritten = [other.grant("ada", 100), other.hold("ada", 99), other.hold("ada", 1, "0f" * 16)]
    await stage.client.delete(KEYS.outbox(0, 1))
    await stage.add(*rewritten)
    async with halting(stage, heard):
        assert [(halt.seq, halt.fault) for halt in heard.halts] == [(2, Fault.FORK)]

    await stage.check(entries)
    assert [row["raw"] for row in stage.quarantine()] == [pack(rewritten[1])]


async def test_a_history_that_is_rewritten_under_the_flusher_is_a_fork(stage: Stage) -> None:
    """Each read proves that what it found follows the very entry that was recorded last."""
    story, heard = Story(), Heard()
    entries = [story.grant("ada", 100), story.hold("ada", 10)]
    await stage.add(*entries)
    async with stage.flushing(heard):
        await stage.until_recorded(p0=2)
        other = Story()
        rewritten = [
            other.grant("ada", 100),
            other.hold("ada", 99),
            other.hold("ada", 1, "0f" * 16),
        ]
        pipeline = stage.client.pipeline(transaction=True)
        pipeline.delete(KEYS.outbox(0, 1))
        for entry in rewritten:
            pipeline.xadd(KEYS.outbox(0, 1), {"e": pack(entry)}, id=f"1-{entry.seq}")
        await pipeline.execute()
        await until(lambda: heard.halts)

    await stage.check(entries)
    assert [halt.fault for halt in heard.halts] == [Fault.FORK]


async def test_a_store_that_lost_entries_is_noticed(stage: Stage, good: list[Entry]) -> None:
    """F8, F11: the ledger has more than the outbox ever had: that partition waits for a person."""
    story, heard = Story(), Heard()
    entries = [story.grant("ada", 100), story.hold("ada", 10)]
    await stage.add(*entries, *good)
    async with stage.flushing():
        await stage.until_recorded(p0=2, p1=len(good))
    await stage.client.delete(KEYS.outbox(0, 1))
    await stage.add(entries[0])

    async with halting(stage, heard) as flusher:
        assert flusher.halted[0].fault is Fault.REGRESSED

    assert [(row["seq"], row["fault"]) for row in stage.quarantine()] == [(2, "regressed")]


async def test_a_partition_that_was_repaired_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast_server.flusher.flusher.HALTED_SECONDS", 0.0)
    story, heard = Story(), Heard()
    first, second = story.grant("ada", 100), story.hold("ada", 10)
    await stage.add(first)
    await stage.add_raw(second, b"poison")
    async with halting(stage, heard) as flusher:
        await stage.until_recorded(p0=1)
        pipeline = stage.client.pipeline(transaction=True)
        pipeline.delete(KEYS.outbox(0, 1))
        for entry in (first, second):
            pipeline.xadd(KEYS.outbox(0, 1), {"e": pack(entry)}, id=f"1-{entry.seq}")
        await pipeline.execute()
        await stage.until_recorded(p0=2)
        await until(lambda: not flusher.halted)

    await stage.check([first, second])


async def test_everything_halted_does_not_make_the_flusher_spin(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, reads = Heard(), list[float]()
    plain_read = Outbox.read

    async def timed(self: Outbox, positions: Positions, count: int, block_ms: int) -> object:
        reads.append(asyncio.get_running_loop().time())
        return await plain_read(self, positions, count, block_ms)

    monkeypatch.setattr(Outbox, "read", timed)
    monkeypatch.setattr("holdfast_server.flusher.flusher.HOUSEKEEPING_SECONDS", 0.1)
    for partition in range(4):
        await stage.add_raw(Story(partition).grant("ada", 1), b"poison")
    async with stage.flushing(heard):
        await until(lambda: len(heard.halts) == 4)
        # Reads that were under way when the last partition halted come first.
        before = len(reads)
        await until(lambda: len(reads) >= before + 8)
        latest = reads[-4:]

    assert all(later - earlier >= 0.09 for earlier, later in pairwise(latest))


async def test_postgres_that_goes_away_is_waited_for(stage: Stage) -> None:
    """F30, F34: connections that die in the middle cost time, nothing else."""
    entries = holds_and_commits(Story(), ["ada"], 150)
    async with stage.flushing(batch_entries_max=20):
        for start in range(0, len(entries), 50):
            await stage.add(*entries[start : start + 50])
            await until(lambda: query(stage.postgres_url, KILL_FLUSHERS))
        await stage.until_recorded(p0=len(entries))

    await stage.check(entries)


async def test_postgres_without_space_is_no_poison(stage: Stage) -> None:
    """F32: SQLSTATE 53100 is waited out; nothing goes to quarantine."""
    entries = holds_and_commits(Story(), ["ada"], 5)
    query(
        stage.postgres_url,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$; "
        "CREATE TRIGGER full_disk BEFORE INSERT ON holdfast.operation "
        "FOR EACH ROW EXECUTE FUNCTION full_disk()",
    )
    heard = Heard()
    await stage.add(*entries)
    async with stage.flushing(heard) as flusher:
        await until(lambda: query(stage.postgres_url, SEEN_ROLLBACKS)[0]["seen"])
        assert flusher.halted == {}
        query(stage.postgres_url, "DROP TRIGGER full_disk ON holdfast.operation")
        await stage.until_recorded(p0=len(entries))

    await stage.check(entries)
    assert stage.quarantine() == []


SEEN_ROLLBACKS: LiteralString = (
    "SELECT xact_rollback > 2 AS seen FROM pg_stat_database WHERE datname = current_database()"
)


async def test_a_hot_store_that_is_away_is_waited_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    async with open_store("redis://127.0.0.1:1") as nowhere:
        flusher = Flusher(Outbox(nowhere, KEYS), Appender(stage.postgres_url), hooks=heard.hooks)
        running = asyncio.create_task(flusher.run())
        await asyncio.sleep(0)
        with pytest.raises(HoldfastError) as caught:
            await Outbox(nowhere, KEYS).read({0: (1, 0)}, 10, 10)
        flusher.stop()
        await running

    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert heard.flushed == []


async def test_a_reply_of_the_store_that_is_lost_costs_nothing(stage: Stage) -> None:
    """F48: connections to the hot store that are cut again and again."""
    entries = holds_and_commits(Story(), ["ada"], 100)
    async with stage.flushing(batch_entries_max=20):
        for start in range(0, len(entries), 20):
            async with open_store(stage.valkey_url) as other:
                await add(other, KEYS, *entries[start : start + 20])
                await other.client_kill_filter(_type="normal", skipme=True)
        await stage.until_recorded(p0=len(entries))

    await stage.check(entries)
