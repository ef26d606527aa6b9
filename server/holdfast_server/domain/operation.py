"""What the engine can be asked to do. Plain values: the API layer has checked their form.

Amounts are integers in the credit type's smallest unit; times are milliseconds since the Unix epoch
(`_ms`) or lengths in milliseconds (`ttl_ms`). Every operation names its tenant. A `durability` of
None stands for the default of its kind (control/durability.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import IntEnum

from holdfast_server.domain.value import value


class Fit(IntEnum):
    """How much of the asked amount a Reserve or Burn must get. Numbers as in the proto."""

    EXACT = 1
    UP_TO = 2


class Overage(IntEnum):
    """What a Commit does with an actual amount above the hold. Numbers as in the proto."""

    CHARGE = 1
    CAP = 2
    REJECT = 3


class Durability(IntEnum):
    """What must have happened before an answer is sent, weakest first. Numbers as in the proto."""

    MEMORY = 1
    FSYNCED = 2
    REPLICATED = 3
    LEDGER = 4


class Mode(IntEnum):
    """How enforcement treats a request. Numbers as in the proto."""

    OFF = 1
    SHADOW = 2
    ENFORCE = 3


class GrantSource(IntEnum):
    """Where a grant comes from. Numbers as in the proto."""

    PURCHASE = 1
    PROMOTION = 2
    PLAN = 3
    SUPPORT = 4
    MIGRATION = 5
    REFUND = 6
    ROLLOVER = 7


class AccountStatus(IntEnum):
    """What an account may do. Numbers as in the proto."""

    ACTIVE = 1
    FROZEN = 2
    CLOSED = 3


class LimitUnit(IntEnum):
    """What a limit counts. Numbers as in the proto."""

    REQUESTS = 1
    AMOUNT = 2


class LimitWindow(IntEnum):
    """Over which time a limit counts. Numbers as in the proto."""

    CALENDAR_DAY = 1
    CALENDAR_MONTH = 2
    SLIDING = 3
    BURST = 4


class LimitEnforcement(IntEnum):
    """What happens when a limit is used up. Numbers as in the proto."""

    HARD = 1
    SOFT = 2


@value(frozen=True, slots=True)
class Caller:
    """Who asks, and in which trace: kept in every entry."""

    #: The credential's subject.
    subject: str
    #: W3C trace id (32 hexadecimal digits) and span id (16), or empty.
    trace_id: str = ""
    span_id: str = ""


@value(frozen=True, slots=True)
class Line:
    """An amount that is asked for; `minimum` only counts with `Fit.UP_TO`."""

    credit_type: str
    amount: int
    minimum: int = 1


@value(frozen=True, slots=True)
class CommitLine:
    """An actual amount; None means what is held."""

    credit_type: str
    amount: int | None = None


@value(frozen=True, slots=True)
class RefundLine:
    """How much of one credit type to give back."""

    credit_type: str
    amount: int


@value(frozen=True, slots=True)
class Reserve:
    """Set credits aside before work is done."""

    tenant: str
    account: str
    lines: tuple[Line, ...]
    ttl_ms: int
    key: str
    feature: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    fit: Fit = Fit.EXACT
    durability: Durability | None = None


@value(frozen=True, slots=True)
class Commit:
    """Burn what was used of a hold. `hold` is the token that Reserve answered."""

    tenant: str
    hold: str
    key: str
    lines: tuple[CommitLine, ...] = ()
    final: bool = True
    #: With `final` false: a new time to live, measured from now; 0 leaves the old one.
    ttl_ms: int = 0
    overage: Overage = Overage.CHARGE
    labels: Mapping[str, str] = field(default_factory=dict)
    durability: Durability | None = None


@value(frozen=True, slots=True)
class Release:
    """Give all of a hold back."""

    tenant: str
    hold: str
    key: str
    reason: str = ""
    durability: Durability | None = None


@value(frozen=True, slots=True)
class Extend:
    """Give a hold more time, measured from now."""

    tenant: str
    hold: str
    ttl_ms: int
    key: str


@value(frozen=True, slots=True)
class Burn:
    """Reserve and Commit in one step."""

    tenant: str
    account: str
    lines: tuple[Line, ...]
    key: str
    feature: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    fit: Fit = Fit.EXACT
    durability: Durability | None = None


@value(frozen=True, slots=True)
class Refund:
    """Give burned credits back. No lines means all that is left to refund."""

    tenant: str
    transaction_id: str
    key: str
    lines: tuple[RefundLine, ...] = ()
    reason_code: str = ""
    #: What belonged to an expired grant becomes a new grant that lives this long; 0: it expires.
    goodwill_ttl_ms: int = 0
    durability: Durability | None = None


@value(frozen=True, slots=True)
class GetBalance:
    """What an account has, holds and has used."""

    tenant: str
    account: str


@value(frozen=True, slots=True)
class Limit:
    """A cap on use over time, on an account and everything below it."""

    limit_id: str
    unit: LimitUnit
    window: LimitWindow
    maximum: int
    enforcement: LimitEnforcement
    #: Length of a sliding or burst window; 0 for calendar windows.
    window_ms: int = 0
    #: Set for `LimitUnit.AMOUNT`.
    credit_type: str = ""
    #: Empty counts every feature.
    feature: str = ""
    warn_percents: tuple[int, ...] = (80, 95)


@value(frozen=True, slots=True)
class AccountTerms:
    """Everything about an account that its owner sets."""

    parent: str = ""
    display_name: str = ""
    status: AccountStatus = AccountStatus.ACTIVE
    overdraft_limits: Mapping[str, int] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    #: IANA name; empty means UTC.
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@value(frozen=True, slots=True)
class CreateAccount:
    """Create an account, alone or below a parent."""

    tenant: str
    account: str
    terms: AccountTerms
    key: str


@value(frozen=True, slots=True)
class UpdateAccount:
    """Replace the named terms of an account."""

    tenant: str
    account: str
    terms: AccountTerms
    #: Field names of `AccountTerms` to take from `terms`.
    fields: frozenset[str]
    key: str
    #: Refuse unless the account is at this version; 0 takes any.
    expected_version: int = 0


@value(frozen=True, slots=True)
class GrantTerms:
    """The terms of a grant. They never change."""

    credit_type: str
    amount: int
    source: GrantSource
    priority: int = 0
    #: 0 means now.
    effective_at_ms: int = 0
    #: 0 means never.
    expires_at_ms: int = 0
    cost_amount: int = 0
    cost_currency: str = ""
    reason_code: str = ""
    repay_debt: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)


@value(frozen=True, slots=True)
class Grant:
    """Give credits."""

    tenant: str
    account: str
    terms: GrantTerms
    key: str
    durability: Durability | None = None


@value(frozen=True, slots=True)
class Revoke:
    """Take back what a grant has left."""

    tenant: str
    account: str
    grant_id: str
    key: str
    reason_code: str = ""
    durability: Durability | None = None


@value(frozen=True, slots=True)
class BookUnenforced:
    """Book use that passed while enforcement was bypassed (from a process's spool)."""

    tenant: str
    account: str
    lines: tuple[Line, ...]
    key: str
    feature: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@value(frozen=True, slots=True)
class ExpireDue:
    """End every hold and grant of one tree whose time has come (from the sweeper)."""

    tenant: str
    root: str


Operation = (
    Reserve
    | Commit
    | Release
    | Extend
    | Burn
    | Refund
    | GetBalance
    | CreateAccount
    | UpdateAccount
    | Grant
    | Revoke
    | BookUnenforced
    | ExpireDue
)

#: The terms of an account that name credit types.
_COUNTING = frozenset({"overdraft_limits", "limits"})


def credit_types_of(operation: Operation) -> list[str]:
    """The credit types that an operation names, and that therefore have to be defined. A hold, a
    grant or a transaction that is named has only such.
    """
    if isinstance(operation, Reserve | Burn):
        return [line.credit_type for line in operation.lines]
    if isinstance(operation, Grant):
        return [operation.terms.credit_type]
    if isinstance(operation, CreateAccount):
        return _counted(operation.terms, _COUNTING)
    if isinstance(operation, UpdateAccount):
        return _counted(operation.terms, operation.fields & _COUNTING)
    return []


def _counted(terms: AccountTerms, fields: frozenset[str]) -> list[str]:
    """What some terms of an account count. One that no credit type has would count nothing."""
    overdrawn = terms.overdraft_limits if "overdraft_limits" in fields else ()
    limits = terms.limits if "limits" in fields else ()
    return [*overdrawn, *(limit.credit_type for limit in limits if limit.credit_type)]
