"""Natural batching: the next batch gathers while script calls run, and while the process is busy.

A script call costs as much as the work on a few operations, and a busy process sends it later at no
cost to anybody. One that has nothing else to do sends at once: nobody waits for company that does
not come.

A submission is a list of operations that stay together and in order. One call takes whole
submissions until the batch is full. If the script finds a fault, nothing of the batch was written,
so the batch is halved until only the faulty operation fails. If the store is out of memory, what
records work that was done, or frees memory, is decided all the same, and may overtake what is not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol

import msgpack

from holdfast_server import failpoint
from holdfast_server.domain.operation import Commit, ExpireDue, GetBalance, Release
from holdfast_server.engine import failures
from holdfast_server.engine.call_keys import CallKeys
from holdfast_server.engine.claim import Claims, Wanted
from holdfast_server.engine.drains import Drains
from holdfast_server.engine.failures import internal
from holdfast_server.engine.idle import UntilIdle
from holdfast_server.engine.item import Flag, Item, Raw, split_by_balances
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.pack import digest_of, pack_operation
from holdfast_server.engine.rows import pack_row, pack_value
from holdfast_server.engine.scripts import Clock, Script, beyond_memory, load
from holdfast_server.engine.store import ScriptFault, Store, unanswered
from holdfast_server.errors import HoldfastError, Reason, new_reference
from holdfast_server.telemetry.names import Attribute
from holdfast_server.telemetry.tracing import Span, TraceContext, Tracing

#: What callers are told to wait when the queue is full.
RETRY_AFTER_MS = 100

_LOG = logging.getLogger(__name__)

#: After these nothing more of a batch is sent. A store that is out of memory still decides some.
_UNDECIDED = frozenset(
    {Reason.STORE_UNAVAILABLE, Reason.STORE_WRITE_BLOCKED, Reason.RESULT_UNKNOWN}
)

_REUSED = Raw(Flag.REUSED, b"")

#: What is decided although the store is out of memory: each ends something that has its room there,
#: or asks. It takes from what lies between `maxmemory` and the memory of the machine.
_BEYOND_MEMORY: Final = (Commit, Release, ExpireDue, GetBalance)


class BatchRecorder(Protocol):
    """Takes what batching does."""

    def queued(self, operations: int) -> None:
        """So many operations wait for a batch."""

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
    #: So many are sent even by a process that is busy: among more, each costs hardly less.
    gathered_operations: int = 16
    #: Operations that may wait.
    queue_operations: int = 10_000
    #: Script calls in flight: while one is decided, another is packed.
    calls: int = 2
    #: Entries of one partition that may wait for the ledger before it places no new holds.
    outbox_entries: int = 1_000_000


async def _nothing_new() -> None:
    """Nobody can be asked."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What every script call is made of."""

    store: Store
    keys: Keys
    script: Script
    #: How long idempotency keys are remembered, in milliseconds.
    generation_ms: Callable[[], int]
    #: Which build of the scripts is used: that of `script`.
    clock: Clock = Clock.STORE
    #: What time the store should show, 0 where nobody knows; for the test build, what time it is.
    clock_ms: Callable[[], int] = int
    #: Asks anew in which epochs the partitions are, after the store has said that one is fenced.
    learn_epochs: Callable[[], Awaitable[object]] = _nothing_new


