"""What the engine answers. Field for field what the proto carries; see there for the meaning."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import Final

from holdfast_server.domain.operation import AccountTerms, Durability, Mode
from holdfast_server.domain.value import value
from holdfast_server.errors import Reason


class Outcome(IntEnum):
    """What was decided. Numbers as in the proto; zero never means yes."""

    GRANTED = 1
    GRANTED_PARTIAL = 2
    GRANTED_SHADOW = 3
    BYPASSED = 4
    DENIED = 5


class HoldState(IntEnum):
    """Where a hold is in its life. Numbers as in the proto."""

    OPEN = 1
    COMMITTED = 2
    RELEASED = 3
    EXPIRED = 4


class WarningKind(IntEnum):
    """What is being warned about. Numbers as in the proto."""

    LIMIT_THRESHOLD = 1
    BALANCE_THRESHOLD = 2
    SOFT_LIMIT_EXCEEDED = 3


@value(frozen=True, slots=True)
class Shortfall:
    """What is missing for one line."""

    credit_type: str
    available: int
    shortfall: int


@value(frozen=True, slots=True)
class LimitUse:
    """How much of a limit is used."""

    account: str
    limit_id: str
    maximum: int
    used: int
    resets_at_ms: int

    @property
    def remaining(self) -> int:
        """What is left; 0 when exceeded."""
        return max(0, self.maximum - self.used)


@value(frozen=True, slots=True)
class Warning:
    """Something to look at although the request was granted."""

    kind: WarningKind
    account: str
    limit_id: str
    credit_type: str
    percent: int


@value(frozen=True, slots=True)
class Decision:
    """The answer to what may be denied. `reason` is set for DENIED and GRANTED_SHADOW."""

    outcome: Outcome
    mode: Mode
    reason: Reason = Reason.UNSPECIFIED
    shortfalls: tuple[Shortfall, ...] = ()
    limit: LimitUse | None = None
    retry_after_ms: int = 0


@value(frozen=True, slots=True)
class Applied:
    """Where an operation stands in the ledger's order. `seq` 0: nothing was written."""

    transaction_id: str = ""
    partition: int = 0
    epoch: int = 0
    seq: int = 0
    replayed: bool = False
    durability: Durability = Durability.MEMORY


@value(frozen=True, slots=True)
class Buckets:
    """granted + debt + unenforced = available + held + burned + expired + revoked."""

    granted: int = 0
    debt: int = 0
    unenforced: int = 0
    available: int = 0
    held: int = 0
    burned: int = 0
    expired: int = 0
    revoked: int = 0

    def balanced(self) -> bool:
        """Whether the conservation rule holds. It holds for deltas as it does for states."""
        sources = self.granted + self.debt + self.unenforced
        return sources == self.available + self.held + self.burned + self.expired + self.revoked

    def as_tuple(self) -> tuple[int, int, int, int, int, int, int, int]:
        """In the order of the fields, as entries carry them."""
        return (
            self.granted,
            self.debt,
            self.unenforced,
            self.available,
            self.held,
            self.burned,
            self.expired,
            self.revoked,
        )


#: The names of the buckets, in their order; those of the left side of the equation come first.
BUCKETS: Final = tuple(Buckets.__dataclass_fields__)


@value(frozen=True, slots=True)
class HeldLine:
    """What one line of a hold holds; `debt` and `unenforced` are parts of `held`."""

    credit_type: str
    requested: int
    held: int
    debt: int
    unenforced: int
    available_after: int


@value(frozen=True, slots=True)
class GrantShare:
    """One grant's part in a settlement or refund."""

    grant_id: str
    account: str
    burned: int = 0
    returned: int = 0
    expired: int = 0
    revoked: int = 0


@value(frozen=True, slots=True)
class SettledLine:
    """What one line of a settlement did."""

    credit_type: str
    burned: int
    returned: int
    overage: int
    debt: int
    unenforced: int
    held_after: int
    available_after: int
    grants: tuple[GrantShare, ...] = ()


