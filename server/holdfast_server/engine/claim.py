"""Claims of keys that are made before the call that decides: where the store is a cluster."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import msgpack

from holdfast_server.engine.keys import Keys
from holdfast_server.engine.rows import pack_value
from holdfast_server.engine.scripts import Script
from holdfast_server.engine.store import Store

#: The digest of a key, and the partition that it is wanted for. An empty digest claims nothing.
Wanted = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Claims:
    """Runs `claim_keys.lua`, once for each shard."""

    store: Store
    keys: Keys
    script: Script

    async def elsewhere(self, header: bytes, epoch: int, wanted: Sequence[Wanted]) -> set[int]:
        """Which of these keys are claimed for another partition, by index.

        Raises `HoldfastError` and `ScriptFault`; what was claimed until then stays claimed.
        """
        shards = defaultdict[int, list[int]](list)
        for index, (digest, _) in enumerate(wanted):
            if digest:
                shards[self.keys.claim_shard(digest)].append(index)
        found = await asyncio.gather(
            *(
                self._holders(header, self.keys.claim_keys(shard, epoch), [wanted[i] for i in some])
                for shard, some in shards.items()
            )
        )
        return {
            index
            for some, holders in zip(shards.values(), found, strict=True)
            for index, holder in zip(some, holders, strict=True)
            if holder != wanted[index][1]
        }

    async def _holders(self, header: bytes, keys: list[str], wanted: Sequence[Wanted]) -> list[int]:
        flat = [part for digest, partition in wanted for part in (digest, str(partition))]
        answer = await self.store.run(self.script, keys, [header, pack_value(flat)])
        return [int(holder) for holder in msgpack.unpackb(answer, raw=True)]
