"""Fences in the hot store: reading them, closing them, and opening them for the next epoch.

What a fence says and when it keeps a call away stands in `lua/lib/fence.lua`. Only the coordinator
of recoveries changes one. In a cluster each call sees one partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgpack

from holdfast_server.domain.epoch import Epoch
from holdfast_server.engine.keys import CLAIM_SHARDS, Keys
from holdfast_server.engine.rows import pack_row, pack_value, unpack_row
from holdfast_server.engine.scripts import load
from holdfast_server.engine.side_by_side import answered, gather, in_parts, whole
from holdfast_server.engine.store import Store
from holdfast_server.errors import HoldfastError, Reason

#: How a server calls itself that may be written to.
MASTER: Final = "master"

#: Where a partition's numbers (constants.lua, M_...) have its newest entry and its open holds.
_SEQ: Final = 0
_OPEN_HOLDS: Final = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server says of one partition. `epoch` and `seq` are 0 where it knows nothing of it."""

    partition: int
    replid: str
    now_ms: int
    #: Whether there is any state of the partition at all.
    exists: bool
    epoch: int
    #: The history for which it was armed, and whether it still is.
    armed_for: str
    is_armed: bool
    seq: int
    #: How far the ledger was, by what its flusher said.
    flushed: int
    open_holds: int

    def allows(self, epoch: int) -> bool:
        """Whether calls of this epoch are decided."""
        return self.is_armed and self.armed_for == self.replid and self.epoch == epoch

    def why(self, epoch: int) -> str:
        """Why they are not."""
        if not self.armed_for:
            return "unarmed"
        if not self.is_armed:
            return "fenced"
        return "history" if self.armed_for != self.replid else f"epoch {self.epoch}, not {epoch}"


@dataclass(frozen=True, slots=True)
class Arming:
    """A partition that shall go on: in which epoch, behind which sequence number.

    `last_ms` is None where its state was kept, else the time of its newest entry in the ledger.
    """

    partition: int
    epoch: Epoch
    #: Whether nobody has armed it before: then there is nothing that the store could lack.
    is_first: bool
    last_ms: int | None = None


class Fences:
    """The fences of every partition. Every method raises STORE_UNAVAILABLE and the like."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys
        self._at_once = 1 if store.is_cluster else keys.partitions

    async def read(self, epochs: Mapping[int, int]) -> dict[int, Seen]:
        """What the servers say of partitions that should be in these epochs.

        Of a cluster whose nodes do not all answer, only what the others have.
        """
        parts, script = self._parts(sorted(epochs)), load("read_fences")

        async def read(part: Sequence[int]) -> list[Seen]:
            names = [self._keys.state(each, epochs[each]) for each in part]
            return _seen(part, await self._store.run(script, names, []))

        found = answered(await gather([read(part) for part in parts]))
        self._store.clock.saw(seen[0].now_ms for seen in found if seen)
        return {each.partition: each for seen in found for each in seen}

    async def close(self, epochs: Mapping[int, int]) -> None:
        """Keeps every call away from partitions until they are armed again."""
        script = load("fence")
        names = [
            [self._keys.state(each, epochs[each]) for each in part]
            for part in self._parts(sorted(epochs))
        ]
        whole(await gather([self._store.run(script, some, []) for some in names]))

    async def arm(self, armings: Sequence[Arming], seen: Mapping[int, Seen]) -> set[int]:
        """Lets partitions go on where nothing has changed since they were seen; answers which."""
        for each in armings:
            self._keys.epochs.begin(each.partition, each.epoch)
        wanted = {each.partition: each for each in armings}
        calls = [
            self._arm_some([wanted[each] for each in part], seen)
            for part in self._parts(sorted(wanted))
        ]
        return set[int]().union(*whole(await gather(calls)))

    async def _arm_some(self, armings: Sequence[Arming], seen: Mapping[int, Seen]) -> set[int]:
        looked_at = seen[armings[0].partition]
        names = [self._keys.state(each.partition, each.epoch.number) for each in armings]
        wanted = [
            [
                each.epoch.number,
                each.epoch.start_seq,
                _numbers(each, looked_at.now_ms),
                int(each.is_first),
            ]
            for each in armings
        ]
        answer = await self._store.run(load("arm"), names, [looked_at.replid, pack_value(wanted)])
        return {each.partition for each, armed in zip(armings, answer, strict=True) if armed}

    async def forget_claims(self, now_ms: int) -> None:
        """Idempotency keys that are older than now no longer prove that they are new.

        A shard whose node is away is left out: if that has lost claims, its partitions are fenced.
        """
        script, shards = load("forget_claims"), range(CLAIM_SHARDS)
        await gather(
            [self._store.run(script, self._keys.claim_keys(each), [now_ms]) for each in shards]
        )

    def _parts(self, partitions: Sequence[int]) -> list[Sequence[int]]:
        return in_parts(partitions, self._at_once)


def _seen(partitions: Sequence[int], answer: bytes) -> list[Seen]:
    role, replid, now_ms, *rows = msgpack.unpackb(answer, raw=True)
    if role.decode() != MASTER:
        message = "a replica answers in place of the hot store; nothing was decided, retry"
        raise HoldfastError(Reason.STORE_UNAVAILABLE, message)
    return [
        _seen_one(partition, replid.decode(), now_ms, row)
        for partition, row in zip(partitions, rows, strict=True)
    ]


def _seen_one(partition: int, replid: str, now_ms: int, row: Sequence[bytes]) -> Seen:
    fence, numbers, flushed, _ = row
    epoch, armed_for, state = fence.decode().split() if fence else ("0", "", "")
    figures = unpack_row(numbers) if numbers else [0] * (_OPEN_HOLDS + 1)
    return Seen(
        partition=partition,
        replid=replid,
        now_ms=now_ms,
        exists=bool(fence or numbers),
        epoch=int(epoch),
        armed_for=armed_for,
        is_armed=state == "ARMED",
        seq=int(figures[_SEQ]),
        flushed=int(flushed or 0),
        open_holds=int(figures[_OPEN_HOLDS]),
    )


def _numbers(arming: Arming, now_ms: int) -> bytes:
    """The numbers of a partition that begins anew (constants.lua, M_...): nothing is remembered."""
    if arming.last_ms is None:
        return b""
    seq = arming.epoch.start_seq
    return pack_row([seq, arming.last_ms, now_ms, seq, 0, now_ms])
