"""Every key that Holdfast uses in the hot store. Nothing else builds one.

All keys of a partition begin with `{pNNN}:eE:`: the braces put a partition into one cluster slot,
and E is the epoch in which its hot state began, so that a rebuilt one never meets what was there
before. Ids are checked against `A-Za-z0-9._~-` before
they get here, so `/` separates tenant from account without ambiguity.

| key | type | what it holds |
| --- | --- | --- |
| `state` | hash | numbers of the partition, and the records of this generation: see below |
| `former` | hash | the records of the generation before |
| `out` | stream | the outbox: entries not yet trimmed, ids `<epoch>-<seq>` |
| `due` | sorted set | trees with something to expire, by the earliest due time |
| `late` | hash | expired holds that can still be committed |
| `lated` | sorted set | the same, by the time until which they can |
| `t:TENANT/ROOT` | hash | one tree: its accounts and open holds, packed |
| `d:TENANT/ROOT` | sorted set | the tree's holds and grants by the time they are due, if many |
| `hot:N` | set | the trees that are in the store, as numbers drawn from their names |
| `rebuilt` | hash | after a rebuild: how far what follows from it has been done, see below |
| `barrier` | string | a mark: what is written to wait for all that was written before it |
| `w:TENANT/ACCOUNT` | string | the root of an account that is not a root itself |
| `c:TENANT/ACCOUNT` | string | a mark: `w` was claimed lately, for an account that may yet come |

`state` has a field `m` (sequence number, clock, generations), a field `f` (the last sequence number
that the ledger has committed), a field `e` (the fence: `<epoch> <master_replid> <ARMED|FENCED>`), a
field `c` (the cold floor: what nobody has touched since this sequence number is in the ledger), and
a field for each idempotency record and each ended hold.
`rebuilt` has a field `u`: entries below this sequence number are still to be searched for what is
due; and a field `c`: keys under the names of former homes are gone up to this home.
`w` lives in the partition of the account's own name, since it is asked before the root is known;
`c` beside it, and by itself not for long.

An idempotency key is scoped by tenant and method, wherever its account is decided. Which partition
a key was used in stands in one of `CLAIM_SHARDS` shards, whose keys begin with `{cNN}:`.

| key | type | what it holds |
| --- | --- | --- |
| `claims` | hash | digest of a key: partition; `m`: when this generation began |
| `former` | hash | the claims of the generation before |
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from holdfast_server.domain.bounds import PARTITIONS_MAX
from holdfast_server.domain.epoch import Epochs

#: Says which deployment the store belongs to. The one key without a partition.
DEPLOYMENT_KEY = "holdfast:deployment"
#: Shards of the table that says in which partition an idempotency key was used.
CLAIM_SHARDS = 16
#: Sets of each partition that say which trees are in the store. Of a million, each takes 14 bytes.
HOT_SETS = 8
#: Makes 53 bits of 64, which Lua counts with exactly.
HOT_NUMBER_SHIFT = 11

#: The keys of a partition, of a claim shard; and the fields of `state` that are no records.
PARTITION_KEYS = ("state", "former", "out", "due", "late", "lated")
CLAIM_KEYS = ("claims", "former")
NUMBERS_FIELD, FLUSHED_FIELD = "m", "f"
#: The field of a tree that has its holds and grants by the time they are due, while they are few.
DUE_FIELD = "d"
FENCE_FIELD, COLD_FLOOR_FIELD = "e", "c"
#: The fields of `rebuilt`: how far the ledger has been searched, and which former homes are gone.
UNREAD_FIELD, CLEARED_FIELD = "u", "c"

_PARTITION_KEY = re.compile(r"\{p(\d+)\}:e(\d+):.+")
_TREE_KEY = re.compile(r"\{p(\d+)\}:e(\d+):t:([^/]+)/(.+)")


@dataclass(frozen=True, slots=True)
class TreeName:
    """Which tree a key is of. `home` is the epoch in the key: that in which the hot state began."""

    partition: int
    home: int
    tenant: str
    root: str


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds keys for a deployment with a fixed number of partitions."""

    partitions: int
    #: What this process knows of epochs. It changes whenever the ledger says so.
    epochs: Epochs = field(default_factory=Epochs, compare=False)

    def partition(self, tenant: str, root: str) -> int:
        """The partition of a tree: stable for the life of a deployment."""
        return zlib.crc32(f"{tenant}/{root}".encode()) % self.partitions

    def epoch(self, partition: int) -> int:
        """The epoch that a partition is in, as far as this process knows."""
        return self.epochs.current(partition)

    def prefix(self, partition: int, epoch: int) -> str:
        """What every key of a partition begins with."""
        return _prefix(partition, self.epochs.home(partition, epoch))

    def state(self, partition: int, epoch: int) -> str:
        """The partition's numbers and the records of this generation."""
        return self.prefix(partition, epoch) + "state"

    def outbox(self, partition: int, epoch: int) -> str:
        """The partition's outbox stream."""
        return self.prefix(partition, epoch) + "out"

    def barrier(self, partition: int, epoch: int) -> str:
        """What is written to know that all before it is on disk or replicas."""
        return self.prefix(partition, epoch) + "barrier"

    def due(self, partition: int, epoch: int) -> str:
        """The partition's index of trees by due time."""
        return self.prefix(partition, epoch) + "due"

    def rebuilt(self, partition: int, epoch: int) -> str:
        """What has been done since the partition was rebuilt."""
        return self.prefix(partition, epoch) + "rebuilt"

    def partition_keys(self, partition: int, epoch: int) -> list[str]:
        """The keys that every script call on a partition declares, in the order of
        `lib/partition.lua`.
        """
        return [*keys_of_partition(self.prefix(partition, epoch))]

    def tree_keys(self, partition: int, epoch: int, tenant: str, root: str) -> list[str]:
        """The keys of one tree, in the order of `lib/tree.lua`."""
        return keys_of_tree(self.prefix(partition, epoch), tenant, root)

    def hot(self, partition: int, epoch: int, tenant: str, root: str) -> tuple[str, int]:
        """The set that has a tree while it is in the store, and what stands for it there.

        A number that is drawn from the name takes a tenth of the room that the name would.
        """
        digest = hashlib.blake2b(f"{tenant}/{root}".encode(), digest_size=8).digest()
        number = int.from_bytes(digest, "big") >> HOT_NUMBER_SHIFT
        return f"{self.prefix(partition, epoch)}hot:{number % HOT_SETS}", number

    def hot_sets(self, partition: int, epoch: int) -> list[str]:
        """The sets that have the trees of a partition which are in the store."""
        prefix = self.prefix(partition, epoch)
        return [f"{prefix}hot:{number}" for number in range(HOT_SETS)]

    def claim_shard(self, digest: bytes) -> int:
        """The shard that knows an idempotency key, by its digest."""
        return digest[0] % CLAIM_SHARDS

    def claim_keys(self, shard: int) -> list[str]:
        """The keys of one shard, in the order of `lib/claims.lua`."""
        return [f"{{c{shard:02d}}}:{name}" for name in CLAIM_KEYS]

    def whereabouts(self, tenant: str, account: str) -> str:
        """Where the root of an account is written down."""
        return f"{self._prefix_of(tenant, account)}w:{tenant}/{account}"

    def claimed(self, tenant: str, account: str) -> str:
        """What is there while the claim of an account's name is new."""
        return f"{self._prefix_of(tenant, account)}c:{tenant}/{account}"

    def _prefix_of(self, tenant: str, account: str) -> str:
        partition = self.partition(tenant, account)
        return self.prefix(partition, self.epoch(partition))


