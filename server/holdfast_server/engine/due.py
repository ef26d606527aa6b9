"""Which trees have something to expire, by the store's own clock."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_server.engine.fences import Fences
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.store import Store

#: Trees of one partition that are looked at in one round.
TREES_OF_PARTITION_MAX = 100


@dataclass(frozen=True, slots=True)
class DueTree:
    """A tree with something due."""

    tenant: str
    root: str


class DueIndex:
    """Reads the partitions' indexes of due times."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys

    async def open_holds(self) -> int:
        """How many holds are open in all partitions."""
        epochs = {each: self._keys.epoch(each) for each in range(self._keys.partitions)}
        seen = await Fences(self._store, self._keys).read(epochs)
        return sum(each.open_holds for each in seen.values())

    async def due(self, limit: int) -> list[DueTree]:
        """Up to `limit` trees that are due, from every partition some."""
        seconds, microseconds = await self._store.read("TIME")
        now_ms = int(seconds) * 1_000 + int(microseconds) // 1_000
        commands = [
            (
                "ZRANGEBYSCORE",
                self._keys.due(partition, self._keys.epoch(partition)),
                "-inf",
                now_ms,
                "LIMIT",
                0,
                TREES_OF_PARTITION_MAX,
            )
            for partition in range(self._keys.partitions)
        ]
        rows = await self._store.read_all(commands)
        return [_tree(member) for members in rows for member in members][:limit]


def _tree(member: bytes) -> DueTree:
    tenant, root = member.decode().split("/", 1)
    return DueTree(tenant, root)