@value(frozen=True, slots=True)
class ReserveReply:
    """`hold` is the token for Commit, Release and Extend; empty when denied."""

    decision: Decision
    applied: Applied
    hold: str = ""
    lines: tuple[HeldLine, ...] = ()
    expires_at_ms: int = 0
    warnings: tuple[Warning, ...] = ()


@value(frozen=True, slots=True)
class CommitReply:
    """The receipt of a Commit."""

    decision: Decision
    applied: Applied
    state: HoldState
    lines: tuple[SettledLine, ...] = ()
    late: bool = False
    expires_at_ms: int = 0
    warnings: tuple[Warning, ...] = ()


@value(frozen=True, slots=True)
class ReleaseReply:
    """What a Release gave back."""

    decision: Decision
    applied: Applied
    lines: tuple[SettledLine, ...] = ()


@value(frozen=True, slots=True)
class ExtendReply:
    """When the hold expires now."""

    decision: Decision
    applied: Applied
    expires_at_ms: int = 0


@value(frozen=True, slots=True)
class BurnReply:
    """The receipt of a Burn."""

    decision: Decision
    applied: Applied
    lines: tuple[SettledLine, ...] = ()
    warnings: tuple[Warning, ...] = ()


@value(frozen=True, slots=True)
class RefundedLine:
    """What one line of a refund did."""

    credit_type: str
    refunded: int
    debt: int
    unenforced: int
    available_after: int
    grants: tuple[GrantShare, ...] = ()


@value(frozen=True, slots=True)
class RefundReply:
    """What was given back."""

    applied: Applied
    lines: tuple[RefundedLine, ...] = ()


@value(frozen=True, slots=True)
class GrantBalance:
    """The state of one grant that still has something. `expires_at_ms` 0 means never."""

    grant_id: str
    remaining: int
    held: int
    priority: int
    effective_at_ms: int
    expires_at_ms: int


@value(frozen=True, slots=True)
class CreditBalance:
    """One credit type of one account; `spendable` includes accounts above and overdraft."""

    credit_type: str
    buckets: Buckets
    spendable: int
    version: int
    grants: tuple[GrantBalance, ...] = ()


@value(frozen=True, slots=True)
class BalanceReply:
    """What an account has at the store's instant `as_of_ms`."""

    account: str
    credits: tuple[CreditBalance, ...]
    limits: tuple[LimitUse, ...]
    open_holds: int
    as_of_ms: int
    stale: bool = False


@value(frozen=True, slots=True)
class Account:
    """An account as it is."""

    account: str
    root: str
    terms: AccountTerms
    version: int
    created_at_ms: int


@value(frozen=True, slots=True)
class AccountReply:
    """The answer to CreateAccount and UpdateAccount."""

    account: Account
    applied: Applied


@value(frozen=True, slots=True)
class GrantReply:
    """The answer to Grant."""

    grant_id: str
    debt_repaid: int
    buckets: Buckets
    applied: Applied


@value(frozen=True, slots=True)
class RevokeReply:
    """The answer to Revoke."""

    revoked: int
    still_held: int
    buckets: Buckets
    applied: Applied


@value(frozen=True, slots=True)
class BookReply:
    """The answer to BookUnenforced."""

    applied: Applied


@value(frozen=True, slots=True)
class ExpireReply:
    """The answer to ExpireDue: how much ended, and when the tree's next due time is (0: none)."""

    holds: int
    grants: int
    next_due_ms: int


@value(frozen=True, slots=True)
class OpenHold:
    """A hold as ListHolds shows it."""

    hold: str
    account: str
    feature: str
    placed_at_ms: int
    expires_at_ms: int
    mode: Mode
    lines: tuple[HeldLine, ...]


Reply = (
    ReserveReply
    | CommitReply
    | ReleaseReply
    | ExtendReply
    | BurnReply
    | RefundReply
    | BalanceReply
    | AccountReply
    | GrantReply
    | RevokeReply
    | BookReply
    | ExpireReply
)


def at_durability(applied: Applied, durability: Durability) -> Applied:
    """The same place in the ledger, with what was waited for since."""
    return replace(applied, durability=durability)
