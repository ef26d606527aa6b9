"""The gate before the engine: what must be answered without a store, or without a decision.

| | kill switch on | store away | else |
| --- | --- | --- | --- |
| Reserve | passes with a token of its own | by policy, see below | engine |
| Burn | passes, spooled | by policy, see below | engine |
| Commit of a bypassed token | passes, spooled | spooled | booked as unenforced now |
| Commit, Release, Extend of a hold | passes, spooled, settled later | the engine's error | engine |
| Release, Extend of a bypassed token | passes | passes | passes |
| any settlement of an OFF token | passes, books nothing | the same | the same |
| everything else | engine | engine | engine |

**Store away.** In mode SHADOW a request is never refused, so it passes. In ENFORCE the policy
decides: DENY gives the engine's error, ALLOW passes, ALLOW_BOUNDED passes up to its bound per
account and minute in this process. What cannot be written down for booking passes only in SHADOW
and under the kill switch, where nothing may be refused; it is then counted as lost.

**REJECT.** A Commit that shall not be above its hold is denied above what a bypassed token asked
for, whether or not the store is away. Under the kill switch it passes.

**Repetition.** A request that passed gets the same answer again from this process. From another
one, after the store came back, it may be decided anew; it is then over-reported as unenforced,
never charged twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from holdfast_server.control import bypass
from holdfast_server.control.kill import KillSwitch
from holdfast_server.control.passage import Passage
from holdfast_server.control.replay import unenforced_burn
from holdfast_server.domain.operation import (
    BookUnenforced,
    Burn,
    Caller,
    Commit,
    Extend,
    Line,
    Mode,
    Operation,
    Release,
    Reserve,
)
from holdfast_server.domain.policy import StoreUnavailableKind
from holdfast_server.domain.reply import BookReply
from holdfast_server.domain.submit import Answer, Asked, Attempter, among
from holdfast_server.domain.token import TokenKind, looks_held
from holdfast_server.errors import UNKNOWN_RESULT_REASONS, HoldfastError, Reason
from holdfast_server.telemetry.names import Alert, Cause

_log = logging.getLogger(__name__)

FAIL_OPEN_MESSAGE = "work passes without a decision, as a policy says while the hot store is away"
#: The hot store is away: the policy decides.
STORE_AWAY = frozenset(
    {
        Reason.STORE_UNAVAILABLE,
        Reason.STORE_WRITE_BLOCKED,
        Reason.STORE_OUT_OF_MEMORY,
        Reason.FENCED,
        Reason.RESULT_UNKNOWN,
    }
)
#: In SHADOW nothing that is our own trouble may become the caller's.
OWN_TROUBLE = STORE_AWAY | {
    Reason.OVERLOADED,
    Reason.LEDGER_UNAVAILABLE,
    Reason.LEDGER_BACKLOG,
    Reason.DEADLINE_EXCEEDED,
    Reason.INTERNAL,
}
#: After these a Burn may have been applied, so only the Burn itself can be repeated safely.
_UNKNOWN_RESULT = UNKNOWN_RESULT_REASONS | {Reason.INTERNAL}


@dataclass(frozen=True, slots=True)
class _Ready:
    """An answer that needs nobody."""

    answer: Answer


_Step = Operation | _Ready

#: What spends, what settles a hold, and the answers to look at again.
_SPENDING = (Reserve, Burn)
_SETTLING = (Commit, Release, Extend)
_UNUSUAL = (HoldfastError, BookReply)


@dataclass(slots=True)
class Gate:
    """A submitter around `inner`, which decides whatever the gate does not."""

    inner: Attempter
    kill: KillSwitch
    passage: Passage
    _allowances: bypass.Allowances = field(default_factory=bypass.Allowances, init=False)

    async def submit(self, caller: Caller, operations: Sequence[Operation]) -> list[Answer]:
        """Answers every operation, in order; never raises for one of them."""
        if self.kill.on:
            killed = (self._killed(caller, each) for each in operations)
            steps: list[_Step] = await asyncio.gather(*killed)
        else:
            steps = [self._step(each) for each in operations]
        answers = await self._carried_out(caller, steps)
        for place, answer in enumerate(answers):
            if isinstance(answer, _UNUSUAL):
                finished = self._finished(caller, operations[place], steps[place], answer)
                answers[place] = await finished
        return answers

    async def attempt(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """See `Attempter.attempt`: nothing at all while the kill switch is on, for what passes then
        may have to be written to a disk.
        """
        if self.kill.on:
            return [None for _ in asked]
        steps = [self._step(each.operation) for each in asked]
        sent = [
            None if isinstance(step, _Ready) else Asked(each.caller, step)
            for each, step in zip(asked, steps, strict=True)
        ]
        answers = await among(sent, self.inner.attempt)
        for place, (step, answer) in enumerate(zip(steps, answers, strict=True)):
            if isinstance(step, _Ready):
                answers[place] = step.answer
            elif isinstance(answer, _UNUSUAL):
                answers[place] = await self._finished(*asked[place], step, answer)
        return answers

    async def _carried_out(self, caller: Caller, steps: Sequence[_Step]) -> list[Answer]:
        asked = [step for step in steps if not isinstance(step, _Ready)]
        if len(asked) == len(steps):
            return await self.inner.submit(caller, asked)
        answered = iter(await self.inner.submit(caller, asked) if asked else ())
        return [step.answer if isinstance(step, _Ready) else next(answered) for step in steps]

    async def _killed(self, caller: Caller, operation: Operation) -> _Step:
        """What to do about an operation while the kill switch is on."""
        if isinstance(operation, _SETTLING):
            return _Ready(await self.passage.settle(caller, operation))
        if isinstance(operation, _SPENDING):
            return await self._killed_request(caller, operation)
        return operation

    async def _killed_request(self, caller: Caller, operation: Reserve | Burn) -> _Step:
        answer = await self._passed(caller, operation, Cause.KILL, None)
        return operation if answer is None else _Ready(answer)

    def _step(self, operation: Operation) -> _Step:
        """What to do about an operation while it is off."""
        if isinstance(operation, _SETTLING):
            return operation if looks_held(operation.hold) else self._settlement(operation)
        if isinstance(operation, _SPENDING):
            answer = self.passage.earlier(operation)
            return operation if answer is None else _Ready(answer)
        return operation

    def _settlement(self, operation: bypass.Settlement) -> _Step:
        token = self.passage.signer.read(operation.tenant, operation.hold)
        if token is None or token.kind is TokenKind.HELD:
            return operation
        if token.kind is TokenKind.BYPASSED and isinstance(operation, Commit):
            booking = bypass.booking(operation, token)
            if isinstance(booking, HoldfastError):
                return _Ready(booking)
            if bypass.is_rejected(operation, booking, token):
                return _Ready(self.passage.rejected(operation, booking))
            if booking.lines:
                return booking
        return _Ready(self.passage.settled(operation, token))

    async def _finished(
        self, caller: Caller, operation: Operation, step: _Step, answer: Answer
    ) -> Answer:
        """The answer to an operation that failed, or that was sent as something else."""
        if isinstance(operation, _SPENDING) and isinstance(answer, HoldfastError):
            return await self._store_away(caller, operation, answer)
        if isinstance(operation, Commit) and isinstance(step, BookUnenforced):
            if isinstance(answer, BookReply):
                return self.passage.committed(operation, step, answer.applied)
            if isinstance(answer, HoldfastError) and answer.reason in OWN_TROUBLE:
                return await self.passage.book_later(caller, operation, step) or answer
        return answer

    async def _store_away(
        self, caller: Caller, operation: Reserve | Burn, error: HoldfastError
    ) -> Answer:
        mode = self.passage.mode(operation)
        if mode is not Mode.ENFORCE and error.reason in OWN_TROUBLE:
            cause = Cause.SHADOW
        elif error.reason in STORE_AWAY and self._allowed(operation):
            cause = Cause.STORE_UNAVAILABLE
            self.passage.recorder.alert(Alert.FAIL_OPEN)
            _log.warning(FAIL_OPEN_MESSAGE, extra={"facts": {"why": error.reason.name}})
        else:
            return error
        return await self._passed(caller, operation, cause, error.reason) or error

    def _allowed(self, operation: Reserve | Burn) -> bool:
        """Whether the policies of all its lines let it through."""
        bounded: list[tuple[Line, int]] = []
        for line in operation.lines:
            rule = self.passage.enforcement.store_unavailable(
                operation.tenant, operation.account, line.credit_type, operation.feature
            )
            if rule.kind is StoreUnavailableKind.DENY:
                return False
            if rule.kind is StoreUnavailableKind.ALLOW_BOUNDED:
                bounded.append((line, rule.bound_amount))
        now_ms = self.passage.clock_ms()
        return self._allowances.take(operation.tenant, operation.account, bounded, now_ms)

    async def _passed(
        self, caller: Caller, operation: Reserve | Burn, cause: Cause, failed: Reason | None
    ) -> Answer | None:
        """Lets it through; None when it cannot be kept for booking and may be refused."""
        earlier = self.passage.earlier(operation)
        if earlier is not None:
            return earlier
        if isinstance(operation, Reserve):
            return self.passage.reserve(operation, cause)
        spooled = operation if failed in _UNKNOWN_RESULT else unenforced_burn(operation)
        return await self.passage.burn(caller, operation, cause, spooled)
