"""The outbox: the stream of each partition, from which the flusher takes entries to the ledger.

The flusher alone reads it, without consumer groups: where to continue stands in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgpack
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from holdfast_server.domain.epoch import Epoch
from holdfast_server.domain.packed import MALFORMED, PackedEntry, unpack_entry
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import load
from holdfast_server.engine.store import AWAY, WRITES_REFUSED, refused
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


@dataclass(slots=True)
class OutboxRun:
    """What was found of one partition: entries that follow each other without a gap."""

    partition: int
    epoch: int
    first_seq: int
    raws: list[bytes]
    #: What was found behind them and does not follow.
    stray: OutboxEntry | None = None

    def at(self, index: int) -> OutboxEntry:
        """One of them with its place."""
        return OutboxEntry(self.partition, self.epoch, self.first_seq + index, self.raws[index])


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
    """Reads, acknowledges and trims the streams. Every method raises STORE_UNAVAILABLE, and those
    that write raise what `WRITES_REFUSED` has: the store can then still be read.
    """

    def __init__(self, client: Redis | RedisCluster, keys: Keys) -> None:
        """`client` MUST answer in bytes. A script call sees one partition of a cluster only."""
        self._client = client
        self._at_once = 1 if isinstance(client, RedisCluster) else keys.partitions
        self._keys = keys
        self._read = client.register_script(load("read_outbox").text)
        self._publish = client.register_script(load("publish_flushed").text)
        self._turn = 0
        #: The stream and the state of each partition and epoch that was asked for.
        self._names: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    async def read(self, positions: Positions, count: int, block_ms: int) -> list[OutboxRun]:
        """Up to `count` entries after the given positions, one run of each partition that has some.

        Where a partition has some, the entry at its position comes before them, unless it is gone:
        with it the caller sees that what follows belongs to the history that it knows. Waits up to
        `block_ms` where there are none; with 0, not at all. Partitions take turns in going first,
        so that a busy one does not keep others waiting for more than one call each.
        """
        partitions = self._in_turn(sorted(positions))
        if not partitions:
            return []
        with _translated():
            found = await self._read_now(partitions, positions, count)
            if not found and block_ms and await self._has_more(partitions, positions, block_ms):
                found = await self._read_now(partitions, positions, count)
        return found

    def begin_epochs(self, epochs: Mapping[int, Epoch]) -> None:
        """Says in which epochs the positions of the calls that follow are."""
        for partition, epoch in epochs.items():
            self._keys.epochs.begin(partition, epoch)
        self._names.clear()

    def epoch(self, partition: int) -> int:
        """The newest epoch of a partition that this process has heard of."""
        return self._keys.epoch(partition)

    async def read_after(
        self, starts: Positions, epochs: Mapping[int, int], count: int
    ) -> list[OutboxEntry]:
        """Up to `count` entries, or a few more, of the streams that lie in these epochs.

        They may be of other epochs; those at the given positions come along.
        """
        names = {each: self._named(each, epochs[each])[0] for each in starts}
        found: list[OutboxEntry] = []
        with _translated():
            async for some in self._each(
                sorted(starts), lambda part: self._read_some(part, starts, count, names)
            ):
                for run in some:
                    found += map(run.at, range(len(run.raws)))
                    found += [run.stray] if run.stray else []
        return found

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
            # The driver would put words of its own before the server's.
            for answer in await pipeline.execute(raise_on_error=False):
                if isinstance(answer, Exception):
                    raise answer

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
    ) -> list[OutboxRun]:
        found: list[OutboxRun] = []
        names = {each: self._named(each, positions[each][0])[0] for each in partitions}
        async for some in self._each(
            partitions,
            lambda some: self._read_some(some, positions, min(count, READ_ENTRIES_MAX), names),
        ):
            found += some
            # Only where many calls are made for one read: those that began are not thrown away.
            if self._at_once == 1 and sum(len(run.raws) for run in found) >= count:
                break
        return found

    async def _read_some(
        self,
        partitions: Sequence[int],
        positions: Positions,
        count: int,
        names: Mapping[int, bytes],
    ) -> list[OutboxRun]:
        known = ["{}-{}".format(*positions[each]) for each in partitions]
        keys = [names[each] for each in partitions]
        answer = await self._read(keys=keys, args=[msgpack.packb([count, *known])])
        found = msgpack.unpackb(answer, raw=True) or ()
        return [_run(partitions[n - 1], ids, entries) for n, ids, entries in found]

    async def _publish_some(self, partitions: Sequence[int], positions: Positions) -> None:
        names = [self._named(each, positions[each][0])[1] for each in partitions]
        flushed = msgpack.packb([positions[each][1] for each in partitions])
        await self._publish(keys=names, args=[flushed])

    def _named(self, partition: int, epoch: int) -> tuple[bytes, bytes]:
        """The stream and the state: making names takes longer than reading what they name."""
        found = self._names.get((partition, epoch))
        if found is None:
            state, stream = self._keys.state(partition, epoch), self._keys.outbox(partition, epoch)
            found = self._names[partition, epoch] = stream.encode(), state.encode()
        return found

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
    """The values that the bytes stand for. Raises OutboxEntryError."""
    entries, error = unpack_run(
        OutboxRun(found.partition, found.epoch, found.seq, [found.raw]), skipped=0
    )
    if error:
        raise error
    return entries[0]


def unpack_run(
    run: OutboxRun, *, skipped: int
) -> tuple[list[PackedEntry], OutboxEntryError | None]:
    """The entries of a run but the first ones, up to one that cannot be read, and why that is so.

    Only their layout is checked: what the fields hold is checked by the ledger, which has to
    anyway.
    """
    entries: list[PackedEntry] = []
    partition, epoch = run.partition, run.epoch
    try:
        for seq, raw in enumerate(run.raws[skipped:], run.first_seq + skipped):
            entries.append(unpack_entry((partition, epoch, seq), raw, _context))
    except (*MALFORMED, msgpack.UnpackException) as error:
        explanation = f"{type(error).__name__}: {error}"[:200]
        return entries, OutboxEntryError(run.at(skipped + len(entries)), explanation)
    return entries, None


def _context(packed: bytes) -> list[Any]:
    context: list[Any] = msgpack.unpackb(packed, raw=True)
    if len(context) != CONTEXT_FIELDS:
        raise ValueError("not the context that this version knows")
    return context


def _run(partition: int, ids: bytes, entries: list[bytes]) -> OutboxRun:
    places = ids.split(b",")
    epoch, first_seq = _place(places[0])
    # Ids only rise: as many as lie between the first and the last are all of them.
    if _place(places[-1]) == (epoch, first_seq + len(entries) - 1):
        return OutboxRun(partition, epoch, first_seq, entries)
    end = next(n for n, each in enumerate(places) if _place(each) != (epoch, first_seq + n))
    stray = OutboxEntry(partition, *_place(places[end]), entries[end])
    return OutboxRun(partition, epoch, first_seq, entries[:end], stray)


def _place(stream_id: bytes) -> tuple[int, int]:
    epoch, seq = stream_id.split(b"-")
    return int(epoch), int(seq)


def _state(partition: int, newest: Sequence[Any], exact: Sequence[Any]) -> OutboxState:
    last = _place(newest[0][0]) if newest else None
    if not exact:
        return OutboxState(last, None)
    stream_id, fields = exact[0]
    return OutboxState(last, OutboxEntry(partition, *_place(stream_id), fields.get(b"e", b"")))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except AWAY as error:
        if isinstance(error, ResponseError):
            meaning = refused(error)
            if isinstance(meaning, HoldfastError) and meaning.reason in WRITES_REFUSED:
                raise meaning from error
        _log.warning("hot store unavailable: %s", error)
        raise HoldfastError(
            Reason.STORE_UNAVAILABLE, "The hot store cannot be reached; retry later."
        ) from error
