"""Whole trees in the hot store: put there from the ledger, read, and removed when unused."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar

import msgpack

from holdfast_server.engine.cold import Name
from holdfast_server.engine.image import Image
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.rows import pack_value
from holdfast_server.engine.scripts import load
from holdfast_server.engine.store import Store

#: Trees that one script call installs, reads or removes: it keeps the store from others.
TREES_MAX: Final = 100
#: Script calls that run side by side where each sees one partition.
CALLS_MAX: Final = 8

#: The keys of a partition that install_tree.lua declares.
_INSTALL_KEYS: Final = ("state", "late", "lated", "due")

Each = TypeVar("Each")
Found = TypeVar("Found")


class Installed(Enum):
    """What became of a tree that was to be installed (lua/install_tree.lua)."""

    INSTALLED = 0
    PRESENT = 1
    STALE = 2
    REMOVED = 3


class Evicted(Enum):
    """What became of a tree that was to be removed (lua/evict_tree.lua)."""

    EVICTED = 0
    GONE = 1
    HELD = 2
    UNFLUSHED = 3
    CHANGED = 4
    FENCED = 5


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What the store knows of a name that is asked for as a root; of one whose tree it has, no more
    than that.
    """

    #: The root that is written down for an account of that name; empty where none is.
    root: str
    #: A tree may be in the ledger alone whose entries all are up to here; None: no tree.
    cold_floor: int | None
    is_stored: bool
    #: Whether a tree of that name must be stored.
    is_hot: bool


#: What the store has is in use, whatever else is written down.
_STORED: Final = Whereabouts("", None, is_stored=True, is_hot=True)


@dataclass(frozen=True, slots=True)
class NewTree:
    """A tree to be installed."""

    name: Name
    image: Image
    #: The sequence number of its partition up to which the ledger was read.
    read_to: int
    #: Whether somebody removed it by hand: it is brought back although it must be there.
    was_removed: bool = False


@dataclass(frozen=True, slots=True)
class SeenTree:
    """A tree as it was when its partition was at `seq`: a digest of all that it had."""

    name: Name
    seq: int
    digest: bytes


