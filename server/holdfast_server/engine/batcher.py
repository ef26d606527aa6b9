"""Natural batching: while one script call runs, the next batch gathers. There is no timer.

A submission is a list of operations that stay together and in order. One call takes whole
submissions
until the batch is full. If the script finds a fault, nothing of the batch was written, so the batch
is
taken apart and each submission, then each operation, is tried alone: only the faulty one fails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgpack

from holdfast_server.domain.operation import Operation
from holdfast_server.engine.failures import internal
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.pack import Facts, pack_operation
from holdfast_server.engine.scripts import Script
from holdfast_server.engine.store import ScriptFault, Store
from holdfast_server.errors import HoldfastError, Reason

#: What callers are told to wait when the queue is full.
RETRY_AFTER_MS = 100

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """An operation, the tree it is about, and where that is."""

    operation: Operation
    facts: Facts
    root: str
    partition: int


@dataclass(frozen=True, slots=True)
class Raw:
    """A script's answer to one item: a flag (see apply.lua) and packed bytes."""

    flag: int
    answer: bytes


class BatchRecorder(Protocol):
    """Takes the size and duration of each script call."""

    def batch(self, operations: int, seconds: float) -> None:
        """One call with so many operations took so long."""


@dataclass(slots=True)
class Submission:
    """Items that stay together, and who waits for them."""

    items: Sequence[Item]
    done: asyncio.Future[list[Raw | HoldfastError]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one process takes on."""

    #: Operations in one script call: bounds how long one call keeps the store from others.
    batch_operations: int = 500
    #: Operations that may wait.
    queue_operations: int = 10_000
    #: Script calls in flight: while one is decided, another is packed.
    calls: int = 2
    #: Entries of a partition that may wait for the ledger before no new holds are placed.
    outbox_entries: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Calls:
    """What every script call is made of."""

    store: Store
    keys: Keys
    script: Script
    #: How long idempotency keys are remembered, in milliseconds.
    generation_ms: Callable[[], int]
    #: Only for the test build of the script, which takes the time as an argument.
    clock_ms: Callable[[], int] = int


class Batcher:
    """Gathers submissions and runs them."""

    def __init__(self, calls: Calls, limits: Limits, recorder: BatchRecorder) -> None:
        self._calls, self._limits, self._recorder = calls, limits, recorder
        self._waiting: deque[Submission] = deque()
        self._waiting_operations = 0
        self._running: set[asyncio.Task[None]] = set()
        self.epoch = 1

    @property
    def depth(self) -> int:
        """Operations that wait."""
        return self._waiting_operations

    async def submit(self, items: Sequence[Item]) -> list[Raw | HoldfastError]:
        """Answers all items, in order. Cancelling the caller does not cancel the call."""
        if self._waiting_operations + len(items) > self._limits.queue_operations:
            message = "too much work is waiting here; retry in a moment with the same key"
            error = HoldfastError(Reason.OVERLOADED, message, retry_after_ms=RETRY_AFTER_MS)
            return [error for _ in items]
        submission = Submission(items)
        self._waiting.append(submission)
        self._waiting_operations += len(items)
        if len(self._running) < self._limits.calls:
            task = asyncio.create_task(self._drain())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await submission.done

    async def close(self) -> None:
        """Waits until nothing is waiting or running."""
        while self._running:
            await asyncio.gather(*self._running)

    async def _drain(self) -> None:
        """Runs batches until nothing waits."""
        # Everything that became ready in this turn of the event loop shall travel together.
        await asyncio.sleep(0)
        while self._waiting:
            await self._run(self._take())

    def _take(self) -> list[Submission]:
        batch, size = [self._waiting.popleft()], 0
        size = len(batch[0].items)
        while self._waiting and size + len(self._waiting[0].items) <= self._limits.batch_operations:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].items)
        self._waiting_operations -= size
        return batch

    async def _run(self, batch: list[Submission]) -> None:
        items = [item for submission in batch for item in submission.items]
        answers = iter(await self._decide(items))
        for submission in batch:
            mine = [next(answers) for _ in submission.items]
            if not submission.done.done():
                submission.done.set_result(mine)

    async def _decide(self, items: Sequence[Item]) -> Sequence[Raw | HoldfastError]:
        try:
            return await self._call(items)
        except ScriptFault as fault:
            _LOG.error("script fault in a batch of %d: %s", len(items), fault)
            if len(items) == 1:
                return [internal()]
            middle = len(items) // 2
            return [*await self._decide(items[:middle]), *await self._decide(items[middle:])]
        except HoldfastError as error:
            return [error for _ in items]
        except Exception:
            _LOG.exception("a batch of %d could not be run", len(items))
            return [internal() for _ in items]

    async def _call(self, items: Sequence[Item]) -> Sequence[Raw]:
        keys, packed = self._pack(items)
        started = time.perf_counter()
        raw = await self._calls.store.run(self._calls.script, keys, [self._header(keys), packed])
        self._recorder.batch(len(items), time.perf_counter() - started)
        flat = msgpack.unpackb(raw, raw=True)
        return [Raw(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]

    def _header(self, keys: _CallKeys) -> bytes:
        calls, waiting = self._calls, self._limits.outbox_entries
        clock_ms, partitions = calls.clock_ms(), keys.partitions
        return _packed([self.epoch, calls.generation_ms(), waiting, clock_ms, partitions])

    def _pack(self, items: Sequence[Item]) -> tuple[_CallKeys, bytes]:
        keys = _CallKeys(self._calls.keys, self.epoch)
        places = [keys.place(item) for item in items]
        keys.finish()
        operations = [
            pack_operation(item.operation, item.facts, *place[:2], keys.whereabouts_index(place[2]))
            for item, place in zip(items, places, strict=True)
        ]
        return keys, _packed(operations)


class _CallKeys(Sequence[str]):
    """The keys of one call: those of partitions, then those of trees, then whereabouts."""

    def __init__(self, keys: Keys, epoch: int) -> None:
        self._keys, self._epoch = keys, epoch
        self._partitions: dict[int, int] = {}
        self._trees: dict[tuple[str, str], int] = {}
        self._tree_keys: list[str] = []
        self._whereabouts: list[str] = []
        self._all: list[str] = []

    @property
    def partitions(self) -> int:
        """How many partitions the call touches."""
        return len(self._partitions)

    def place(self, item: Item) -> tuple[int, int, int]:
        """The 1-based indexes of an item's partition, tree and whereabouts key (0: none)."""
        tenant, root = item.operation.tenant, item.root
        partition = self._partitions.setdefault(item.partition, len(self._partitions) + 1)
        tree = self._trees.get((tenant, root))
        if tree is None:
            tree = self._trees[tenant, root] = len(self._trees) + 1
            self._tree_keys += self._keys.tree_keys(item.partition, self._epoch, tenant, root)
        return partition, tree, self._whereabouts_of(item)

    def _whereabouts_of(self, item: Item) -> int:
        account = getattr(item.operation, "account", "")
        if type(item.operation).__name__ != "CreateAccount" or account != item.root:
            return 0
        self._whereabouts.append(
            self._keys.whereabouts(self._epoch, item.operation.tenant, account)
        )
        return len(self._whereabouts)

    def finish(self) -> None:
        """Puts all keys in order."""
        for partition in self._partitions:
            self._all += self._keys.partition_keys(partition, self._epoch)
        self._all += self._tree_keys + self._whereabouts

    def whereabouts_index(self, index: int) -> int:
        """The 1-based index of a whereabouts key among all keys; 0 stays 0."""
        return index and len(self._all) - len(self._whereabouts) + index

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, index: Any) -> Any:
        return self._all[index]


def _packed(value: object) -> bytes:
    # Lua's cmsgpack knows no type for bytes: strings and bytes travel alike.
    packed = msgpack.packb(value, use_bin_type=False)
    assert isinstance(packed, bytes)
    return packed
