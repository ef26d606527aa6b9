"""The keys of hot state that was given up: found by scanning, and removed in small numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from holdfast_server.engine.keys import CLEARED_FIELD, Keys, home_of
from holdfast_server.engine.side_by_side import in_parts
from holdfast_server.engine.store import Store

#: Keys that one step looks at, which takes the store less than a millisecond.
SCAN_KEYS: Final = 1_000
#: Keys that one command removes. The store frees their memory in the background.
UNLINK_KEYS: Final = 100


class FormerKeys:
    """Finds and removes them. Every method raises `HoldfastError` of the store."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys

    async def places(self) -> list[str]:
        """The servers that have keys."""
        return await self._store.places()

    async def cleared(self, partitions: Sequence[int]) -> dict[int, int]:
        """Up to which home nothing is left of partitions, where somebody has made sure of it."""
        names = [self._rebuilt(each) for each in partitions]
        answers = await self._store.read_all([("HGET", name, CLEARED_FIELD) for name in names])
        pairs = zip(partitions, answers, strict=True)
        return {partition: int(home) for partition, home in pairs if home is not None}

    async def note_cleared(self, homes: Mapping[int, int]) -> None:
        """Nothing is left of partitions up to these homes."""
        commands = [
            ("HSET", self._rebuilt(partition), CLEARED_FIELD, home)
            for partition, home in homes.items()
        ]
        if commands:
            await self._store.read_all(commands)

    async def remove_some(
        self, place: str, cursor: int, home: int, partitions: Mapping[int, int]
    ) -> tuple[int, dict[int, int]]:
        """One step: of what a server has of a home, removes what is of these partitions, if that
        may go up to this home and is not where they are now. Answers where to go on, 0 at the end,
        and how many keys of each partition were there.
        """
        pattern = f"{{p*}}:e{home}:*"
        cursor, names = await self._store.scan(place, cursor, pattern, SCAN_KEYS)
        found = defaultdict[int, list[str]](list)
        for name in names:
            partition, of_home = home_of(name)
            may_go = home <= partitions.get(partition, 0) and home < self._home(partition)
            if of_home == home and may_go:
                found[partition].append(name)
        for mine in found.values():
            for some in in_parts(mine, UNLINK_KEYS):
                await self._store.read("UNLINK", *some)
        return cursor, {partition: len(mine) for partition, mine in found.items()}

    def _home(self, partition: int) -> int:
        return self._keys.epochs.home(partition, self._keys.epoch(partition))

    def _rebuilt(self, partition: int) -> str:
        return self._keys.rebuilt(partition, self._keys.epoch(partition))
