"""Trees that were lately in use come back after a rebuild, although nobody uses them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence

import psycopg
import pytest
from psycopg import sql

from holdfast_server import failpoint
from holdfast_server.control import rebuilt, warm_up
from holdfast_server.control.hydration import Hydrator
from holdfast_server.control.reconcile import Reconciler
from holdfast_server.control.warm_up import ACTIVE_MS, WarmUp
from holdfast_server.domain.epoch import Epoch
from holdfast_server.engine.cold import Brought, Hydration, Name, Outcome
from holdfast_server.engine.failures import internal
from holdfast_server.engine.fences import Arming, Fences
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.engine.trees import TreeReader
from holdfast_server.ledger.histories import HistoryTooLong, TreesRead
from holdfast_server.ledger.sql import QUERIES
from holdfast_server.telemetry.names import Audited, Hydrated
from holdfast_server.telemetry.recorder import Recorder
from tests.support.both import PARTITIONS, Both
from tests.support.due import names_in
from tests.support.ledger import begin_epoch
from tests.support.pair import START_MS
from tests.support.rebuilding import rebuild, search

NAMES = [f"a{number}" for number in range(40)]
#: A page of these tests has this many entries: there are several.
PAGE = 25


class Counts(Recorder):
    """Remembers how many trees were brought, and why."""

    def __init__(self) -> None:
        self.brought = Counter[Hydrated]()

    def hydrated(self, why: Hydrated, trees: int) -> None:
        self.brought[why] += trees


class Memory:
    """Is wanted, or is not."""

    def __init__(self) -> None:
        self.is_wanted = False

    async def __call__(self) -> bool:
        return self.is_wanted


class Poisoned:
    """A ledger that cannot read one tree."""

    def __init__(self, both: Both, root: str) -> None:
        self._ledger, self._root = both.ledger, root

    async def read_trees(self, names: Sequence[Name]) -> TreesRead:
        if ("t", self._root) in names:
            raise HistoryTooLong
        return await self._ledger.read_trees(names)


class Forgetful:
    """Brings nothing, and says that it did: what a check must see."""

    async def bring(self, names: Sequence[Name]) -> Mapping[Name, Outcome]:
        return {name: Brought(name[1]) for name in names}


class Away:
    """Fails as often as it is told, as with a store that is away for a moment."""

    def __init__(self, inner: Hydrator, times: int) -> None:
        self._inner, self._times = inner, times

    async def bring(self, names: Sequence[Name]) -> Mapping[Name, Outcome]:
        self._times -= 1
        if self._times >= 0:
            return dict.fromkeys(names, internal("reference"))
        return await self._inner.bring(names)


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "PAGE_ENTRIES", PAGE)
    monkeypatch.setattr(warm_up, "PARTITIONS_MAX", 2)


def hydrator_of(both: Both, recorder: Recorder | None = None) -> Hydrator:
    trees = TreeStore(both.real.store, both.real.keys)
    return Hydrator(both.ledger, trees, recorder or Recorder()).beside(Hydrated.WARM_UP)


def warm_up_of(
    both: Both, hydration: Hydration | None = None, memory: Memory | None = None
) -> WarmUp:
    """As a process that has just begun has it."""
    clock, keys = both.real.clock, both.real.keys
    bringing = hydration or hydrator_of(both)
    return WarmUp(both.ledger, bringing, keys, memory or Memory(), lambda: clock.now_ms)


async def warm(warming: WarmUp) -> None:
    """Looks until all is back."""
    while not await warming.look():
        pass


async def fund(both: Both, names: Sequence[str]) -> None:
    """Accounts that have spent a little, and hold something."""
    for name in names:
        await both.account(name)
        await both.grant(name, 100)
        await both.commit((await both.reserve(name, 7)).hold, 3)
        await both.reserve(name, 5)


async def lose_all(both: Both, postgres_url: str) -> None:
    await both.flushed()
    await rebuild(both, postgres_url, *range(PARTITIONS))


async def stored(both: Both) -> set[str]:
    """The roots whose trees are in the store, of hot state that counts."""
    keys, names = both.real.keys, set[str]()
    for partition in range(PARTITIONS):
        prefix = keys.prefix(partition, keys.epoch(partition))
        async for key in both.real.store.client.scan_iter(match=prefix + "t:*"):
            names.add(key.decode().split("/", 1)[1])
    return names


async def agreeing(both: Both, names: Sequence[str]) -> list[str]:
    """Those whose every figure is the ledger's."""
    reader = TreeReader(both.real.store, both.real.keys)
    comparing = Reconciler(reader, both.ledger, both.operations.watermarks)
    return [
        name for name in names if (await comparing.compare(("t", name))).result is Audited.AGREES
    ]


