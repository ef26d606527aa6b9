"""Which keys one script call declares, and where each operation finds its own among them."""

from __future__ import annotations

from holdfast_server.domain.operation import CreateAccount, Operation
from holdfast_server.domain.value import value
from holdfast_server.engine.keys import CLAIM_KEYS, Keys, keys_of_partition, keys_of_tree


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
        self.names: list[str] = []

    def place(self, operation: Operation, partition: int, root: str, digest: bytes) -> Places:
        """Declares what an operation touches. An empty digest claims nothing."""
        return Places(
            self._partition(partition),
            self._tree(partition, operation.tenant, root),
            *self._new_tree(partition, operation, root, self._shard(digest) if digest else 0),
        )

    def _partition(self, partition: int) -> int:
        index = self.partitions.get(partition)
        if index is None:
            index = self.partitions[partition] = len(self.partitions) + 1
            epoch = self.epochs[partition] = self._keys.epoch(partition)
            self._prefixes[partition] = self._keys.prefix(partition, epoch)
        return index

    def _tree(self, partition: int, tenant: str, root: str) -> int:
        tree = self._trees.get((tenant, root))
        if tree is None:
            tree = self._trees[tenant, root] = len(self._trees) + 1
            self._tree_keys += keys_of_tree(self._prefixes[partition], tenant, root)
        return tree

    def _new_tree(
        self, partition: int, operation: Operation, root: str, shard: int
    ) -> tuple[int, int, int]:
        """Index of the whereabouts, the shard as it was given, and the number of a new tree."""
        if not isinstance(operation, CreateAccount) or operation.account != root:
            return 0, shard, 0
        name = (operation.tenant, operation.account)
        hot, number = self._keys.hot(partition, self.epochs[partition], *name)
        self._whereabouts += (self._keys.whereabouts(*name), hot)
        return len(self._whereabouts) - 1, shard, number

    def _shard(self, digest: bytes) -> int:
        return self._shards.setdefault(self._keys.claim_shard(digest), len(self._shards) + 1)

    def finish(self) -> None:
        """Puts all keys in order. Nothing is declared afterwards."""
        for prefix in self._prefixes.values():
            self.names += keys_of_partition(prefix)
        self.names += self._tree_keys + self._whereabouts
        for shard in self._shards:
            self.names += self._keys.claim_keys(shard)

    @property
    def claims_start(self) -> int:
        """How many keys stand before those of the claim shards."""
        return len(self.names) - len(CLAIM_KEYS) * len(self._shards)

    def whereabouts_index(self, places: Places) -> int:
        """The 1-based index of a whereabouts key among all keys; 0 stays 0."""
        if not places.whereabouts:
            return 0
        return self.claims_start - len(self._whereabouts) + places.whereabouts
