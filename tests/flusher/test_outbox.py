"""Reading the outbox: how much, of whom, and in which order."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from holdfast_server.engine.outbox import OutboxEntry
from tests.flusher.stage import KEYS, Stage
from tests.support.entries import Story, holds_and_commits, pack
from tests.support.waiting import until

START = {partition: (1, 0) for partition in range(4)}


async def test_a_read_is_bounded_over_all_partitions(stage: Stage) -> None:
    """I21: no read can bring more than was asked for, however much waits."""
    for partition in range(4):
        await stage.add(*holds_and_commits(Story(partition), ["ada"], 20))

    found = await stage.outbox.read(START, 50, 0)

    assert sum(len(run.raws) for run in found) == 50


async def test_the_known_entry_comes_before_what_follows_it(stage: Stage) -> None:
    entries = holds_and_commits(Story(), ["ada"], 2)
    await stage.add(*entries)

    (found,) = await stage.outbox.read({0: (1, 2)}, 2, 0)

    assert (found.epoch, found.first_seq, found.stray) == (1, 2, None)
    assert found.raws == [pack(entry) for entry in entries[1:4]]
    assert await stage.outbox.read({0: (1, 5)}, 2, 1) == []


async def test_partitions_take_turns(stage: Stage) -> None:
    for partition in range(4):
        await stage.add(*holds_and_commits(Story(partition), ["ada"], 20))
    outbox = stage.outbox

    first = [(await outbox.read(START, 5, 0))[0].partition for _ in range(4)]

    assert sorted(first) == [0, 1, 2, 3]


async def test_a_read_waits_for_the_first_entry(stage: Stage) -> None:
    reading = asyncio.create_task(stage.outbox.read(START, 5, 20_000))

    async def is_waiting() -> bool:
        clients = await stage.client.client_list(_type="normal")
        return any("b" in client["flags"] for client in clients)

    await until(is_waiting)
    await stage.add(Story(2).grant("ada", 1))

    found = await asyncio.wait_for(reading, 10)

    assert [(each.partition, each.first_seq, len(each.raws)) for each in found] == [(2, 1, 1)]


async def test_what_is_not_in_its_field_is_kept_as_evidence(stage: Stage) -> None:
    await stage.client.xadd(KEYS.outbox(0, 1), {"x": "stray", "y": "more"}, id="1-1")

    (found,) = await stage.outbox.read({0: (1, 0)}, 5, 0)

    assert b"stray" in found.raws[0]
    assert b"more" in found.raws[0]


async def test_a_run_ends_before_what_does_not_follow(stage: Stage) -> None:
    first, second, third = holds_and_commits(Story(), ["ada"], 1)
    await stage.add(first, second, replace(third, seq=9))

    (found,) = await stage.outbox.read({0: (1, 0)}, 5, 0)

    assert (found.first_seq, found.raws) == (1, [pack(first), pack(second)])
    assert found.stray == OutboxEntry(0, 1, 9, pack(third))
