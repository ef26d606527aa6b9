"""Which trees have something to expire, by the store's own clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Final

from holdfast_server.engine.fences import Fences
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import Clock, load
from holdfast_server.engine.side_by_side import answered, gather, in_parts
from holdfast_server.engine.store import Store

#: Trees of one partition that are looked at in one round.
TREES_OF_PARTITION_MAX: Final = 100
#: Trees of one partition that may fail in one sweep: the next one goes on behind them.
FAILED_MAX: Final = 200
#: Partitions that one script call looks at.
PARTITIONS_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class DueTree:
    """A tree with something due."""

    partition: int
    tenant: str
    root: str


class DueIndex:
    """Reads the partitions' indexes of due times, round by round, so that all get their turn."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        clock: Clock = Clock.STORE,
        clock_ms: Callable[[], int] = int,
    ) -> None:
        """`clock_ms`: what time the store should show; for the test build, what time it is."""
        self._store, self._keys = store, keys
        self._script, self._clock_ms = load("read_due", clock), clock_ms
        self._at_once = 1 if store.is_cluster else PARTITIONS_AT_ONCE
        #: Where the next round begins.
        self._first = 0
        #: How many trees at the front of a partition's index could not be ended.
        self._passed = Counter[int]()
        #: The same in this sweep; and the partitions that it has nothing more to do with.
        self._failed = Counter[int]()
        self._finished = set[int]()

    async def open_holds(self) -> int:
        """How many holds are open in all partitions."""
        epochs = {each: self._keys.epoch(each) for each in range(self._keys.partitions)}
        seen = await Fences(self._store, self._keys).read(epochs)
        return sum(each.open_holds for each in seen.values())

    def begin(self) -> None:
        """A sweep begins."""
        self._failed.clear()
        self._finished.clear()

    async def due(self, limit: int) -> list[DueTree]:
        """Up to `limit` trees that are due, from every partition as many as from others.

        Of a cluster whose nodes do not all answer, only what the others have; STORE_UNAVAILABLE
        where none does.
        """
        order = self._order()
        pages = await self._pages(order)
        self._finish(order, pages)
        turns = chain.from_iterable(zip_longest(*(pages.get(each, ()) for each in order)))
        found = list(islice((tree for tree in turns if tree), limit))
        if found:
            self._first = (found[-1].partition + 1) % self._keys.partitions
        return found

    def pass_over(self, trees: Iterable[DueTree]) -> None:
        """These could not be ended: what is behind them in their partitions comes first, until
        there is nothing more.
        """
        failed = Counter(tree.partition for tree in trees)
        self._passed += failed
        self._failed += failed
        self._finished |= {each for each in failed if self._failed[each] >= FAILED_MAX}

    def _order(self) -> list[int]:
        """The partitions in which something may be left, by turn."""
        count = self._keys.partitions
        turns = ((self._first + each) % count for each in range(count))
        return [each for each in turns if each not in self._finished]

    def _finish(self, asked: Sequence[int], pages: Mapping[int, list[DueTree]]) -> None:
        """What was read to its end begins from the front in the next sweep; what does not answer
        is asked again there, so that the others need not wait for it.
        """
        for partition in asked:
            if not pages.get(partition):
                self._finished.add(partition)
            if partition in pages and not pages[partition]:
                self._passed.pop(partition, None)

    async def _pages(self, partitions: Sequence[int]) -> Mapping[int, list[DueTree]]:
        calls = [self._read(part) for part in in_parts(partitions, self._at_once)]
        found = answered(await gather(calls))
        return {partition: page for pages in found for partition, page in pages.items()}

    async def _read(self, partitions: Sequence[int]) -> Mapping[int, list[DueTree]]:
        names = [self._keys.due(each, self._keys.epoch(each)) for each in partitions]
        passed = [self._passed[each] for each in partitions]
        arguments = [TREES_OF_PARTITION_MAX, self._clock_ms(), *passed]
        rows = await self._store.run(self._script, names, arguments)
        return {
            partition: [_tree(partition, member) for member in members]
            for partition, members in zip(partitions, rows, strict=True)
        }


def _tree(partition: int, member: bytes) -> DueTree:
    tenant, root = member.decode().split("/", 1)
    return DueTree(partition, tenant, root)
