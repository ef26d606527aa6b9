"""Waits for what was asked beyond the hot store's memory, and says what was reached.

A level that the deployment cannot give is refused before anything is decided. After that nothing is
refused any more: what was applied is answered OK, with the level that was reached in time.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast_server import failpoint
from holdfast_server.domain import operation as op
from holdfast_server.domain.entry import parse_transaction_id
from holdfast_server.domain.epoch import Epochs
from holdfast_server.domain.operation import Caller, Durability, Operation
from holdfast_server.domain.reply import Applied, at_durability
from holdfast_server.domain.submit import Answer, Asked, Attempter, among
from holdfast_server.engine.levels import StoreLevels
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.recorder import Recorder

#: How long a caller waits before it is told what has been reached: less than the two seconds that a
#: client gives one attempt.
WAIT_S: Final = 1.5

#: What is waited for when nobody says. A Commit only waits for replicas that keep up.
USUAL: Final[Mapping[type[Operation], Durability]] = {
    op.Grant: Durability.LEDGER,
    op.Revoke: Durability.LEDGER,
    op.Commit: Durability.REPLICATED,
}


#: What most wait for. To find a member in its class takes as long as to compare it ten times.
_MEMORY: Final = Durability.MEMORY

#: A partition and its epoch: where sequence numbers mean something.
Life = tuple[int, int]


class Wait(Protocol):
    """Waits until an entry of a partition, and all before it, have reached a level."""

    async def wait(self, partition: int, epoch: int, seq: int, timeout_s: float) -> bool:
        """Whether it was reached within the time."""
        ...


class Newest(Protocol):
    """Knows how far partitions are."""

    @property
    def partitions(self) -> int:
        """How many there are."""
        ...

    async def current_seq(self, partition: int) -> int:
        """The sequence number of the newest entry of a partition."""
        ...


@dataclass(frozen=True, slots=True)
class Promises:
    """What is waited for: by what is asked or usual, what is demanded, and what is possible."""

    levels: StoreLevels
    #: How many replicas REPLICATED means.
    replicas: int
    #: The least of each kind of operation, whatever is asked. Absent: memory.
    least: Mapping[type[Operation], Durability]

    def wanted(self, operation: Operation) -> Durability:
        """What an operation waits for."""
        asked: Durability | None = getattr(operation, "durability", None)
        least = self.least.get(type(operation), _MEMORY)
        if asked is None:
            asked = USUAL.get(type(operation), _MEMORY)
            if asked is Durability.REPLICATED and not self._replicas_keep_up:
                return least
        return max(asked, least)

    def refusal(self, level: Durability) -> HoldfastError | None:
        """Why this deployment cannot give a level, if it cannot."""
        if self.levels.now.gives(level, self.replicas):
            return None
        message = f"this deployment cannot give {level.name}: ask for LEDGER, or for MEMORY"
        return HoldfastError(Reason.DURABILITY_UNAVAILABLE, message, durability=level.name)

    @property
    def _replicas_keep_up(self) -> bool:
        return self.levels.now.replicas_keeping_up >= self.replicas


@dataclass(frozen=True, slots=True)
class Durable:
    """A submitter around `inner`, which applies what is then waited for."""

    inner: Attempter
    promises: Promises
    #: For every level but memory.
    waits: Mapping[Durability, Wait]
    newest: Newest
    epochs: Epochs
    #: Asks the ledger for newer epochs; answers whether it said something.
    learn_epochs: Callable[[], Awaitable[bool]]
    recorder: Recorder
    wait_s: float = WAIT_S

    async def submit(self, caller: Caller, operations: Sequence[Operation]) -> list[Answer]:
        """See `Submitter.submit`."""
        wanted = list(map(self.promises.wanted, operations))
        if max(wanted) is Durability.MEMORY:
            return await self.inner.submit(caller, operations)
        answers: list[Answer | None] = [*map(self.promises.refusal, wanted)]
        asked = [index for index, answer in enumerate(answers) if answer is None]
        sent = [operations[index] for index in asked]
        applied = await self.inner.submit(caller, sent) if sent else []
        failpoint.hit("app.before_wait")
        reached = await self._reached([wanted[index] for index in asked], applied)
        for index, answer in zip(asked, reached, strict=True):
            answers[index] = answer
        return answers  # type: ignore[return-value]  # no None is left

    async def attempt(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """See `Attempter.attempt`: what waits for more than memory is submitted by itself."""
        wanted = self.promises.wanted
        at_once = [each if wanted(each.operation) is _MEMORY else None for each in asked]
        return await among(at_once, self.inner.attempt)

    async def await_durable(self, transaction_id: str, seq: int, level: Durability) -> Durability:
        """What has been reached of a transaction and, in its partition, of all up to `seq` (0: the
        newest).

        Raises TRANSACTION_NOT_FOUND, DURABILITY_UNAVAILABLE, STORE_UNAVAILABLE and
        LEDGER_UNAVAILABLE.
        """
        if refusal := self.promises.refusal(level):
            raise refusal
        place = parse_transaction_id(transaction_id)
        if place is None or place[0] >= self.newest.partitions:
            raise _not_found(transaction_id)
        partition, epoch, first_seq = place
        start = await self._start(partition, epoch)
        ended = self.epochs.end(partition, epoch)
        newest = await self.newest.current_seq(partition) if ended is None else ended
        last_seq = seq or newest
        if start is None or not start < first_seq <= last_seq <= newest:
            raise _not_found(transaction_id)
        return await self._wait(level, (partition, epoch), last_seq)

    async def _start(self, partition: int, epoch: int) -> int | None:
        """The last sequence number before an epoch. Another process may have heard of it first."""
        if self.epochs.start(partition, epoch) is None and not await self.learn_epochs():
            message = "the ledger does not answer, and only it knows of that epoch; retry later"
            raise HoldfastError(Reason.LEDGER_UNAVAILABLE, message)
        return self.epochs.start(partition, epoch)

    async def _reached(
        self, wanted: Sequence[Durability], answers: Sequence[Answer]
    ) -> list[Answer]:
        """The answers with what was reached: one wait for all that a partition has of a level."""
        pairs = [(level, _applied(answer)) for level, answer in zip(wanted, answers, strict=True)]
        last = defaultdict[tuple[Durability, Life], int](int)
        for level, applied in pairs:
            if applied:
                place = level, _life(applied)
                last[place] = max(last[place], applied.seq)
        waits = [self._wait(*place, seq) for place, seq in last.items()]
        # One is waited for here: a task for it would cost more than the wait.
        found = [await waits[0]] if len(waits) == 1 else await asyncio.gather(*waits)
        reached = dict(zip(last, found, strict=True))
        return [
            _at(answer, reached[level, _life(applied)]) if applied else answer
            for answer, (level, applied) in zip(answers, pairs, strict=True)
        ]

    async def _wait(self, level: Durability, life: Life, seq: int) -> Durability:
        is_reached = level is Durability.MEMORY
        if not is_reached:
            is_reached = await self.waits[level].wait(*life, seq, self.wait_s)
            self.recorder.waited(level, is_reached=is_reached)
        return level if is_reached else Durability.MEMORY


def _not_found(transaction_id: str) -> HoldfastError:
    message = "nothing was applied under that name; use what `applied` said"
    reason = Reason.TRANSACTION_NOT_FOUND
    return HoldfastError(reason, message, transaction_id=transaction_id)


def _life(applied: Applied) -> Life:
    return applied.partition, applied.epoch


def _applied(answer: Answer) -> Applied | None:
    """Where something was written; None where nothing was."""
    applied = getattr(answer, "applied", None)
    return applied if isinstance(applied, Applied) and applied.seq else None


def _at(answer: Answer, level: Durability) -> Answer:
    applied = at_durability(answer.applied, level)  # type: ignore[union-attr]
    return dataclasses.replace(answer, applied=applied)  # type: ignore[type-var]
