"""What is answered to what is let through, without asking anybody: pure functions of the request.

A bypassed Reserve gets a token that carries what was asked, so that its Commit can be booked by
whichever process it reaches. Such a token remembers no captures: a final Commit without amounts
books all that was asked, whatever was captured before it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast_server.domain.operation import (
    BookUnenforced,
    Burn,
    Commit,
    Extend,
    Line,
    Mode,
    Operation,
    Overage,
    Release,
    Reserve,
)
from holdfast_server.domain.reply import (
    Applied,
    BurnReply,
    CommitReply,
    Decision,
    ExtendReply,
    HeldLine,
    HoldState,
    Outcome,
    ReleaseReply,
    Reply,
    ReserveReply,
    SettledLine,
)
from holdfast_server.domain.token import HOLD_ID_BYTES, HoldToken, TokenKind
from holdfast_server.errors import HoldfastError, Reason

#: Answers that are remembered, so that a repeated request gets the same one.
ANSWERS_MAX = 10_000
#: Accounts and credit types whose bounded allowance is counted at once, per process.
ALLOWANCES_MAX = 100_000
#: The time over which an allowance counts.
ALLOWANCE_WINDOW_MS = 60_000

#: What brings back a hold's token.
Settlement = Commit | Release | Extend


def token_of(reserve: Reserve, kind: TokenKind) -> HoldToken:
    """The token of a Reserve that is let through: the same for the same request."""
    identity = f"{reserve.tenant}\0{reserve.key}".encode()
    return HoldToken(
        kind,
        root=reserve.account,
        account=reserve.account,
        hold=hashlib.sha256(identity).digest()[:HOLD_ID_BYTES],
        feature=reserve.feature,
        lines=reserve.lines,
    )


def reserved(reserve: Reserve, token: str, mode: Mode, now_ms: int) -> ReserveReply:
    """The answer to a Reserve that is let through: all that was asked, and in OFF nothing."""
    if mode is Mode.OFF:
        return ReserveReply(bypassed(mode), Applied(), token)
    lines = tuple(
        HeldLine(
            line.credit_type,
            requested=line.amount,
            held=line.amount,
            debt=0,
            unenforced=line.amount,
            available_after=0,
        )
        for line in reserve.lines
    )
    return ReserveReply(bypassed(mode), Applied(), token, lines, now_ms + reserve.ttl_ms)


def burned(burn: Burn, mode: Mode) -> BurnReply:
    """The answer to a Burn that is let through: all that was asked, and in OFF nothing."""
    lines = () if mode is Mode.OFF else settled_lines(burn.lines)
    return BurnReply(bypassed(mode), Applied(), lines)


def settled(operation: Settlement, mode: Mode, now_ms: int) -> Reply:
    """The answer to a settlement that is booked later, or not at all: nothing is known yet."""
    decision = bypassed(mode)
    if isinstance(operation, Extend):
        return ExtendReply(decision, Applied(), now_ms + operation.ttl_ms)
    if isinstance(operation, Release):
        return ReleaseReply(decision, Applied())
    state = HoldState.COMMITTED if operation.final else HoldState.OPEN
    return CommitReply(decision, Applied(), state)


def committed(commit: Commit, lines: Sequence[Line], mode: Mode, applied: Applied) -> CommitReply:
    """The receipt of a Commit of what was let through; `lines` is what it books."""
    state = HoldState.COMMITTED if commit.final else HoldState.OPEN
    return CommitReply(bypassed(mode), applied, state, settled_lines(lines))


def rejected(mode: Mode) -> CommitReply:
    """The answer to a Commit that `is_rejected`: nothing has changed."""
    decision = Decision(Outcome.DENIED, mode, Reason.OVERAGE_REJECTED)
    return CommitReply(decision, Applied(), HoldState.OPEN)


def settled_lines(lines: Sequence[Line]) -> tuple[SettledLine, ...]:
    """What is burned without having been held: all of it unenforced."""
    return tuple(
        SettledLine(
            line.credit_type,
            burned=line.amount,
            returned=0,
            overage=0,
            debt=0,
            unenforced=line.amount,
            held_after=0,
            available_after=0,
        )
        for line in lines
    )


def bypassed(mode: Mode) -> Decision:
    """The decision not to decide."""
    return Decision(Outcome.BYPASSED, mode)


def booking(commit: Commit, token: HoldToken) -> BookUnenforced | HoldfastError:
    """What a Commit of a bypassed token books; without lines where there is nothing to book.

    A Commit that names a credit type that was not asked for is refused, as for any hold.
    """
    asked = {line.credit_type for line in token.lines}
    for credit_type in {line.credit_type for line in commit.lines} - asked:
        message = f"the hold has no credit type {credit_type}"
        return HoldfastError(Reason.LINE_UNKNOWN, message, credit_type=credit_type)
    lines = used(commit, token.lines)
    return BookUnenforced(
        commit.tenant, token.account, lines, commit.key, token.feature, commit.labels
    )


def is_rejected(commit: Commit, booking: BookUnenforced, token: HoldToken) -> bool:
    """Whether a Commit is above what was asked, and shall not be."""
    asked = {line.credit_type: line.amount for line in token.lines}
    is_above = any(line.amount > asked[line.credit_type] for line in booking.lines)
    return is_above and commit.overage is Overage.REJECT


def used(commit: Commit, held: Sequence[Line]) -> tuple[Line, ...]:
    """What was used as a Commit says it: what it leaves out is what was held."""
    before = {line.credit_type: line.amount for line in held}
    named = {
        line.credit_type: before.get(line.credit_type, 0) if line.amount is None else line.amount
        for line in commit.lines
    }
    amounts = {**before, **named} if commit.final else named
    return tuple(Line(name, amount) for name, amount in amounts.items() if amount > 0)


@dataclass(frozen=True, slots=True)
class _Remembered:
    operation: Operation
    answer: Reply


class Answers:
    """The newest answers to what was let through, by method and key; older ones are forgotten."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[type, str, str], _Remembered] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._answers)

    def keep(self, operation: Reserve | Burn | Settlement, answer: Reply) -> None:
        """Remembers an answer."""
        self._answers[_identity(operation)] = _Remembered(operation, answer)
        if len(self._answers) > ANSWERS_MAX:
            self._answers.popitem(last=False)

    def find(self, operation: Reserve | Burn | Settlement) -> Reply | None:
        """The answer that the same request got before, marked as such."""
        found = self._answers.get(_identity(operation))
        if found is None or found.operation != operation:
            return None
        return _replayed(found.answer)