class TreeStore:
    """Reads, installs and removes trees. Every method raises `HoldfastError` of the store."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys

    @property
    def keys(self) -> Keys:
        """What it calls them by."""
        return self._keys

    async def look(self, names: Sequence[Name]) -> dict[Name, Whereabouts]:
        """What the store knows of these names."""
        found = await self._each(names, lambda name: name, self._look)
        return dict(zip(names, found, strict=True))

    async def idle_ms(self, names: Sequence[Name]) -> dict[Name, int]:
        """For how long nobody used these trees; those that are not there are left out.

        The store counts in seconds, and not while it saves: an estimate, good to choose by.
        """
        commands = []
        for name in names:
            commands.append(("OBJECT", "IDLETIME", self._tree(name)))
        answers = await self._store.read_all(commands) if commands else []
        pairs = zip(names, answers, strict=True)
        return {name: int(seconds) * 1_000 for name, seconds in pairs if seconds is not None}

    async def memory_percent(self) -> int:
        """How much of its `maxmemory` the fullest server uses; 0 where it may use all there is."""
        servers = await self._store.information("memory")
        return max((_percent(each) for each in servers), default=0)

    async def note_roots(self, roots: Mapping[Name, str]) -> None:
        """Writes down the roots of accounts that are no roots themselves, where nobody has yet."""
        commands = [
            ("SET", self._keys.whereabouts(*name), root, "NX")
            for name, root in roots.items()
            if root != name[1]
        ]
        if commands:
            await self._store.read_all(commands)

    async def install(self, trees: Sequence[NewTree]) -> dict[Name, Installed]:
        """Installs trees that are not there; see `Installed`."""
        found = await self._each(trees, lambda tree: tree.name, self._install)
        return {tree.name: Installed(code) for tree, code in zip(trees, found, strict=True)}

    async def see(self, names: Sequence[Name]) -> list[SeenTree]:
        """The trees as they are."""
        return await self._each(names, lambda name: name, self._see)

    async def evict(self, trees: Sequence[SeenTree]) -> dict[Name, Evicted]:
        """Removes trees that are as they were seen, and that the ledger has; see `Evicted`."""
        found = await self._each(trees, lambda tree: tree.name, self._evict)
        return {tree.name: Evicted(code) for tree, code in zip(trees, found, strict=True)}

    async def _each(
        self,
        items: Sequence[Each],
        name_of: Callable[[Each], Name],
        call: Callable[[Sequence[Each]], Awaitable[Sequence[Found]]],
    ) -> list[Found]:
        """Calls with as many items at once as may be, and answers in their order."""
        answers: dict[int, Found] = {}
        parts = self._parts([name_of(item) for item in items])
        for first in range(0, len(parts), CALLS_MAX):
            some = parts[first : first + CALLS_MAX]
            found = await asyncio.gather(*(call([items[i] for i in part]) for part in some))
            for part, answer in zip(some, found, strict=True):
                answers.update(zip(part, answer, strict=True))
        return [answers[index] for index in range(len(items))]

    def _parts(self, names: Sequence[Name]) -> list[list[int]]:
        """Indexes that may travel together: in a cluster, a call sees one partition."""
        groups = defaultdict[int, list[int]](list)
        for index, name in enumerate(names):
            groups[self._keys.partition(*name) if self._store.is_cluster else 0].append(index)
        return [
            group[first : first + TREES_MAX]
            for group in groups.values()
            for first in range(0, len(group), TREES_MAX)
        ]

    async def _look(self, names: Sequence[Name]) -> Sequence[Whereabouts]:
        """One command tells that all of them are there, as mostly they are."""
        trees = [self._tree(name) for name in names]
        if await self._store.read("EXISTS", *trees) == len(trees):
            return [_STORED] * len(trees)
        keys, numbers = list[str](), list[str]()
        for name, tree in zip(names, trees, strict=True):
            partition, epoch = self._place(name)
            hot, number = self._keys.hot(partition, epoch, *name)
            keys += (self._keys.whereabouts(*name), tree, self._keys.state(partition, epoch), hot)
            numbers.append(str(number))
        answer = await self._store.ask(load("look_trees"), keys, [pack_value(numbers)])
        return [
            Whereabouts(root, int(floor) if floor else None, bool(stored), bool(hot))
            for root, floor, stored, hot in msgpack.unpackb(answer)
        ]

    async def _install(self, trees: Sequence[NewTree]) -> Sequence[int]:
        keys, places = list[str](), dict[int, int]()
        tree_keys, rows = list[str](), list[list[Any]]()
        for tree in trees:
            partition, epoch = self._place(tree.name)
            if partition not in places:
                places[partition] = len(places) + 1
                prefix = self._keys.prefix(partition, epoch)
                keys += [prefix + each for each in _INSTALL_KEYS]
            hot, number = self._keys.hot(partition, epoch, *tree.name)
            tree_keys += [*self._keys.tree_keys(partition, epoch, *tree.name), hot]
            rows.append(_row(tree, places[partition], number))
        arguments = [pack_value(len(places)), pack_value(rows)]
        return await self._run("install_tree", keys + tree_keys, arguments)

    async def _see(self, names: Sequence[Name]) -> Sequence[SeenTree]:
        keys = list[str]()
        for name in names:
            partition, epoch = self._place(name)
            tree, _ = self._keys.tree_keys(partition, epoch, *name)
            keys += (tree, self._keys.state(partition, epoch))
        answers = await self._store.run(load("see_trees"), keys, [])
        return [
            SeenTree(name, int(seq), digest)
            for name, (seq, digest) in zip(names, answers, strict=True)
        ]

    async def _evict(self, trees: Sequence[SeenTree]) -> Sequence[int]:
        keys, epochs, places = list[str](), list[int](), dict[int, int]()
        tree_keys, rows = list[str](), list[list[Any]]()
        for tree in trees:
            partition, epoch = self._place(tree.name)
            if partition not in places:
                places[partition] = len(places) + 1
                keys.append(self._keys.state(partition, epoch))
                epochs.append(epoch)
            hot, number = self._keys.hot(partition, epoch, *tree.name)
            tree_keys += [*self._keys.tree_keys(partition, epoch, *tree.name), hot]
            rows.append([places[partition], str(number), tree.seq, tree.digest])
        arguments = [pack_value(rows), pack_value(epochs)]
        return await self._run("evict_tree", keys + tree_keys, arguments)

    async def _run(self, name: str, keys: list[str], arguments: list[bytes]) -> Sequence[int]:
        answer = await self._store.run(load(name), keys, arguments)
        codes: list[int] = msgpack.unpackb(answer)
        return codes

    def _tree(self, name: Name) -> str:
        return self._keys.tree_keys(*self._place(name), *name)[0]

    def _place(self, name: Name) -> tuple[int, int]:
        partition = self._keys.partition(*name)
        return partition, self._keys.epoch(partition)


def _percent(server: Mapping[str, Any]) -> int:
    limit = int(server["maxmemory"])
    return 100 * int(server["used_memory"]) // limit if limit else 0


def _row(tree: NewTree, partition: int, number: int) -> list[Any]:
    """See lua/install_tree.lua."""
    image = tree.image
    fields = [part for pair in image.fields.items() for part in pair]
    due = [part for member, at_ms in image.due_set.items() for part in (at_ms, member)]
    late = [part for hold, values in image.late.items() for part in (hold, *values)]
    name = "/".join(tree.name)
    removed = int(tree.was_removed)
    return [
        partition,
        name,
        str(number),
        tree.read_to,
        removed,
        image.due_ms,
        image.open_holds,
        fields,
        due,
        late,
    ]