async def test_all_active_trees_come_back(both: Both, migrated_postgres_url: str) -> None:
    """With all that they had, below their roots too, and each is brought once."""
    await fund(both, NAMES)
    await both.account("below", parent=NAMES[0])
    await both.grant("below", 10)
    await lose_all(both, migrated_postgres_url)
    assert await stored(both) == set()

    counts = Counts()
    await warm(warm_up_of(both, hydrator_of(both, counts)))
    assert await stored(both) == set(NAMES)
    assert counts.brought == {Hydrated.WARM_UP: len(NAMES)}
    assert await agreeing(both, NAMES) == NAMES
    assert (await both.buckets(NAMES[1])).available == 92
    assert (await both.ledger.verify()).violations == ()


async def test_the_check_can_say_no(both: Both, migrated_postgres_url: str) -> None:
    """The negative control: nothing comes back by the search for due times, nor by a loader that
    does nothing.
    """
    await fund(both, NAMES[:5])
    await lose_all(both, migrated_postgres_url)
    await search(both)
    await warm(warm_up_of(both, Forgetful()))
    assert await stored(both) == set()


async def test_what_rested_for_long_stays_away(both: Both, migrated_postgres_url: str) -> None:
    """A tree that rested and was used again since is one that is in use."""
    old, again, young = NAMES[:10], NAMES[10:15], NAMES[15:]
    await fund(both, old + again)
    both.real.clock.now_ms += ACTIVE_MS
    await fund(both, young)
    for name in again:
        await both.grant(name, 1)
    both.real.clock.now_ms += ACTIVE_MS // 2
    await lose_all(both, migrated_postgres_url)
    await warm(warm_up_of(both))
    assert await stored(both) == {*again, *young}
    # Those that come later find nothing to do, and what rested comes when it is used.
    both.real.clock.now_ms += ACTIVE_MS
    await lose_all(both, migrated_postgres_url)
    await warm(warm_up_of(both))
    assert await stored(both) == set()
    assert (await both.buckets(old[0])).available == 97


async def test_it_rests_while_memory_is_wanted(both: Both, migrated_postgres_url: str) -> None:
    await fund(both, NAMES)
    await lose_all(both, migrated_postgres_url)
    memory = Memory()
    memory.is_wanted = True
    warming = warm_up_of(both, memory=memory)
    assert await warming.look()
    assert await stored(both) == set()
    memory.is_wanted = False
    assert not await warming.look()
    some = await stored(both)
    assert set() < some < set(NAMES)
    memory.is_wanted = True
    assert await warming.look()
    assert await stored(both) == some
    memory.is_wanted = False
    await warm(warming)
    assert await stored(both) == set(NAMES)


async def test_one_that_cannot_be_brought_keeps_nobody(
    both: Both, migrated_postgres_url: str
) -> None:
    await fund(both, NAMES)
    await lose_all(both, migrated_postgres_url)
    trees = TreeStore(both.real.store, both.real.keys)
    await warm(warm_up_of(both, Hydrator(Poisoned(both, NAMES[7]), trees, Recorder())))
    assert await stored(both) == {*NAMES} - {NAMES[7]}


