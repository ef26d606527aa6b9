"""The outbox: the stream of each partition, from which the flusher takes entries to the ledger.

The flusher alone reads it, without consumer groups: where to continue stands in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate, pairwise
from typing import Any, Final, TypeVar

import msgpack
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.commands.core import AsyncScript

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.epoch import Epoch
from holdfast_server.domain.packed import (
    CONTEXT,
    FIRST_GRANT,
    GRANT_VALUES,
    LAYOUT,
    MALFORMED,
    PackedEntry,
    to_entry,
)
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.store import AWAY
from holdfast_server.errors import HoldfastError, Reason

#: Entries that one script call reads: it blocks the store for about a microsecond each.
READ_ENTRIES_MAX: Final = 2_000

#: Script calls that run side by side where each sees one partition, and how long to wait there for
#: entries before looking again: a blocking read would see one partition as well.
CALLS_MAX: Final = 16
POLL_SECONDS: Final = 0.02

#: Values in the context that Python packs and the scripts carry.
CONTEXT_FIELDS: Final = 10

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Epoch and sequence number of an entry, per partition.
Positions = Mapping[int, tuple[int, int]]


@dataclass(slots=True)
class OutboxEntry:
    """An entry as it was found in the stream of a partition. Not frozen, to be made quickly."""

    partition: int
    epoch: int
    seq: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class OutboxState:
    """What a partition's stream says of itself: its newest place ever, and one entry of it."""

    #: Epoch and sequence number of the last entry added; None where there is no stream.
    last: tuple[int, int] | None
    entry: OutboxEntry | None


class OutboxEntryError(Exception):
    """An entry in the outbox does not have the layout that this version knows."""

    def __init__(self, found: OutboxEntry, explanation: str) -> None:
        super().__init__(f"{found.partition}-{found.epoch}-{found.seq}: {explanation}")
        self.found = found
        self.explanation = explanation


class Outbox:
    """Reads, acknowledges and trims the streams. Every method raises STORE_UNAVAILABLE."""

    def __init__(self, client: Redis | RedisCluster, keys: Keys) -> None:
        """`client` MUST answer in bytes. A script call sees one partition of a cluster only."""
        self._client = client
        self._at_once = 1 if isinstance(client, RedisCluster) else keys.partitions
        self._keys = keys
        self._read = _script(client, "read_outbox.lua")
        self._publish = _script(client, "publish_flushed.lua")
        self._turn = 0

    async def read(self, positions: Positions, count: int, block_ms: int) -> list[OutboxEntry]:
        """Up to `count` entries after the given positions, each partition's in order.

        Where a partition has some, the entry at its position comes before them, unless it is gone:
        with it the caller sees that what follows belongs to the history that it knows. Waits up to
        `block_ms` where there are none. Partitions take turns in going first, so that a busy one
        does not keep others waiting for more than one call each.
        """
        partitions = self._in_turn(sorted(positions))
        if not partitions:
            return []
        with _translated():
            found = await self._read_now(partitions, positions, count)
            if not found and await self._has_more(partitions, positions, block_ms):
                found = await self._read_now(partitions, positions, count)
        return found

    def begin_epochs(self, epochs: Mapping[int, Epoch]) -> None:
        """Says in which epochs the positions of the calls that follow are."""
        for partition, epoch in epochs.items():
            self._keys.epochs.begin(partition, epoch)

    async def publish_flushed(self, positions: Positions) -> None:
        """Raises the watermarks to the given positions; lower ones change nothing."""
        if not positions:
            return
        with _translated():
            async for _ in self._each(
                list(positions), lambda some: self._publish_some(some, positions)
            ):
                pass

    async def trim(self, positions: Positions) -> None:
        """Forgets entries before the given positions, as far as that is cheap.

        The entry at each position stays: history is checked against it. Callers MUST NOT give
        positions above what the ledger has committed.
        """
        pipeline = self._client.pipeline(transaction=False)
        for partition, (epoch, seq) in positions.items():
            name = self._keys.outbox(partition, epoch)
            pipeline.xtrim(name, minid=f"{epoch}-{seq}", approximate=True)
        with _translated():
            await pipeline.execute()

    async def lengths(self, epochs: Mapping[int, int]) -> dict[int, int]:
        """How many entries each partition's stream holds, flushed but not yet trimmed ones too."""
        pipeline = self._client.pipeline(transaction=False)
        for partition, epoch in epochs.items():
            pipeline.xlen(self._keys.outbox(partition, epoch))
        with _translated():
            counts = await pipeline.execute()
        return dict(zip(epochs, counts, strict=True))

    async def states(self, positions: Positions) -> dict[int, OutboxState]:
        """The newest place of each partition's stream, and the entry at the given position."""
        pipeline = self._client.pipeline(transaction=False)
        for partition, (epoch, seq) in positions.items():
            name, place = self._keys.outbox(partition, epoch), f"{epoch}-{seq}"
            pipeline.xrevrange(name, count=1)
            pipeline.xrange(name, place, place)
        with _translated():
            answers = await pipeline.execute()
        pairs = zip(answers[0::2], answers[1::2], strict=True)
        return {
            partition: _state(partition, newest, exact)
            for partition, (newest, exact) in zip(positions, pairs, strict=True)
        }

    def _in_turn(self, partitions: list[int]) -> list[int]:
        self._turn = (self._turn + 1) % max(1, len(partitions))
        return partitions[self._turn :] + partitions[: self._turn]

    async def _read_now(
        self, partitions: Sequence[int], positions: Positions, count: int
    ) -> list[OutboxEntry]:
        found: list[OutboxEntry] = []
        async for some in self._each(
            partitions, lambda some: self._read_some(some, positions, min(count, READ_ENTRIES_MAX))
        ):
            found += some
            # Only where many calls are made for one read: those that began are not thrown away.
            if len(found) >= count and self._at_once == 1:
                break
        return found

    async def _read_some(
        self, partitions: Sequence[int], positions: Positions, count: int
    ) -> list[OutboxEntry]:
        names = [self._keys.outbox(each, positions[each][0]) for each in partitions]
        starts = ["{}-{}".format(*positions[each]) for each in partitions]
        answer = await self._read(keys=names, args=[count, *starts])
        return [entry for n, *columns in answer for entry in _entries(partitions[n - 1], *columns)]

    async def _publish_some(self, partitions: Sequence[int], positions: Positions) -> None:
        names = [self._keys.state(each, positions[each][0]) for each in partitions]
        await self._publish(keys=names, args=[positions[each][1] for each in partitions])

    async def _each(
        self, partitions: Sequence[int], call: Callable[[Sequence[int]], Awaitable[Result]]
    ) -> AsyncIterator[Result]:
        """Calls with as many partitions at once as may be, some of these calls side by side."""
        parts = [
            partitions[first : first + self._at_once]
            for first in range(0, len(partitions), self._at_once)
        ]
        for first in range(0, len(parts), CALLS_MAX):
            for answer in await asyncio.gather(*map(call, parts[first : first + CALLS_MAX])):
                yield answer

    async def _has_more(
        self, partitions: Sequence[int], positions: Positions, block_ms: int
    ) -> bool:
        if isinstance(self._client, RedisCluster):
            await asyncio.sleep(min(block_ms / 1_000, POLL_SECONDS))
            return True
        starts: dict[bytes | str | memoryview[int], int | bytes | str | memoryview[int]] = {
            self._keys.outbox(each, positions[each][0]): "{}-{}".format(*positions[each])
            for each in partitions
        }
        return bool(await self._client.xread(starts, count=1, block=block_ms))