class Allowances:
    """How much each account was let through in this minute. In one process, as the bound is."""

    def __init__(self) -> None:
        self._window = 0
        self._used: dict[tuple[str, str, str], int] = {}

    def take(
        self, tenant: str, account: str, asked: Sequence[tuple[Line, int]], now_ms: int
    ) -> bool:
        """Counts lines against their bounds: all of them when all fit, else none.

        `asked` pairs each line with its bound. False also when too many accounts are counted.
        """
        self._turn(now_ms // ALLOWANCE_WINDOW_MS)
        after: dict[tuple[str, str, str], int] = {}
        for line, bound in asked:
            subject = (tenant, account, line.credit_type)
            after[subject] = self._used.get(subject, 0) + line.amount
            if after[subject] > bound:
                return False
        if len(self._used.keys() | after.keys()) > ALLOWANCES_MAX:
            return False
        self._used |= after
        return True

    def _turn(self, window: int) -> None:
        if window != self._window:
            self._window = window
            self._used = {}


def _identity(operation: Reserve | Burn | Settlement) -> tuple[type, str, str]:
    return type(operation), operation.tenant, operation.key


def _replayed(answer: Reply) -> Reply:
    if isinstance(answer, ReserveReply | BurnReply | CommitReply | ReleaseReply | ExtendReply):
        return replace(answer, applied=replace(answer.applied, replayed=True))
    return answer
