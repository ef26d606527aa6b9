"""Claims of keys that are made before the call that decides: where the store is a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgpack

from holdfast_server.engine.failures import internal
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.rows import pack_value
from holdfast_server.engine.scripts import Script
from holdfast_server.engine.store import ScriptFault, Store, failure
from holdfast_server.errors import HoldfastError, Reason

_LOG = logging.getLogger(__name__)

#: The digest of a key, and the partition that it is wanted for. An empty digest claims nothing.
Wanted = tuple[bytes, int]


@dataclass(slots=True)
class Claimed:
    """What stands in the way, by index; all other keys are claimed for their partition."""

    #: Since when all of these shards remember every claim, in milliseconds.
    since_ms: int = 0
    #: Claimed for another partition.
    elsewhere: set[int] = field(default_factory=set)
    #: Their shard did not answer, or not as it should.
    refused: dict[int, HoldfastError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claims:
    """Runs `claim_keys.lua`, once for each shard."""

    store: Store
    keys: Keys
    script: Script

    async def make(self, header: bytes, wanted: Sequence[Wanted]) -> Claimed:
        """What stands in the way of these keys, by index: see `Claimed`."""
        shards = defaultdict[int, list[int]](list)
        for index, (digest, _) in enumerate(wanted):
            if digest:
                shards[self.keys.claim_shard(digest)].append(index)
        found = await asyncio.gather(
            *(
                self._holders(header, self.keys.claim_keys(shard), [wanted[i] for i in some])
                for shard, some in shards.items()
            )
        )
        claimed = Claimed()
        for some, holders in zip(shards.values(), found, strict=True):
            if isinstance(holders, HoldfastError):
                claimed.refused.update(dict.fromkeys(some, holders))
            else:
                since_ms, *partitions = holders
                claimed.since_ms = max(claimed.since_ms, since_ms)
                pairs = zip(some, partitions, strict=True)
                claimed.elsewhere.update(i for i, holder in pairs if holder != wanted[i][1])
        return claimed

    async def _holders(
        self, header: bytes, keys: list[str], wanted: Sequence[Wanted]
    ) -> list[int] | HoldfastError:
        flat = [part for digest, partition in wanted for part in (digest, str(partition))]
        try:
            answer = await self.store.run(self.script, keys, [header, pack_value(flat)])
        except HoldfastError as error:
            # Whatever became of the claim: no operation was sent, so that none can be in doubt.
            is_lost = error.reason is Reason.RESULT_UNKNOWN
            return failure(Reason.STORE_UNAVAILABLE, error) if is_lost else error
        except ScriptFault:
            _LOG.exception("%d keys could not be claimed in %s", len(wanted), keys[0])
            return internal()
        return [int(number) for number in msgpack.unpackb(answer, raw=True)]