def unpack(found: OutboxEntry) -> PackedEntry:
    """The array that the bytes stand for. Raises OutboxEntryError.

    Only its layout is checked: what the fields hold is checked by the ledger, which has to anyway.
    """
    try:
        fields = msgpack.unpackb(found.raw, raw=True)
        if fields[0] != LAYOUT or (len(fields) - FIRST_GRANT) % GRANT_VALUES:
            raise ValueError("not the layout that this version knows")
        context = msgpack.unpackb(fields[CONTEXT], raw=True)
        if len(context) != CONTEXT_FIELDS:
            raise ValueError("not the context that this version knows")
    except (*MALFORMED, msgpack.UnpackException) as error:
        raise OutboxEntryError(found, f"{type(error).__name__}: {error}"[:200]) from error
    return PackedEntry(found.partition, found.epoch, found.seq, found.raw, fields, context)


def decode(found: OutboxEntry) -> Entry:
    """The entry that the bytes stand for. Raises OutboxEntryError."""
    try:
        return to_entry(unpack(found))
    except MALFORMED as error:
        raise OutboxEntryError(found, f"{type(error).__name__}: {error}"[:200]) from error


def _entries(partition: int, ids: bytes, lengths: bytes, packed: bytes) -> Iterator[OutboxEntry]:
    ends = accumulate(map(int, lengths.split(b",")), initial=0)
    for place, (start, end) in zip(ids.split(b","), pairwise(ends), strict=True):
        yield OutboxEntry(partition, *_place(place), packed[start:end])


def _place(stream_id: bytes) -> tuple[int, int]:
    epoch, seq = stream_id.split(b"-")
    return int(epoch), int(seq)


def _state(partition: int, newest: Sequence[Any], exact: Sequence[Any]) -> OutboxState:
    last = _place(newest[0][0]) if newest else None
    if not exact:
        return OutboxState(last, None)
    stream_id, fields = exact[0]
    return OutboxState(last, OutboxEntry(partition, *_place(stream_id), fields.get(b"e", b"")))


def _script(client: Any, name: str) -> AsyncScript:
    folder = resources.files("holdfast_server.engine").joinpath("lua")
    script: AsyncScript = client.register_script(folder.joinpath(name).read_text("utf-8"))
    return script


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except AWAY as error:
        _log.warning("hot store unavailable: %s", error)
        raise HoldfastError(
            Reason.STORE_UNAVAILABLE, "The hot store cannot be reached; retry later."
        ) from error
