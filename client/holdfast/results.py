"""What Holdfast answers: small frozen values.

Amounts are integers in the credit type's smallest unit. Times (`…_at_ms`) are milliseconds since
the Unix epoch by the store's clock; 0 means "not set" or "never", as the field says.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast._lazy import Lazy
from holdfast.kinds import Durability, HoldState, Mode, Outcome, WarningKind

#: To look up members of an enumeration takes longer than all else about a decision.
_NOT_ALLOWED = (Outcome.DENIED, Outcome.UNSPECIFIED)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What is missing for one line: what could have been held, and how much more was needed."""

    credit_type: str
    available: int
    shortfall: int


@dataclass(frozen=True, slots=True)
class LimitUse:
    """How much of a limit is used."""

    account: str
    limit_id: str
    maximum: int
    used: int
    remaining: int
    #: When all of the present use will have left the window.
    resets_at_ms: int


@dataclass(frozen=True, slots=True)
class Decision(Lazy):
    """The answer to a question that may be denied."""

    outcome: Outcome
    #: Why it was denied, or would have been in shadow mode ("INSUFFICIENT_CREDITS", …); else empty.
    reason: str = ""
    #: One sentence for a person: what is wrong and what would help.
    message: str = ""
    shortfalls: tuple[Shortfall, ...] = ()
    #: The limit that denied, for "LIMIT_EXCEEDED".
    limit: LimitUse | None = None
    #: For "LIMIT_EXCEEDED": when the same request could fit; 0 when waiting does not help.
    retry_after_ms: int = 0
    mode: Mode = Mode.UNSPECIFIED

    @property
    def allowed(self) -> bool:
        """Whether the work may be done. False for anything this release does not know."""
        return self.outcome not in _NOT_ALLOWED


@dataclass(frozen=True, slots=True)
class Applied(Lazy):
    """Where an operation stands in the ledger's order. `seq` 0: nothing was written."""

    transaction_id: str = ""
    partition: int = 0
    epoch: int = 0
    seq: int = 0
    #: True when this answers a request that had been applied before, under the same key.
    replayed: bool = False
    durability: Durability = Durability.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class CreditWarning:
    """Something to look at although the request was granted."""

    kind: WarningKind
    account: str
    limit_id: str
    credit_type: str
    percent: int


@dataclass(frozen=True, slots=True)
class HeldLine:
    """What one line of a hold holds; `debt` and `unenforced` are parts of `held`."""

    credit_type: str
    requested: int
    held: int
    debt: int
    unenforced: int
    available_after: int


@dataclass(frozen=True, slots=True)
class GrantShare:
    """One grant's part in a settlement or refund."""

    grant_id: str
    account: str
    burned: int
    returned: int
    expired: int
    revoked: int


@dataclass(frozen=True, slots=True)
class SettledLine:
    """What one line of a settlement did; overage, debt and unenforced are parts of `burned`."""

    credit_type: str
    burned: int
    returned: int
    overage: int
    debt: int
    unenforced: int
    held_after: int
    available_after: int
    grants: tuple[GrantShare, ...] = ()


@dataclass(frozen=True, slots=True)
class ReserveResult(Lazy):
    """The answer to reserve. `hold_id` is empty when denied or when nobody could be reached."""

    decision: Decision
    hold_id: str = ""
    lines: tuple[HeldLine, ...] = ()
    expires_at_ms: int = 0
    warnings: tuple[CreditWarning, ...] = ()
    applied: Applied = Applied()


@dataclass(frozen=True, slots=True)
class CommitResult(Lazy):
    """The receipt of a commit. `late`: the hold had expired; the usage was booked all the same."""

    decision: Decision
    lines: tuple[SettledLine, ...] = ()
    late: bool = False
    state: HoldState = HoldState.UNSPECIFIED
    expires_at_ms: int = 0
    warnings: tuple[CreditWarning, ...] = ()
    applied: Applied = Applied()


@dataclass(frozen=True, slots=True)
class ReleaseResult(Lazy):
    """What a release gave back."""

    decision: Decision
    lines: tuple[SettledLine, ...] = ()
    applied: Applied = Applied()


@dataclass(frozen=True, slots=True)
class ExtendResult(Lazy):
    """When the hold expires now."""

    decision: Decision
    expires_at_ms: int = 0
    applied: Applied = Applied()


@dataclass(frozen=True, slots=True)
class BurnResult(Lazy):
    """The receipt of a burn. Look at `decision.allowed`: a burn can be denied."""

    decision: Decision
    lines: tuple[SettledLine, ...] = ()
    warnings: tuple[CreditWarning, ...] = ()
    applied: Applied = Applied()


@dataclass(frozen=True, slots=True)
class RefundedLine:
    """What one line of a refund did."""

    credit_type: str
    refunded: int
    debt: int
    unenforced: int
    grants: tuple[GrantShare, ...]
    available_after: int


@dataclass(frozen=True, slots=True)
class RefundResult(Lazy):
    """What was given back."""

    lines: tuple[RefundedLine, ...]
    applied: Applied


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class GrantBalance:
    """The state of one grant that still has something. `expires_at_ms` 0: never."""

    grant_id: str
    remaining: int
    held: int
    priority: int
    effective_at_ms: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class CreditBalance:
    """One credit type of one account; `spendable` includes accounts above and overdraft."""

    credit_type: str
    buckets: Buckets
    spendable: int
    grants: tuple[GrantBalance, ...]
    version: int


@dataclass(frozen=True, slots=True)
class BalanceResult(Lazy):
    """What an account has at `as_of_ms`. `stale`: the ledger's figure, the hot store is away."""

    account: str
    credits: tuple[CreditBalance, ...]
    limits: tuple[LimitUse, ...]
    open_holds: int
    as_of_ms: int
    stale: bool

    def spendable(self, credit_type: str) -> int:
        """What a reserve of `credit_type` could hold now; 0 for one the account never had."""
        return next((one.spendable for one in self.credits if one.credit_type == credit_type), 0)


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A hold as list_holds shows it."""

    hold_id: str
    account: str
    lines: tuple[HeldLine, ...]
    feature: str
    placed_at_ms: int
    expires_at_ms: int
    mode: Mode
