"""F14: a stale replica takes over, and sequence numbers are used again for other operations.

Seven operations were acknowledged: five by the old master, two by the replica in place of two of
them. Each must be somewhere. A flusher that forgives duplicates loses two without a word, and the
same check sees that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString

import psycopg

from holdfast_server.domain.entry import Entry
from holdfast_server.ledger.prepare import Fault
from tests.flusher.stage import KEYS, Heard, Stage
from tests.support.entries import Story, pack
from tests.support.ledger import query
from tests.support.waiting import until

#: What the old master acknowledged, and how much of it the replica had heard of.
ACKNOWLEDGED, SHARED = 5, 3


def story(kept: int, told: str) -> list[Entry]:
    """A grant and holds; those beyond `kept` are other ones for each teller."""
    entries = Story()
    return [
        entries.grant("ada", 1_000),
        *(
            entries.hold("ada", n, f"{told if n >= kept else 'c':0>16}{n:016x}")
            for n in range(1, 5)
        ),
    ]


def old_master() -> list[Entry]:
    return story(SHARED, "a")


def replica() -> list[Entry]:
    return story(SHARED, "b")


def lost(kept: Iterable[Sequence[object]]) -> set[str]:
    """Holds that somebody was told were placed and that are nowhere: (sequence number, hold)."""
    told = {entry.hold for entry in (*old_master(), *replica()) if entry.hold}
    return told - {str(hold).replace("-", "") for _, hold in kept}


async def take_over(stage: Stage) -> None:
    """The stream is the replica's from now on."""
    pipeline = stage.client.pipeline(transaction=True)
    pipeline.delete(KEYS.outbox(0, 1))
    for entry in replica():
        pipeline.xadd(KEYS.outbox(0, 1), {"e": pack(entry)}, id=f"1-{entry.seq}")
    await pipeline.execute()


async def in_outbox(stage: Stage) -> list[tuple[int, str]]:
    """What the hot store still has to tell."""
    found: Any = await stage.client.xrange(KEYS.outbox(0, 1))
    left = {fields[b"e"] for _, fields in found}
    return [(each.seq, each.hold) for each in replica() if pack(each) in left]


async def test_nothing_acknowledged_is_lost_without_a_word(stage: Stage) -> None:
    """I9, I23: the partition stops, loudly; between them the stores have all of it."""
    heard = Heard()
    await stage.add(*old_master())
    async with stage.flushing():
        await stage.until_recorded(p0=ACKNOWLEDGED)
    await take_over(stage)

    async with stage.flushing(heard):
        await until(lambda: heard.halts)

    recorded = query(stage.postgres_url, "SELECT seq, hold FROM holdfast.entry")
    rows = [(row["seq"], row["hold"]) for row in recorded]
    assert [halt.fault for halt in heard.halts] == [Fault.FORK]
    assert lost([*rows, *await in_outbox(stage)]) == set()
    assert [row["raw"] for row in stage.quarantine()] == [pack(replica()[-1])]
    await stage.check(old_master())


INSERT: LiteralString = "INSERT INTO naive VALUES (%s, %s) ON CONFLICT DO NOTHING"


async def test_the_check_sees_what_a_forgiving_flusher_loses(stage: Stage) -> None:
    """The negative control: the same story, with rows that are skipped when they are there."""
    with psycopg.connect(stage.postgres_url) as connection:
        connection.execute("CREATE TABLE naive (seq bigint PRIMARY KEY, hold text)")
        for teller in (old_master(), replica()):
            for entry in teller:
                connection.execute(INSERT, (entry.seq, entry.hold))
        rows = connection.execute("SELECT seq, hold FROM naive").fetchall()

    assert len(rows) == ACKNOWLEDGED
    assert lost(rows) == {entry.hold for entry in replica()[SHARED:]}
