"""A ledger that is always up to date: it reads the outboxes."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.rebuild import rebuild
from holdfast_server.engine.cold import Name
from holdfast_server.engine.keys import FLUSHED_FIELD
from holdfast_server.ledger.histories import TreeRead, TreesRead
from tests.support.pair import Real


class OutboxLedger:
    """Answers what the ledger would once everything is flushed."""

    def __init__(self) -> None:
        self.real: Real | None = None
        self.reads: list[list[Name]] = []

    async def read_trees(self, names: Sequence[Name]) -> TreesRead:
        assert self.real is not None
        self.reads.append(list(names))
        entries = await self.real.entries()
        cursors = dict.fromkeys(range(self.real.keys.partitions), (1, 0))
        roots: dict[Name, str] = {}
        for entry in entries:
            cursors[entry.partition] = 1, entry.seq
            if root := entry.context.detail.get("root"):
                roots[entry.tenant, entry.account] = str(root)
        trees: dict[Name, list[Entry]] = {}
        for entry in entries:
            root = roots[entry.tenant, entry.account]
            trees.setdefault((entry.tenant, root), []).append(entry)
        return TreesRead(cursors, roots, {name: self.fold(name, trees[name]) for name in trees})

    def fold(self, name: Name, entries: Sequence[Entry]) -> TreeRead:
        """The tree of all its entries."""
        return TreeRead(rebuild(*name, entries), len(entries))

    async def flush(self) -> None:
        """Says to the store that the ledger has everything."""
        assert self.real is not None
        for partition in range(self.real.keys.partitions):
            seq = await self.real.engine.current_seq(partition)
            name = self.real.keys.state(partition, 1)
            await self.real.store.client.hset(name, FLUSHED_FIELD, str(seq))
