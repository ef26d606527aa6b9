"""Every key that Holdfast uses in the hot store. Nothing else builds one.

All keys of a partition begin with `{pNNN}:eE:`: the braces put a partition into one cluster slot,
and
the epoch makes all older state unreachable at once. Ids are checked against `A-Za-z0-9._~-` before
they get here, so `/` separates tenant from account without ambiguity.

| key | type | what it holds |
| --- | --- | --- |
| `meta` | string | sequence number, clock and idempotency generations of the partition |
| `out` | stream | the outbox: entries not yet trimmed, ids `<epoch>-<seq>` |
| `flushed` | string | the last sequence number that the ledger has committed |
| `due` | sorted set | trees with something to expire, by the earliest due time |
| `i0`, `i1` | hash | idempotency records and ended holds: this generation and the one before |
| `late` | hash | expired holds that can still be committed |
| `lated` | sorted set | the same, by the time until which they can |
| `t:TENANT/ROOT` | hash | one tree: its accounts and open holds, packed |
| `d:TENANT/ROOT` | sorted set | the tree's holds and grants by the time they are due |
| `w:TENANT/ACCOUNT` | string | the root of an account that is not a root itself |

`w` lives in the partition of the account's own name, since it is asked before the root is known.

An idempotency key is scoped by tenant and method, wherever its account is decided. Which partition
a key was used in stands in one of `CLAIM_SHARDS` shards, whose keys begin with `{cNN}:eE:`.

| key | type | what it holds |
| --- | --- | --- |
| `meta` | string | the generation of the shard |
| `c0`, `c1` | hash | digest of a key: partition; this generation and the one before |
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

#: Says which deployment the store belongs to. The one key without a partition.
DEPLOYMENT_KEY = "holdfast:deployment"
#: Shards of the table that says in which partition an idempotency key was used.
CLAIM_SHARDS = 16


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds keys for a deployment with a fixed number of partitions."""

    partitions: int

    def partition(self, tenant: str, root: str) -> int:
        """The partition of a tree: stable for the life of a deployment."""
        return zlib.crc32(f"{tenant}/{root}".encode()) % self.partitions

    def prefix(self, partition: int, epoch: int) -> str:
        """What every key of a partition begins with."""
        return f"{{p{partition:03d}}}:e{epoch}:"

    def meta(self, partition: int, epoch: int) -> str:
        """The partition's state."""
        return self.prefix(partition, epoch) + "meta"

    def outbox(self, partition: int, epoch: int) -> str:
        """The partition's outbox stream."""
        return self.prefix(partition, epoch) + "out"

    def flushed(self, partition: int, epoch: int) -> str:
        """The ledger's watermark for the partition."""
        return self.prefix(partition, epoch) + "flushed"

    def due(self, partition: int, epoch: int) -> str:
        """The partition's index of trees by due time."""
        return self.prefix(partition, epoch) + "due"

    def partition_keys(self, partition: int, epoch: int) -> list[str]:
        """The keys that every script call on a partition declares, in the order of
        `lib/partition.lua`.
        """
        prefix = self.prefix(partition, epoch)
        return [
            prefix + name for name in ("meta", "out", "flushed", "due", "i0", "i1", "late", "lated")
        ]

    def tree_keys(self, partition: int, epoch: int, tenant: str, root: str) -> list[str]:
        """The keys of one tree, in the order of `lib/tree.lua`."""
        prefix = self.prefix(partition, epoch)
        return [f"{prefix}t:{tenant}/{root}", f"{prefix}d:{tenant}/{root}"]

    def claim_shard(self, digest: bytes) -> int:
        """The shard that knows an idempotency key, by its digest."""
        return digest[0] % CLAIM_SHARDS

    def claim_keys(self, shard: int, epoch: int) -> list[str]:
        """The keys of one shard, in the order of `lib/claims.lua`."""
        return [f"{{c{shard:02d}}}:e{epoch}:{name}" for name in ("meta", "c0", "c1")]

    def whereabouts(self, epoch: int, tenant: str, account: str) -> str:
        """Where the root of an account is written down."""
        return f"{self.prefix(self.partition(tenant, account), epoch)}w:{tenant}/{account}"