@lru_cache(maxsize=PARTITIONS_MAX)
def _prefix(partition: int, home: int) -> str:
    return f"{{p{partition:03d}}}:e{home}:"


@lru_cache(maxsize=PARTITIONS_MAX)
def keys_of_partition(prefix: str) -> tuple[str, ...]:
    """The same for a partition whose prefix is at hand."""
    return tuple(prefix + name for name in PARTITION_KEYS)


def keys_of_tree(prefix: str, tenant: str, root: str) -> list[str]:
    """The keys of a tree in the partition with this prefix."""
    return [f"{prefix}t:{tenant}/{root}", f"{prefix}d:{tenant}/{root}"]


def ascii_names(keys: Iterable[bytes]) -> list[str]:
    """Keys that a server tells of. All of ours are ASCII: what is not, somebody wrote by hand."""
    return [key.decode("ascii") for key in keys if key.isascii()]


def parse_tree_key(key: str) -> TreeName | None:
    """The tree whose hash has this key; None for every other key."""
    found = _TREE_KEY.fullmatch(key)
    return TreeName(int(found[1]), int(found[2]), found[3], found[4]) if found else None


def home_of(key: str) -> tuple[int, int]:
    """The partition and the home that a key is of; -1 and 0 for one that is of no partition."""
    found = _PARTITION_KEY.fullmatch(key)
    return (int(found[1]), int(found[2])) if found else (-1, 0)
