"""What the flusher does ahead: it reads and prepares a batch while the one before is written, and
writes it while the hot store is told of the one before that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from holdfast_server.engine.outbox import Outbox, Positions
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.flusher import reader
from holdfast_server.flusher.flusher import Flusher
from holdfast_server.ledger.append import Appender
from holdfast_server.ledger.prepare import Prepared
from tests.flusher.stage import KEYS, Heard, Stage
from tests.support.entries import Story, holds_and_commits, pack
from tests.support.ledger import begin_epoch
from tests.support.waiting import WAIT_SECONDS, until

BATCH = 5


class SlowOutbox(Outbox):
    """Does something else before it says for the first time that entries are in the ledger."""

    def __init__(self, stage: Stage, before_saying: Callable[[], Awaitable[None]]) -> None:
        super().__init__(stage.client, KEYS)
        self._stage, self._before_saying, self._has_said = stage, before_saying, False
        #: What the ledger had whenever something was said, and what was said.
        self.said: list[tuple[int, int]] = []

    async def publish_flushed(self, positions: Positions) -> None:
        if positions[0][1]:
            if not self._has_said:
                self._has_said = True
                await self._before_saying()
            self.said.append(((await self._stage.recorded())[0], positions[0][1]))
        await super().publish_flushed(positions)


Append = Callable[[], Awaitable[None]]


class SlowAppender(Appender):
    """Leaves it to the test when the second batch is appended, and if."""

    second: Callable[[Append], Awaitable[None]]

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.postgres_url)
        self._calls = 0

    async def append(self, batches: Sequence[Prepared]) -> None:
        self._calls += 1
        append = partial(super().append, batches)
        await (self.second(append) if self._calls == 2 else append())


def flusher_of(heard: Heard, outbox: Outbox, appender: Appender) -> Flusher:
    return Flusher(outbox, appender, hooks=heard.hooks, batch_entries_max=BATCH)


async def run(flusher: Flusher, heard: Heard, last_seq: int) -> None:
    """Flushes up to an entry of the first partition."""
    running = asyncio.create_task(flusher.run())
    await until(lambda: heard.flushed and heard.flushed[-1][2] == last_seq)
    flusher.stop()
    await asyncio.wait_for(running, WAIT_SECONDS)


async def until_the_third_is_prepared(flusher: Flusher) -> None:
    await until(lambda: flusher._progress.ahead[0].seq == 3 * BATCH)


async def test_a_batch_is_recorded_while_the_store_is_told_of_the_one_before(stage: Stage) -> None:
    """One batch, and not more: what is recorded and not said is bounded."""
    entries = holds_and_commits(Story(), ["ada"], 12)
    await stage.add(*entries)

    async def until_the_next_is_recorded() -> None:
        await stage.until_recorded(p0=2 * BATCH)
        assert await stage.watermarks() == {}

    outbox = SlowOutbox(stage, until_the_next_is_recorded)
    heard = Heard()
    flusher = flusher_of(heard, outbox, Appender(stage.postgres_url))
    await run(flusher, heard, len(entries))

    assert outbox.said[0] == (2 * BATCH, BATCH)
    assert all(said <= recorded <= said + BATCH for recorded, said in outbox.said)
    assert [batch.entries for batch in heard.batches] == [BATCH] * 5
    await stage.check(entries)


async def test_a_batch_is_read_in_parts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store answers others in between; a partition may be in several parts."""
    monkeypatch.setattr(reader, "READ_ENTRIES_MAX", 2)
    entries = holds_and_commits(Story(), ["ada"], 12)
    await stage.add(*entries)

    heard = Heard()
    await run(flusher_of(heard, stage.outbox, Appender(stage.postgres_url)), heard, len(entries))

    assert [batch.entries for batch in heard.batches] == [BATCH] * 5
    await stage.check(entries)