class Batcher:
    """Gathers submissions and runs them."""

    def __init__(
        self, calls: Calls, limits: Limits, recorder: BatchRecorder, tracing: Tracing | None = None
    ) -> None:
        self._calls, self._limits, self._recorder = calls, limits, recorder
        self._claims = Claims(calls.store, calls.keys, load("claim_keys", calls.clock))
        self._tracing = tracing
        self._waiting: deque[Submission] = deque()
        self._waiting_operations = 0
        self._drains = Drains(limits.calls, self._drain)
        self._until_idle = UntilIdle()
        #: So much waits for the ledger, in all partitions, that no new holds are placed.
        self.is_backlogged = False

    @property
    def depth(self) -> int:
        """Operations that wait."""
        return self._waiting_operations

    async def submit(self, items: Sequence[Item]) -> list[Raw | HoldfastError]:
        """Answers all items, in order. Cancelling the caller does not cancel the call.

        Where partitions are fenced because they are in a later epoch than this process knew, what
        is about them is sent once more, in the same order.
        """
        answers = await self._submit(items)
        if not (fenced := _fenced(answers)):
            return answers
        await self._calls.learn_epochs()
        again = [each for each in fenced if self._is_behind(items[each], answers[each])]
        sent = await self._submit([items[each] for each in again]) if again else []
        for index, answer in zip(again, sent, strict=True):
            answers[index] = answer
        for index in _fenced(answers):
            answers[index] = failures.fenced()
        return answers

    def _is_behind(self, item: Item, answer: Raw | HoldfastError) -> bool:
        known = self._calls.keys.epoch(item.partition)
        return isinstance(answer, Raw) and answer.epoch != known

    async def _submit(self, items: Sequence[Item]) -> list[Raw | HoldfastError]:
        if self._waiting_operations + len(items) > self._limits.queue_operations:
            message = "too much work is waiting here; retry in a moment with the same key"
            error = HoldfastError(Reason.OVERLOADED, message, retry_after_ms=RETRY_AFTER_MS)
            return [error for _ in items]
        submission = Submission(items)
        self._waiting.append(submission)
        self._waiting_operations += len(items)
        self._begin()
        return await submission.done

    async def close(self) -> None:
        """Waits until nothing is waiting or running."""
        await self._drains.join()

    def _begin(self) -> None:
        """What waits is taken along by the task that gathers, if there is one."""
        if not self._until_idle.is_awaited:
            self._drains.start()
        elif self._waiting_operations >= self._limits.gathered_operations:
            self._until_idle.end()

    async def _drain(self) -> None:
        """Runs batches until nothing waits, or another task gathers the next one."""
        while self._waiting and not self._until_idle.is_awaited:
            if self._waiting_operations < self._limits.gathered_operations:
                await self._until_idle.wait()
            batch = self._take()
            if self._waiting:
                self._begin()
            await self._run(batch)

    def _take(self) -> list[Submission]:
        batch, size = [self._waiting.popleft()], 0
        size = len(batch[0].items)
        while self._waiting and size + len(self._waiting[0].items) <= self._limits.batch_operations:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].items)
        self._waiting_operations -= size
        return batch

    async def _run(self, batch: list[Submission]) -> None:
        self._recorder.queued(self._waiting_operations)
        items = [item for submission in batch for item in submission.items]
        with self._span(items) as span:
            span.set(Attribute.OPERATIONS, len(items))
            apart = self._calls.store.is_cluster
            answers = iter(await (self._decide_apart(batch) if apart else self._decide_all(items)))
        for submission in batch:
            mine = list(islice(answers, len(submission.items)))
            if not submission.done.done():
                submission.done.set_result(mine)

    def _span(self, items: Sequence[Item]) -> AbstractContextManager[Span]:
        if self._tracing is None:
            return nullcontext(Span())
        callers = (item.facts.caller for item in items)
        return self._tracing.batch(TraceContext(each.trace_id, each.span_id) for each in callers)

    async def _decide_apart(self, batch: Sequence[Submission]) -> Sequence[Raw | HoldfastError]:
        """Keys first, then each partition by itself: in a cluster no call sees more than one."""
        items = [item for submission in batch for item in submission.items]
        wanted = [_wanted(item) for item in items]
        claimed = await self._claims.make(self._header({}), wanted)
        answers: dict[int, Raw | HoldfastError] = dict.fromkeys(claimed.elsewhere, _REUSED)
        answers.update(_held_up(batch, claimed.refused))
        groups = defaultdict[int, list[int]](list)
        for index, item in enumerate(items):
            if index not in answers:
                groups[item.partition].append(index)
        found = await asyncio.gather(
            *(
                self._decide_all([items[index] for index in group], claimed.since_ms)
                for group in groups.values()
            )
        )
        for group, some in zip(groups.values(), found, strict=True):
            answers.update(zip(group, some, strict=True))
        return [answers[index] for index in range(len(items))]

    async def _decide_all(
        self, items: Sequence[Item], claimed_since_ms: int = 0
    ) -> Sequence[Raw | HoldfastError]:
        """One call, or one after the other where it would keep the store from others for long.

        What the store does not decide ends them: what follows must not overtake it, and nobody has
        to wait for the store once more.
        """
        answers: list[Raw | HoldfastError] = []
        for part in split_by_balances(items):
            answers += await self._decide(part, claimed_since_ms)
            last = answers[-1]
            if isinstance(last, HoldfastError) and last.reason in _UNDECIDED:
                not_sent = unanswered(Reason.STORE_UNAVAILABLE)
                return answers + [not_sent] * (len(items) - len(answers))
        return answers

    async def _decide(
        self, items: Sequence[Item], claimed_since_ms: int = 0, script: Script | None = None
    ) -> Sequence[Raw | HoldfastError]:
        try:
            return await self._call(items, claimed_since_ms, script or self._calls.script)
        except ScriptFault as fault:
            reference = new_reference()
            facts = {"reference": reference}
            _LOG.error(
                "script fault in a batch of %d: %s", len(items), fault, extra={"facts": facts}
            )
            if len(items) == 1:
                return [internal(reference)]
            middle = len(items) // 2
            return [
                *await self._decide(items[:middle], claimed_since_ms, script),
                *await self._decide(items[middle:], claimed_since_ms, script),
            ]
        except HoldfastError as error:
            if error.reason is Reason.STORE_OUT_OF_MEMORY and script is None:
                return await self._decide_beyond_memory(items, claimed_since_ms, error)
            return [error for _ in items]
        except Exception:
            reference = new_reference()
            facts = {"reference": reference}
            _LOG.exception("a batch of %d could not be run", len(items), extra={"facts": facts})
            return [internal(reference) for _ in items]

    async def _decide_beyond_memory(
        self, items: Sequence[Item], claimed_since_ms: int, error: HoldfastError
    ) -> Sequence[Raw | HoldfastError]:
        """The store refused all of them, so that nothing was decided; see `_BEYOND_MEMORY`."""
        some = [item for item in items if isinstance(item.operation, _BEYOND_MEMORY)]
        script = beyond_memory(self._calls.script)
        decided = iter(await self._decide(some, claimed_since_ms, script) if some else ())
        return [
            next(decided) if isinstance(item.operation, _BEYOND_MEMORY) else error for item in items
        ]

    async def _call(
        self, items: Sequence[Item], claimed_since_ms: int, script: Script
    ) -> Sequence[Raw]:
        keys, arguments = self._pack(items, claimed_since_ms)
        started = time.perf_counter()
        failpoint.hit("app.before_eval")
        raw = await self._calls.store.call(script, keys.groups, arguments)
        failpoint.hit("app.after_eval")
        self._recorder.batch(len(items), time.perf_counter() - started)
        flat = msgpack.unpackb(raw, raw=True)
        epochs = [keys.epochs[item.partition] for item in items]
        found = zip(flat[::2], flat[1::2], epochs, strict=True)
        return [Raw(flag, answer, epoch) for flag, answer, epoch in found]

    def _header(
        self, epochs: Mapping[int, int], claims_start: int = 0, claimed_since_ms: int = 0
    ) -> bytes:
        calls = self._calls
        return pack_value(
            [
                list(epochs.values()),
                calls.generation_ms(),
                0 if self.is_backlogged else self._limits.outbox_entries,
                calls.clock_ms(),
                list(epochs),
                claims_start,
                claimed_since_ms,
            ]
        )

    def _pack(self, items: Sequence[Item], claimed_since_ms: int) -> tuple[CallKeys, list[bytes]]:
        """The keys and arguments of one call (see apply.lua)."""
        keys = CallKeys(self._calls.keys)
        digests = [digest_of(item.operation) for item in items]
        # In a cluster, keys were claimed by a call of their own.
        claims = not self._calls.store.is_cluster
        places = [
            keys.place(item.operation, item.partition, item.root, digest if claims else b"")
            for item, digest in zip(items, digests, strict=True)
        ]
        keys.finish()
        operations = [
            pack_row(
                pack_operation(
                    item.operation, item.facts, digest, place, keys.whereabouts_index(place)
                )
            )
            for item, digest, place in zip(items, digests, places, strict=True)
        ]
        shards = [place.shard for place in places]
        arguments = [
            self._header(keys.epochs, keys.claims_start, claimed_since_ms),
            pack_value(operations),
            pack_value(shards),
        ]
        pairs = zip(places, items, strict=True)
        absent = {
            place.tree: each.facts.absent_to for place, each in pairs if each.facts.absent_to >= 0
        }
        return keys, [*arguments, pack_value(absent)] if absent else arguments


def _wanted(item: Item) -> Wanted:
    beyond_memory = isinstance(item.operation, _BEYOND_MEMORY)
    return Wanted(digest_of(item.operation), item.partition, beyond_memory)


def _fenced(answers: Sequence[Raw | HoldfastError]) -> list[int]:
    """Which of these partitions may not be touched where the call went."""
    flag = Flag.FENCED.value
    return [i for i, each in enumerate(answers) if isinstance(each, Raw) and each.flag == flag]


def _held_up(
    batch: Sequence[Submission], refused: Mapping[int, HoldfastError]
) -> dict[int, HoldfastError]:
    """What cannot be decided now, by index: what was refused, and what follows it.

    A submission is decided in the order given, so nothing of a partition overtakes what was before,
    except what a store that is out of memory still decides.
    """
    held: dict[int, HoldfastError] = {}
    index = 0
    for submission in batch:
        stopped: dict[int, HoldfastError] = {}
        for item in submission.items:
            error = stopped.get(item.partition) or refused.get(index)
            if error:
                held[index] = error
                if error.reason is not Reason.STORE_OUT_OF_MEMORY:
                    stopped[item.partition] = error
            index += 1
    return held