async def test_a_store_that_is_away_for_a_moment(
    both: Both, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed is tried again at the end, or from the beginning where it is much."""
    monkeypatch.setattr(rebuilt, "AGAIN_SECONDS", 0.0)
    await fund(both, NAMES)
    await lose_all(both, migrated_postgres_url)
    await warm(warm_up_of(both, Away(hydrator_of(both), 1)))
    assert await stored(both) == set(NAMES)

    await lose_all(both, migrated_postgres_url)
    monkeypatch.setattr(warm_up, "FAILED_MAX", 2)
    await warm(warm_up_of(both, Away(hydrator_of(both), 2 * PARTITIONS)))
    assert await stored(both) == set(NAMES)


async def test_whoever_dies_is_followed_by_another(
    both: Both, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fund(both, NAMES)
    await lose_all(both, migrated_postgres_url)
    for passes in (1, 2):
        point = f"warm_up.after_read=error:{passes}"
        monkeypatch.setattr(failpoint, "_points", failpoint.parse(point))
        with pytest.raises(failpoint.FailpointError):
            await warm_up_of(both).look()
    some = await stored(both)
    assert set() < some < set(NAMES)
    await warm(warm_up_of(both))
    assert await stored(both) == set(NAMES)
    assert await agreeing(both, NAMES) == NAMES


async def test_callers_and_others_bring_the_same_trees(
    both: Both, migrated_postgres_url: str
) -> None:
    """Two processes, and callers that spend from the same trees all the while: nothing is lost."""
    await fund(both, NAMES)
    await lose_all(both, migrated_postgres_url)

    async def spend() -> None:
        for name in NAMES:
            await both.commit((await both.reserve(name, 2)).hold, 1)

    await asyncio.gather(warm(warm_up_of(both)), warm(warm_up_of(both)), spend(), spend())
    assert await stored(both) == set(NAMES)
    await both.flushed()
    assert await agreeing(both, NAMES) == NAMES
    assert [(await both.buckets(name)).burned for name in NAMES] == [5] * len(NAMES)
    assert (await both.ledger.verify()).violations == ()


async def test_a_partition_is_done_again_in_another_home(
    both: Both, migrated_postgres_url: str
) -> None:
    names = names_in(both.real.keys, 1, 12)
    await fund(both, names)
    await lose_all(both, migrated_postgres_url)
    warming = warm_up_of(both)
    assert not await warming.look()
    await rebuild(both, migrated_postgres_url, 1)
    await warm(warming)
    assert await stored(both) == set(names)
    await rebuild(both, migrated_postgres_url, 1)
    await warm(warming)
    assert await stored(both) == set(names)


def test_a_page_reads_no_whole_table(migrated_postgres_url: str) -> None:
    """Entries are found by their numbers, and a root by its account."""
    pages: dict[str, object] = {
        "partitions": [1, 2],
        "first_seqs": [1, 1],
        "before_seqs": [2_000, 2_000],
        "since_ms": 1,
    }
    with psycopg.connect(migrated_postgres_url) as connection:
        # So that it is no matter that the tables are small.
        connection.execute("SET enable_seqscan = off")
        connection.execute("SELECT holdfast.ensure_entry_partition(now())")
        explain = sql.SQL("EXPLAIN (FORMAT JSON) ") + sql.SQL(QUERIES["active_in"])
        plan = json.dumps(connection.execute(explain, pages).fetchone())
    assert "(partition = wanted.partition) AND (seq >= wanted.first_seq)" in plan
    assert "(account = page.account)" in plan


async def test_a_partition_that_is_not_armed_yet_is_begun_later(
    both: Both, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its epoch is known a moment before its store may be asked, which knows of no tree then."""
    monkeypatch.setattr(rebuilt, "AGAIN_SECONDS", 0.0)
    await fund(both, NAMES)
    await both.flushed()
    keys, fences = both.real.keys, Fences(both.real.store, both.real.keys)
    for partition in range(PARTITIONS):
        assert await begin_epoch(both.ledger, partition, 1)
    keys.epochs.learn(await both.ledger.epochs())
    warming = warm_up_of(both)

    await warming.look()
    armings = [
        Arming(each.partition, Epoch(each.home, each.start_seq, each.home), False, START_MS)
        for each in await both.ledger.rebuilt()
    ]
    seen = await fences.read({each.partition: each.epoch.number for each in armings})
    assert await fences.arm(armings, seen) == set(range(PARTITIONS))
    await warm(warming)

    assert await stored(both) == set(NAMES)