@pytest.mark.parametrize("raw", [b"\xc1poison", pack(Story().grant("ada", 1))])
async def test_what_a_later_part_has_that_cannot_be_recorded_halts_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    """F41: bytes that are no entry, and an entry that does not go on."""
    monkeypatch.setattr(reader, "READ_ENTRIES_MAX", 2)
    entries, heard = holds_and_commits(Story(), ["ada"], 12), Heard()
    before, place, behind = entries[:3], entries[3], entries[4:]
    await stage.add(*before)
    await stage.add_raw(place, raw)
    await stage.add(*behind)

    async with stage.flushing(heard, BATCH):
        await until(lambda: heard.halts)

    assert await stage.recorded() == {0: 3}
    await stage.check(before)


async def test_a_store_that_cannot_be_told_costs_nothing_that_was_recorded(stage: Stage) -> None:
    """F39: the next batch is in the ledger by then, and the one behind it is prepared."""
    entries = holds_and_commits(Story(), ["ada"], 12)
    await stage.add(*entries)

    async def fail() -> None:
        await stage.until_recorded(p0=2 * BATCH)
        raise HoldfastError(Reason.STORE_UNAVAILABLE, "away")

    outbox = SlowOutbox(stage, fail)
    heard = Heard()
    flusher = flusher_of(heard, outbox, Appender(stage.postgres_url))
    await run(flusher, heard, len(entries))

    assert all(said <= recorded for recorded, said in outbox.said)
    assert await stage.watermarks() == {0: len(entries)}
    await stage.check(entries)


@pytest.mark.parametrize("is_recorded", [False, True])
async def test_a_batch_that_fails_takes_with_it_what_was_prepared_behind_it(
    stage: Stage, is_recorded: bool
) -> None:
    """F34, F38: also where it was recorded, and nobody heard."""
    entries, heard, appender = holds_and_commits(Story(), ["ada"], 12), Heard(), SlowAppender(stage)
    flusher = flusher_of(heard, stage.outbox, appender)
    await stage.add(*entries)

    async def fail(append: Append) -> None:
        await until_the_third_is_prepared(flusher)
        if is_recorded:
            await append()
        raise HoldfastError(Reason.LEDGER_UNAVAILABLE, "away")

    appender.second = fail
    await run(flusher, heard, len(entries))

    await stage.check(entries)
    assert heard.halts == []


async def test_what_was_read_behind_a_refused_entry_of_others_is_read_again(stage: Stage) -> None:
    """F41: nothing more comes that would show that it is missing."""
    entries, heard, appender = holds_and_commits(Story(1), ["bob"], 6), Heard(), SlowAppender(stage)
    flusher = flusher_of(heard, stage.outbox, appender)
    given = Story().grant("ada", 1)
    more = replace(given.delta, granted=2)
    await stage.add(replace(given, delta=more, after=more), *entries)

    async def wait(append: Append) -> None:
        """The sound half of what was refused is recorded once the next batch is prepared."""
        await until(lambda: flusher._progress.ahead[1].seq > BATCH)
        await append()

    appender.second = wait
    await run(flusher, heard, entries[-1].seq)

    await stage.check(entries)
    assert [halt.partition for halt in heard.halts] == [0]


async def test_an_epoch_that_begins_takes_with_it_what_was_prepared_before(stage: Stage) -> None:
    """F37, F40: neither the batch under way nor the one behind it is recorded."""
    story, heard, appender = Story(), Heard(), SlowAppender(stage)
    flusher = flusher_of(heard, stage.outbox, appender)
    entries = holds_and_commits(story, ["ada"], (BATCH - 1) // 2)
    other = replace(story, states=dict(story.states))
    stale = [other.hold("ada", 1, f"{number:032x}") for number in range(2 * BATCH)]
    await stage.add(*entries, *stale)
    story.epoch = 2
    later = story.hold("ada", 1, "0f" * 16)

    async def fence(append: Append) -> None:
        await until_the_third_is_prepared(flusher)
        assert await begin_epoch(stage.ledger, 0, 1)
        await stage.add(later)
        await append()

    appender.second = fence
    await run(flusher, heard, later.seq)

    await stage.check([*entries, later])
    assert heard.halts == []
