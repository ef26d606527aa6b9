"""What Holdfast keeps: accounts, grants, policies and ledger entries, as small frozen values.

Amounts and times are as in `holdfast.results`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.kinds import (
    AccountStatus,
    EntryKind,
    GrantSource,
    LimitEnforcement,
    LimitUnit,
    LimitWindow,
    Mode,
    ScopeKind,
    StoreUnavailable,
)
from holdfast.results import Applied, Buckets


@dataclass(frozen=True, slots=True)
class Limit:
    """A cap on use over time, on an account and everything below it."""

    limit_id: str
    unit: LimitUnit
    window: LimitWindow
    maximum: int
    enforcement: LimitEnforcement = LimitEnforcement.HARD
    #: Required for LimitUnit.AMOUNT, empty for LimitUnit.REQUESTS.
    credit_type: str = ""
    #: Only requests for this feature count. Empty counts all.
    feature: str = ""
    #: The length of a sliding or burst window; 0 for calendar windows.
    window_ms: int = 0
    #: Percentages of `maximum` at which to warn. Empty means 80 and 95.
    warn_percents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """Who holds credits."""

    account: str
    parent: str
    root: str
    display_name: str
    status: AccountStatus
    overdraft_limits: Mapping[str, int]
    limits: tuple[Limit, ...]
    zone: str
    labels: Mapping[str, str]
    version: int
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class AccountResult:
    """An account as a create or update left it."""

    account: Account
    applied: Applied


@dataclass(frozen=True, slots=True)
class CreditType:
    """A unit of account; `scale`: decimal digits between people's unit and the amounts' unit."""

    credit_type: str
    display_name: str
    scale: int


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """The terms of a grant."""

    credit_type: str
    amount: int
    source: GrantSource
    priority: int
    effective_at_ms: int
    expires_at_ms: int
    cost_amount: int
    cost_currency: str
    reason_code: str
    repay_debt: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GrantResult:
    """The answer to grant."""

    grant_id: str
    debt_repaid: int
    buckets: Buckets
    applied: Applied


@dataclass(frozen=True, slots=True)
class RevokeResult:
    """The answer to revoke: what was taken back now, and what follows unless it is burned."""

    revoked: int
    still_held: int
    buckets: Buckets
    applied: Applied


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant and what became of it: amount = remaining + held + burned + expired + revoked."""

    grant_id: str
    account: str
    terms: GrantTerms
    remaining: int
    held: int
    burned: int
    expired: int
    revoked: int
    issuer: str
    granted_at_ms: int
    transaction_id: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What a policy applies to; `value` is empty for the global and tenant scopes."""

    kind: ScopeKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """How enforcement treats a scope. To change one: read it, `dataclasses.replace` it, set it."""

    scope: Scope
    mode: Mode
    #: Accounts outside this share are OFF.
    evaluate_percent: int = 100
    #: Evaluated accounts outside this share are in SHADOW.
    enforce_percent: int = 100
    store_unavailable: StoreUnavailable = StoreUnavailable.DENY
    #: For StoreUnavailable.ALLOW_BOUNDED: the most per account and minute in each process.
    bound_amount: int = 0
    #: How long idempotency keys are remembered; 0 means 15 minutes.
    idempotency_window_ms: int = 0
    #: As read; 0 for a scope that has no policy yet. Setting is refused when it has moved on.
    version: int = 0
    #: When it reverts by itself; 0 means never. Set by the server.
    expires_at_ms: int = 0
    changed_by: str = ""
    reason: str = ""
    changed_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One change of a policy: as it was set, with who, why and when, and what counted before."""

    policy: Policy
    #: The version that counted at this scope until then; 0 when none did.
    version_before: int
    #: A process whose `config_version` is no less has applied it.
    config_version: int


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the fleet and what it has applied."""

    process: str
    role: str
    version: str
    started_at_ms: int
    seen_at_ms: int
    config_version: int
    killed: bool
    killed_by: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """Every process that reported within the last minute; entries that wait for the ledger."""

    processes: tuple[Process, ...]
    config_version: int
    outbox_entries: int


@dataclass(frozen=True, slots=True)
class GrantPosting:
    """How one grant changed in an entry: signed changes of its parts."""

    grant_id: str
    remaining: int
    held: int
    burned: int
    expired: int
    revoked: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One immutable row of the ledger: one state change of one account and credit type."""

    partition: int
    epoch: int
    seq: int
    transaction_id: str
    kind: EntryKind
    account: str
    credit_type: str
    version: int
    #: Signed changes of the buckets.
    delta: Buckets
    after: Buckets
    grants: tuple[GrantPosting, ...]
    hold_id: str
    actor: str
    mode: Mode
    feature: str
    labels: Mapping[str, str]
    caller: str
    trace_id: str
    idempotency_key: str
    reason: str
    event_time_ms: int
    recorded_time_ms: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class CreditBalanceAt:
    """One credit type at an instant."""

    credit_type: str
    buckets: Buckets
    version: int


@dataclass(frozen=True, slots=True)
class BalanceAt:
    """The buckets at an instant; `as_of_ms` says up to when the ledger was complete, but for what
    had ended by itself and was not booked yet."""

    credits: tuple[CreditBalanceAt, ...]
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """The entries, oldest first, behind a transaction, or behind a balance from its opening on."""

    opening: Buckets
    entries: tuple[Entry, ...]
    closing: Buckets
    grant_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Violation:
    """Something in the ledger that does not hold."""

    check: str
    partition: int
    seq: int
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of checking chain, sequence, versions and conservation."""

    ok: bool
    entries: int
    violations: tuple[Violation, ...]
