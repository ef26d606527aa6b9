"""Claims of keys that are made before the call that decides: where the store is a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack

from holdfast_server.engine.failures import internal
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.rows import pack_value
from holdfast_server.engine.scripts import Script, beyond_memory
from holdfast_server.engine.store import ScriptFault, Store, failure
from holdfast_server.errors import HoldfastError, Reason, new_reference

_LOG = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """A key to be claimed."""

    #: An empty one claims nothing.
    digest: bytes
    partition: int
    #: Whether it is claimed although the store is out of memory.
    beyond_memory: bool = False


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
        claimed = Claimed()
        asked = [index for index, each in enumerate(wanted) if each.digest]
        await self._claim(claimed, header, wanted, asked, self.script)
        again = [
            index
            for index, error in claimed.refused.items()
            if error.reason is Reason.STORE_OUT_OF_MEMORY and wanted[index].beyond_memory
        ]
        for index in again:
            del claimed.refused[index]
        await self._claim(claimed, header, wanted, again, beyond_memory(self.script))
        return claimed

    async def _claim(
        self,
        claimed: Claimed,
        header: bytes,
        wanted: Sequence[Wanted],
        asked: Sequence[int],
        script: Script,
    ) -> None:
        shards = defaultdict[int, list[int]](list)
        for index in asked:
            shards[self.keys.claim_shard(wanted[index].digest)].append(index)
        found = await asyncio.gather(
            *(
                self._holders(script, header, shard, [wanted[i] for i in some])
                for shard, some in shards.items()
            )
        )
        for some, holders in zip(shards.values(), found, strict=True):
            if isinstance(holders, HoldfastError):
                claimed.refused.update(dict.fromkeys(some, holders))
            else:
                since_ms, *partitions = holders
                claimed.since_ms = max(claimed.since_ms, since_ms)
                pairs = zip(some, partitions, strict=True)
                claimed.elsewhere.update(i for i, holder in pairs if holder != wanted[i].partition)

    async def _holders(
        self, script: Script, header: bytes, shard: int, wanted: Sequence[Wanted]
    ) -> list[int] | HoldfastError:
        keys = self.keys.claim_keys(shard)
        flat = [part for each in wanted for part in (each.digest, str(each.partition))]
        try:
            answer = await self.store.run(script, keys, [header, pack_value(flat)])
        except HoldfastError as error:
            # Whatever became of the claim: no operation was sent, so that none can be in doubt.
            is_lost = error.reason is Reason.RESULT_UNKNOWN
            return failure(Reason.STORE_UNAVAILABLE, error) if is_lost else error
        except ScriptFault:
            reference = new_reference()
            facts = {"keys": len(wanted), "shard": keys[0], "reference": reference}
            _LOG.exception("keys could not be claimed", extra={"facts": facts})
            return internal(reference)
        return [int(number) for number in msgpack.unpackb(answer, raw=True)]
