"""A tree of the real ledger whose hot state is lost and comes back, by snapshots or without."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from holdfast_server.control.hydration import Hydrator
from holdfast_server.control.snapshots import SnapshotKeeper
from holdfast_server.domain import operation as op
from holdfast_server.domain.entry import Entry
from holdfast_server.domain.rebuild import Snapshot, take
from holdfast_server.engine.cold import Brought
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.ledger.histories import TreeRead
from holdfast_server.telemetry.names import Alert, Snapshotted
from holdfast_server.telemetry.recorder import Recorder
from tests.support.both import Both
from tests.support.eviction import lose
from tests.support.ledger import query
from tests.support.stored import stored

ROOT = ("t", "root")
TAIL = 5


@dataclass
class Noting(Recorder):
    """Knows what became of snapshots."""

    results: list[Snapshotted] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def snapshot(self, result: Snapshotted) -> None:
        self.results.append(result)


@dataclass
class Stage:
    """A tree of the real ledger whose hot state is lost again and again."""

    both: Both
    url: str

    async def read(self) -> TreeRead:
        """The tree as the ledger has it."""
        await self.both.flushed()
        return (await self.both.ledger.read_trees([ROOT])).trees[ROOT]

    async def entries(self) -> list[Entry]:
        """All of its entries, as the ledger has them."""
        await self.both.flushed()
        partition = self.both.real.keys.partition(*ROOT)
        return [each.entry async for each in self.both.ledger.stream_entries(partition)]

    async def bring_back(self) -> list[Snapshotted]:
        """It is lost, and brought as it was; answers what became of snapshots."""
        await self.both.flushed()
        before = await stored(self.both.real, *ROOT)
        await lose(self.both.real, ROOT)
        noting = Noting()
        keeper = SnapshotKeeper(self.both.ledger, noting)
        trees = TreeStore(self.both.real.store, self.both.real.keys)
        bringing = Hydrator(self.both.ledger, trees, noting, keeper=keeper)
        assert await bringing.bring([ROOT]) == {ROOT: Brought("root")}
        await keeper.settled()
        assert await stored(self.both.real, *ROOT) == before
        return noting.results

    def kept(self) -> list[dict[str, Any]]:
        """The rows."""
        return query(self.url, "SELECT * FROM holdfast.tree_snapshot ORDER BY tenant, root")

    async def work(self) -> list[Any]:
        """Holds of every fate, a refund, and use under limits; answers what is still open."""
        both, now_ms = self.both, self.both.real.clock.now_ms
        await both.grant("child", 40, expires_at_ms=now_ms + 900_000)
        await both.grant("child", 10, effective_at_ms=now_ms + 3_600_000)
        expiring = await both.reserve("child", 3, ttl_ms=1_000)
        gone = await both.reserve("child", 2, ttl_ms=1_000)
        # More than the child has: an entry of its own, and one of the root.
        kept = await both.reserve("child", 60, ttl_ms=3_600_000, feature="chat")
        assert (await both.commit(kept.hold, 2, final=False)).applied.seq
        burned = await both.do(op.Burn("t", "child", (op.Line("ai", 4),), both.key()))
        lines = (op.RefundLine("ai", 1),)
        await both.do(op.Refund("t", burned.applied.transaction_id, both.key(), lines, "test"))
        both.real.clock.now_ms += 2_000
        assert (await both.commit(gone.hold, 1)).applied.seq
        return [expiring.hold, kept.hold]

    async def wrong(self, **changes: Any) -> Snapshot:
        """A snapshot whose digest is right, and which says what no entries say."""
        snapshot = replace(take((await self.read()).rebuilt), **changes)
        query(self.url, "DELETE FROM holdfast.tree_snapshot")
        assert await self.both.ledger.save_snapshot(snapshot)
        return snapshot
