"""Trees that leave the store at random points come back as they were: every answer is that of the
twin, which never lost anything (I25).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from holdfast_server.control.hydration import Hydrator
from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.domain.entry import Entry
from holdfast_server.domain.rebuild import Snapshot, restore, take, tell
from holdfast_server.engine.cold import Name
from holdfast_server.engine.tree_store import Evicted, TreeStore
from holdfast_server.ledger.histories import TreeRead, TreesRead
from holdfast_server.telemetry.recorder import Recorder
from tests.hydration.outbox_ledger import OutboxLedger
from tests.property.test_oracle import TENANT, Oracle, find_fault, run_histories
from tests.support.drawn import TREE
from tests.support.eviction import evict, lose
from tests.support.pair import Pair, build

EXAMPLES = 25
ROOTS = tuple(account for account, parent in TREE.items() if not parent)

roots = st.sampled_from(ROOTS)


class Hydration(Oracle):
    """Trees come and go between operations."""

    ledger_of = OutboxLedger

    def __init__(self) -> None:
        super().__init__()
        ledger = self.ledger_of()
        self.loop.run_until_complete(self.real.store.close())
        self.real = build(
            self.url,
            partitions=3,
            hydration=lambda store, keys: Hydrator(ledger, TreeStore(store, keys), Recorder()),
        )
        self.pair, self.ledger = Pair(self.real), ledger
        ledger.real = self.real
        # The twin remembers keys for ever, and the ledger is said to have everything here.
        self.real.window.generation_ms = AMOUNT_MAX

    def _wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @rule(root=roots)
    def evict_tree(self, root: str) -> None:
        self._wait(self.ledger.flush())
        became = self._wait(evict(self.real, TENANT, root))
        holds = self.pair.world.trees[TENANT, root].holds
        assert became in {Evicted.HELD if holds else Evicted.EVICTED, Evicted.GONE, Evicted.HELD}

    @rule(root=roots)
    def lose_tree(self, root: str) -> None:
        self._wait(lose(self.real, (TENANT, root)))

    @rule()
    def lose_whereabouts(self) -> None:
        """As after a rebuild, in a process that has just started."""
        for account in TREE:
            self.real.directory.forget(TENANT, account)
            name = self.real.keys.whereabouts(TENANT, account)
            self._wait(self.real.store.client.unlink(name))
        self._wait(lose(self.real, *((TENANT, account) for account in TREE)))


class FirstReading(OutboxLedger):
    """The naive loader: what it has read of a tree once, it says again, as if it were new."""

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[Name, TreeRead] = {}

    async def read_trees(self, names: Sequence[Name]) -> TreesRead:
        read = await super().read_trees(names)
        trees = {(tenant, read.roots.get((tenant, name), name)) for tenant, name in names}
        for tree in trees & read.trees.keys():
            self._first.setdefault(tree, read.trees[tree])
        return replace(read, trees={**read.trees, **self._first})


class SnapshotLedger(OutboxLedger):
    """It reads what is behind a snapshot, where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.snapshots: dict[Name, Snapshot] = {}

    def fold(self, name: Name, entries: Sequence[Entry]) -> TreeRead:
        kept = self.snapshots.get(name)
        if kept is None:
            return super().fold(name, entries)
        rebuilt = restore(kept, kept.digest)
        behind = [entry for entry in entries if entry.seq > kept.seq]
        tell(rebuilt, behind)
        return TreeRead(rebuilt, len(behind))

    async def snapshot(self, name: Name) -> None:
        """Takes one of all that there is, behind the one before."""
        self.snapshots[name] = take((await self.read_trees([name])).trees[name].rebuilt)


class FromSnapshots(Hydration):
    """Trees come back by snapshots that were taken at any time."""

    ledger_of = SnapshotLedger

    @rule(root=roots)
    def take_snapshot(self, root: str) -> None:
        assert isinstance(self.ledger, SnapshotLedger)
        self._wait(self.ledger.snapshot((TENANT, root)))


class Stuck(SnapshotLedger):
    """The naive one: what is behind a snapshot is left out."""

    def fold(self, name: Name, entries: Sequence[Entry]) -> TreeRead:
        kept = self.snapshots.get(name)
        if kept is None:
            return super().fold(name, entries)
        return TreeRead(restore(kept, kept.digest), 0)


class FromStuckSnapshots(FromSnapshots):
    """Trees come back as they were when somebody took their snapshot."""

    ledger_of = Stuck


class NaiveHydration(Hydration):
    """Trees come back as somebody remembers them."""

    ledger_of = FirstReading


@pytest.mark.timeout(0)
def test_trees_come_back_as_they_were(valkey_url: str) -> None:
    run_histories(Hydration, valkey_url, EXAMPLES)


@pytest.mark.timeout(0)
def test_trees_come_back_by_snapshots_as_they_were(valkey_url: str) -> None:
    run_histories(FromSnapshots, valkey_url, EXAMPLES)


@pytest.mark.timeout(0)
def test_the_check_sees_what_is_not_read_behind_a_snapshot(valkey_url: str) -> None:
    find_fault(FromStuckSnapshots, valkey_url)


@pytest.mark.timeout(0)
def test_the_check_sees_a_loader_without_proof(valkey_url: str) -> None:
    """The negative control: a tree that is older than the store's last word is found out."""
    find_fault(NaiveHydration, valkey_url)
