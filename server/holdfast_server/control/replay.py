"""Books what was let through, once somebody can: the spool is drained into the engine.

Records of one hold or account keep their order; each carries its own idempotency key, so that one
that is sent twice counts once. What fails for now stays and is tried again, and where that is
trouble of one account or its partition, it holds up nobody else. What fails for good is kept as
dead. What the engine denies, or does not evaluate any more, was done all the same, so it is booked
as unenforced; so are what a Burn leaves that takes what there is, and the amounts of a Commit whose
hold ended otherwise before the spool was drained.

A denial is forgotten after a while, and the ledger never hears of it. So a record is marked on disk
before something else is booked for it: afterwards only that is sent, by whoever drains the segment.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast_server.control.bypass import used
from holdfast_server.control.kill import KillSwitch
from holdfast_server.control.spool import Spool
from holdfast_server.control.spool_files import Kept, Mark, read_segment, write_mark
from holdfast_server.control.spool_record import Record, Spooled, decode
from holdfast_server.domain.bounds import IDEMPOTENCY_KEY_BYTES_MAX
from holdfast_server.domain.operation import BookUnenforced, Burn, Commit, Line, Overage
from holdfast_server.domain.reply import BurnReply, CommitReply, Outcome
from holdfast_server.domain.submit import Answer, Submitter
from holdfast_server.domain.token import HoldToken, TokenSigner
from holdfast_server.errors import HoldfastError, Reason, Status
from holdfast_server.telemetry.names import Replayed
from holdfast_server.telemetry.recorder import Recorder

_log = logging.getLogger(__name__)

#: Operations that are sent at once.
BATCH_OPERATIONS_MAX = 100
#: Operations per second: a backlog must not crowd out the requests of now.
OPERATIONS_PER_SECOND_MAX = 2_000
#: Pause between two looks at the spool.
LOOK_PAUSE_SECONDS = 0.5

#: After these the same record can succeed later.
_TEMPORARY = frozenset({Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.RESOURCE_EXHAUSTED})

#: Trouble of one account or its partition, while all others can be booked.
_OF_ITS_OWN = frozenset({Reason.FENCED})

#: How the hold of a Commit that passed has ended otherwise since, if it ever had what was used.
_ENDINGS = {
    Reason.HOLD_ALREADY_COMMITTED: Mark.COMMITTED,
    Reason.HOLD_ALREADY_SETTLED: Mark.ENDED,
    Reason.HOLD_EXPIRED: Mark.ENDED,
    Reason.HOLD_NOT_FOUND: Mark.ENDED,
    Reason.LINE_UNKNOWN: Mark.ENDED,
}

#: Answers after which nothing was booked; the last one in a scope that is OFF since.
_NOT_BOOKED = frozenset({Outcome.DENIED, Outcome.BYPASSED})

#: Whose records keep their order: a tenant's hold or account.
_Subject = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Item:
    """One record that is to be booked, and what is sent for it by its mark."""

    segment: Path
    kept: Kept
    record: Record
    sent: Spooled


class Replayer:
    """Drains one spool into one engine, in the background."""

    def __init__(
        self,
        spool: Spool,
        engine: Submitter,
        kill: KillSwitch,
        signer: TokenSigner,
        recorder: Recorder,
    ) -> None:
        """`engine` is what stands behind the gate, never the gate itself."""
        self._spool = spool
        self._signer = signer
        self._engine = engine
        self._kill = kill
        self._recorder = recorder
        #: Of each segment that was begun, the places that need no more work: an adopted one may be
        #: begun before an older one that is still written.
        self._done: dict[Path, set[int]] = {}
        #: Of each that was tried, whose records are left.
        self._left: dict[Path, set[_Subject]] = {}

    async def run(self) -> None:
        """Drains for ever; end it by cancelling. No failure ends it."""
        while True:
            try:
                await self.drain()
            except Exception:
                _log.exception("the spool could not be drained; trying again")
            await asyncio.sleep(LOOK_PAUSE_SECONDS)

    async def drain(self) -> bool:
        """Books what waits; True when nothing is left, False when it must be tried again."""
        await self._spool.adopt()
        if self._kill.on:
            return False
        held_back: set[_Subject] = set()
        tried: set[Path] = set()
        while segments := await self._spool.sealed(but=tried):
            for segment in segments:
                if not await self._drain_segment(segment, held_back):
                    return False
            # One that is gone may have left its name to the next.
            tried.update(self._done.keys() & segments)
        return not tried & self._done.keys()

    async def _drain_segment(self, path: Path, held_back: set[_Subject]) -> bool:
        """Books what can be booked; False when nothing can be for now."""
        if (left := self._left.get(path)) and left <= held_back:
            return True
        segment = await asyncio.to_thread(read_segment, path)
        done = self._done.setdefault(path, set())
        items = await self._readable(path, segment.kept, done)
        for batch in batches(items):
            ready = [item for item in batch if _subject(item.record.operation) not in held_back]
            if self._kill.on or not await self._book(ready, done, held_back):
                return False
            await asyncio.sleep(len(ready) / OPERATIONS_PER_SECOND_MAX)
        if len(done) == len(segment.kept):
            await (self._spool.set_aside(path) if segment.damaged else self._spool.remove(path))
            del self._done[path]
            self._left.pop(path, None)
        else:
            waiting = (item for item in items if item.kept.place not in done)
            self._left[path] = {_subject(item.record.operation) for item in waiting}
        return True

    async def _readable(self, path: Path, kept: Sequence[Kept], done: set[int]) -> list[_Item]:
        items: list[_Item] = []
        for each in kept:
            if each.place in done:
                continue
            record = decode(each.raw)
            if record is not None:
                sent = marked(record.operation, each.mark, self._signer) or record.operation
                items.append(_Item(path, each, record, sent))
            elif await self._spool.bury(each.raw, "not readable"):
                done.add(each.place)
        return items

    async def _book(self, batch: Sequence[_Item], done: set[int], held_back: set[_Subject]) -> bool:
        answers = await self._sent(batch)
        is_away = False
        for item, answer in zip(batch, answers, strict=True):
            why = await self._settled(item, answer)
            if why is None:
                done.add(item.kept.place)
            elif why in _OF_ITS_OWN:
                held_back.add(_subject(item.record.operation))
            else:
                is_away = True
        return not is_away

    async def _sent(self, batch: Sequence[_Item]) -> list[Answer]:
        # A list has one caller, so neighbours with the same one are sent together.
        answers: list[Answer] = []
        operations = [item.sent for item in batch]
        start = 0
        for end in range(1, len(batch) + 1):
            caller = batch[start].record.caller
            if end == len(batch) or batch[end].record.caller != caller:
                answers += await self._engine.submit(caller, operations[start:end])
                start = end
        return answers

    async def _settled(self, item: _Item, answer: Answer) -> Reason | None:
        """Why a record stays; None when it needs no more work."""
        instead = self._instead(item, answer)
        if instead is not None:
            await asyncio.to_thread(write_mark, item.segment, instead.kept)
            (answer,) = await self._sent([instead])
            return await self._settled(instead, answer)
        if not isinstance(answer, HoldfastError):
            self._recorder.replayed(Replayed.BOOKED)
            return None
        is_temporary = answer.status in _TEMPORARY
        if is_temporary or not await self._spool.bury(item.kept.raw, answer.reason.name):
            return answer.reason
        return None

    def _instead(self, item: _Item, answer: Answer) -> _Item | None:
        """The same record as it is booked after an answer; None when nothing else is to be sent."""
        rest = left_by(item.sent, answer)
        if rest is not None:
            return replace(item, sent=rest)
        mark = mark_after(item.sent, answer)
        sent = marked(item.record.operation, mark, self._signer)
        if sent is None or mark <= item.kept.mark:
            return None
        return replace(item, kept=replace(item.kept, mark=mark), sent=sent)


def batches(items: Sequence[_Item]) -> list[list[_Item]]:
    """Runs of items that may be sent together: no two for one hold or account in one of them."""
    runs: list[list[_Item]] = [[]]
    seen: set[_Subject] = set()
    for item in items:
        subject = _subject(item.record.operation)
        if subject in seen or len(runs[-1]) == BATCH_OPERATIONS_MAX:
            runs.append([])
            seen.clear()
        runs[-1].append(item)
        seen.add(subject)
    return [run for run in runs if run]


def mark_after(sent: Spooled, answer: Answer) -> Mark:
    """How a record is to be booked, after an answer to what was sent for it."""
    if isinstance(answer, BurnReply | CommitReply):
        return Mark.DENIED if answer.decision.outcome in _NOT_BOOKED else Mark.AS_IT_IS
    if isinstance(sent, Commit) and isinstance(answer, HoldfastError):
        return _ENDINGS.get(answer.reason, Mark.AS_IT_IS)
    return Mark.AS_IT_IS


def marked(operation: Spooled, mark: Mark, signer: TokenSigner) -> Spooled | None:
    """What to book for a record with a mark; None when nothing can be."""
    if mark is Mark.DENIED and isinstance(operation, Burn):
        return unenforced_burn(operation)
    if mark is Mark.DENIED and isinstance(operation, Commit):
        key = derived_key("capped", operation.key)
        return replace(operation, overage=Overage.CAP, key=key)
    if mark in _ENDINGS.values() and isinstance(operation, Commit):
        token = signer.read(operation.tenant, operation.hold)
        return None if token is None else unenforced_commit(operation, token, mark)
    return operation


def left_by(sent: Spooled, answer: Answer) -> BookUnenforced | None:
    """What was done beyond what a Burn took that takes what there is; None when that is nothing.

    It needs no mark: the Burn is answered in the same way for ever.
    """
    if not isinstance(sent, Burn) or not isinstance(answer, BurnReply):
        return None
    if answer.decision.outcome is not Outcome.GRANTED_PARTIAL:
        return None
    taken = {line.credit_type: line.burned for line in answer.lines}
    left = {line.credit_type: line.amount - taken[line.credit_type] for line in sent.lines}
    lines = tuple(Line(name, amount) for name, amount in left.items() if amount > 0)
    return replace(unenforced_burn(sent), lines=lines, key=derived_key("rest", sent.key))


def unenforced_burn(burn: Burn) -> BookUnenforced:
    """A Burn that passed, as it is booked.

    Its key is another than the Burn's, because a Commit may have been booked under the same one.
    """
    key = derived_key("burn", burn.key)
    return BookUnenforced(burn.tenant, burn.account, burn.lines, key, burn.feature, burn.labels)


def unenforced_commit(commit: Commit, token: HoldToken, mark: Mark) -> BookUnenforced | None:
    """What was used of what was held, as use that nobody owes; None when it was nothing.

    A token remembers no captures: all that was held counts, whatever was captured before, unless it
    is in the books because another Commit ended the hold.
    """
    placed = None if mark is Mark.COMMITTED else token.placed
    lines = used(commit, placed.lines if placed else ())
    if not lines:
        return None
    key = derived_key("commit", commit.key)
    return BookUnenforced(commit.tenant, token.account, lines, key, token.feature, commit.labels)


def derived_key(purpose: str, key: str) -> str:
    """A key that belongs to another one, and to nothing else."""
    derived = f"{purpose}-{key}"
    if len(derived) <= IDEMPOTENCY_KEY_BYTES_MAX:
        return derived
    return f"{purpose}-{hashlib.sha256(key.encode()).hexdigest()}"


def _subject(operation: Spooled) -> _Subject:
    if isinstance(operation, BookUnenforced | Burn):
        return operation.tenant, operation.account
    return operation.tenant, operation.hold
