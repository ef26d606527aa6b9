"""What is due in trees that a rebuilt partition has in the ledger alone: where it is noted, and how
far the ledger has been searched for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast_server.engine.failures import fenced
from holdfast_server.engine.keys import UNREAD_FIELD, Keys
from holdfast_server.engine.rows import pack_value
from holdfast_server.engine.scripts import load
from holdfast_server.engine.side_by_side import in_parts
from holdfast_server.engine.store import Store

#: Trees that one script call notes: it keeps the store from others.
TREES_MAX: Final = 200

#: What note_due.lua answers where it may not touch the partition.
_FENCED: Final = 2


@dataclass(frozen=True, slots=True)
class DueRoot:
    """A tree in which nothing is due before a time."""

    tenant: str
    root: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class Page:
    """What was found in the entries of a partition from `is_at` on that are below `was_at`."""

    partition: int
    was_at: int
    is_at: int
    roots: Sequence[DueRoot]


class DueNotes:
    """Notes due times. Every method raises `HoldfastError` of the store."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys, self._script = store, keys, load("note_due")

    async def unread(self, partition: int) -> int | None:
        """Below which sequence number entries are still to be read; None where nobody began."""
        epoch = self._keys.epoch(partition)
        found = await self._store.read("HGET", self._keys.rebuilt(partition, epoch), UNREAD_FIELD)
        return None if found is None else int(found)

    async def note(self, page: Page) -> int:
        """Notes a page; answers below which sequence number entries are still to be read. That is
        another one where somebody else has gone on meanwhile. Raises FENCED too.
        """
        parts = in_parts(page.roots, TREES_MAX) or [()]
        for part in parts[:-1]:
            place = await self._note(page, page.was_at, part)
            if place != page.was_at:
                return place
        return await self._note(page, page.is_at, parts[-1])

    async def _note(self, page: Page, is_at: int, roots: Sequence[DueRoot]) -> int:
        partition, epoch = page.partition, self._keys.epoch(page.partition)
        names = [
            self._keys.state(partition, epoch),
            self._keys.due(partition, epoch),
            self._keys.rebuilt(partition, epoch),
        ]
        rows = []
        for each in roots:
            tree, _ = self._keys.tree_keys(partition, epoch, each.tenant, each.root)
            hot, number = self._keys.hot(partition, epoch, each.tenant, each.root)
            names += (tree, hot)
            rows.append([f"{each.tenant}/{each.root}", str(number), each.due_ms])
        arguments = [pack_value([epoch, page.was_at, is_at]), pack_value(rows)]
        code, place = await self._store.run(self._script, names, arguments)
        if code == _FENCED:
            raise fenced()
        return int(place)
