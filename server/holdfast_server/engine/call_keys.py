"""Which keys one script call declares, and where each operation finds its own among them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from holdfast_server.domain.operation import CreateAccount, Operation
from holdfast_server.domain.value import value
from holdfast_server.engine.keys import PARTITION_KEYS, Keys, keys_of_partition, keys_of_tree


@value(frozen=True, slots=True)
class Places:
    """1-based indexes into the call's partitions, trees, whereabouts and claim shards; 0: none.

    `hot_number` stands for a new tree in the set whose key follows its whereabouts.
    """

    partition: int
    tree: int
    whereabouts: int
    shard: int
    hot_number: int = 0


class CallKeys:
    """The keys of partitions, then of trees, then whereabouts, then claim shards."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        #: Number of each partition that the call touches, in the order of their keys.
        self.partitions: dict[int, int] = {}
        #: The epoch in which it touches each.
        self.epochs: dict[int, int] = {}
        self._prefixes: dict[int, str] = {}
        self._trees: dict[tuple[str, str], int] = {}
        self._shards: dict[int, int] = {}
        self._tree_keys: list[str] = []
        self._whereabouts: list[str] = []
        #: All keys in order, once they are finished.
        self.groups: list[Sequence[str]] = []

    def place(self, operation: Operation, partition: int, root: str, digest: bytes) -> Places:
        """Declares what an operation touches. An empty digest claims nothing."""
        tree = operation.tenant, root
        index = self.partitions.get(partition) or self._add_partition(partition)
        tree_index = self._trees.get(tree) or self._add_tree(partition, tree)
        shard = self._shard(digest) if digest else 0
        if not isinstance(operation, CreateAccount) or operation.account != root:
            return Places(index, tree_index, 0, shard)
        return Places(index, tree_index, *self._new_tree(partition, tree, shard))

    def _add_partition(self, partition: int) -> int:
        index = self.partitions[partition] = len(self.partitions) + 1
        epoch = self.epochs[partition] = self._keys.epoch(partition)
        self._prefixes[partition] = self._keys.prefix(partition, epoch)
        return index

    def _add_tree(self, partition: int, tree: tuple[str, str]) -> int:
        index = self._trees[tree] = len(self._trees) + 1
        self._tree_keys += keys_of_tree(self._prefixes[partition], *tree)
        return index

    def _new_tree(self, partition: int, tree: tuple[str, str], shard: int) -> tuple[int, int, int]:
        """Index of the whereabouts, the shard as it was given, and the number of a new tree."""
        hot, number = self._keys.hot(partition, self.epochs[partition], *tree)
        self._whereabouts += (self._keys.whereabouts(*tree), hot)
        return len(self._whereabouts) - 1, shard, number

    def _shard(self, digest: bytes) -> int:
        return self._shards.setdefault(self._keys.claim_shard(digest), len(self._shards) + 1)

    def finish(self) -> None:
        """Puts all keys in order. Nothing is declared afterwards."""
        claim_keys = chain.from_iterable(map(self._keys.claim_keys, self._shards))
        self.groups += map(keys_of_partition, self._prefixes.values())
        self.groups.append([*self._tree_keys, *self._whereabouts, *claim_keys])

    @property
    def claims_start(self) -> int:
        """How many keys stand before those of the claim shards."""
        partition_keys = len(PARTITION_KEYS) * len(self._prefixes)
        return partition_keys + len(self._tree_keys) + len(self._whereabouts)

    def whereabouts_index(self, places: Places) -> int:
        """The 1-based index of a whereabouts key among all keys; 0 stays 0."""
        if not places.whereabouts:
            return 0
        return self.claims_start - len(self._whereabouts) + places.whereabouts
