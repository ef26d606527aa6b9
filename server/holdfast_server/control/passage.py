"""Lets one operation through without a decision, and writes down what must be booked for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from holdfast_server.control import bypass
from holdfast_server.control.spool import Spool
from holdfast_server.control.spool_record import Spooled
from holdfast_server.domain.operation import (
    BookUnenforced,
    Burn,
    Caller,
    Commit,
    Mode,
    Reserve,
)
from holdfast_server.domain.policy import Enforcement, StoreUnavailable
from holdfast_server.domain.reply import Applied, Reply
from holdfast_server.domain.submit import Answer
from holdfast_server.domain.token import HoldToken, TokenKind, TokenSigner
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.names import Cause
from holdfast_server.telemetry.recorder import Recorder


class GateEnforcement(Enforcement, Protocol):
    """What is asked here, besides what the engine asks; answered from memory."""

    def store_unavailable(
        self, tenant: str, account: str, credit_type: str, feature: str
    ) -> StoreUnavailable:
        """What happens to one line of a request while the store is away."""
        ...


class Directory(Protocol):
    """What is known of account trees without asking a store."""

    def known(self, tenant: str, account: str) -> str | None:
        """The root of an account, or None when it is not in memory."""
        ...


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Passage:
    """Everything it asks answers from memory or the local disk."""

    enforcement: GateEnforcement
    directory: Directory
    signer: TokenSigner
    spool: Spool
    recorder: Recorder
    #: The process's clock: only what never reaches the store is timed by it.
    clock_ms: Callable[[], int] = _now_ms
    _answers: bypass.Answers = field(default_factory=bypass.Answers, init=False)

    def earlier(self, operation: Reserve | Burn | bypass.Settlement) -> Answer | None:
        """What the same request was answered when it was let through; None when it was not."""
        return self._answers.find(operation) if self._answers else None

    def mode(self, operation: Reserve | Burn) -> Mode:
        """The mode of a request.

        An account whose root is not in memory counts as its own: a dial may then place it otherwise
        than its tree.
        """
        credit_types = [line.credit_type for line in operation.lines]
        return self._mode(operation.tenant, operation.account, credit_types, operation.feature)

    def reserve(self, reserve: Reserve, cause: Cause) -> Answer:
        """Lets a Reserve through. Nothing is written down before its Commit."""
        mode = self.mode(reserve)
        kind = TokenKind.OFF if mode is Mode.OFF else TokenKind.BYPASSED
        token = self.signer.issue(reserve.tenant, bypass.token_of(reserve, kind))
        answer = bypass.reserved(reserve, token, mode, self.clock_ms())
        return self._passed(reserve, answer, cause)

    async def burn(
        self, caller: Caller, burn: Burn, cause: Cause, spooled: Spooled
    ) -> Answer | None:
        """Lets a Burn through and keeps `spooled` for it.

        None when it could not be kept, unless the cause is one for which nothing may be refused.
        """
        mode = self.mode(burn)
        kept = mode is Mode.OFF or await self.spool.append(caller, spooled)
        if not kept and cause is Cause.STORE_UNAVAILABLE:
            return None
        return self._passed(burn, bypass.burned(burn, mode), cause)

    async def settle(self, caller: Caller, operation: bypass.Settlement) -> Answer:
        """Lets a settlement through, to be made when the stores can be asked.

        A token that is not ours or another tenant's is refused: it needs no store to see that, and
        would only fill the spool.
        """
        earlier = self._answers.find(operation)
        if earlier is not None:
            return earlier
        token = self.signer.read(operation.tenant, operation.hold)
        if token is None:
            return HoldfastError(Reason.HOLD_NOT_FOUND, "There is no such hold.")
        if token.kind is TokenKind.HELD:
            await self.spool.append(caller, operation)
            return self._passed(operation, self.settled(operation, token), Cause.KILL)
        return await self._settle_bypassed(caller, operation, token)

    def settled(self, operation: bypass.Settlement, token: HoldToken) -> Reply:
        """The answer to a settlement about which nothing more is known."""
        return bypass.settled(operation, self._token_mode(operation.tenant, token), self.clock_ms())

    async def book_later(
        self, caller: Caller, commit: Commit, booking: BookUnenforced
    ) -> Answer | None:
        """Keeps the booking of a Commit; None when it could not be kept."""
        if not await self.spool.append(caller, booking):
            return None
        return self._passed(commit, self.committed(commit, booking, Applied()), Cause.SETTLEMENT)

    def committed(self, commit: Commit, booking: BookUnenforced, applied: Applied) -> Reply:
        """The receipt of a Commit of what had been let through."""
        return bypass.committed(commit, booking.lines, self._booking_mode(booking), applied)

    def rejected(self, commit: Commit, booking: BookUnenforced) -> Answer:
        """The denial of a Commit that is above what was asked; what passed before is not denied."""
        return self.earlier(commit) or bypass.rejected(self._booking_mode(booking))

    async def _settle_bypassed(
        self, caller: Caller, operation: bypass.Settlement, token: HoldToken
    ) -> Answer:
        if token.kind is TokenKind.OFF or not isinstance(operation, Commit):
            return self._passed(operation, self.settled(operation, token), Cause.KILL)
        booking = bypass.booking(operation, token)
        if isinstance(booking, HoldfastError):
            return booking
        if booking.lines:
            await self.spool.append(caller, booking)
        return self._passed(operation, self.committed(operation, booking, Applied()), Cause.KILL)

    def _booking_mode(self, booking: BookUnenforced) -> Mode:
        credit_types = [line.credit_type for line in booking.lines]
        return self._mode(booking.tenant, booking.account, credit_types, booking.feature)

    def _token_mode(self, tenant: str, token: HoldToken) -> Mode:
        if token.kind is TokenKind.OFF:
            return Mode.OFF
        credit_types = [line.credit_type for line in token.lines]
        return self._mode(tenant, token.account, credit_types, token.feature)

    def _mode(self, tenant: str, account: str, credit_types: Sequence[str], feature: str) -> Mode:
        root = self.directory.known(tenant, account) or account
        return self.enforcement.mode(tenant, account, root, credit_types, feature)

    def _passed(
        self, operation: Reserve | Burn | bypass.Settlement, answer: Reply, cause: Cause
    ) -> Answer:
        self._answers.keep(operation, answer)
        self.recorder.bypassed(type(operation).__name__, cause)
        return answer
