"""The closed lists of Holdfast, with the numbers they have on the wire.

Each begins with `UNSPECIFIED = 0`. In an answer it also stands for a number that this release does
not know, sent by a newer server: treat it as "something else", never as a yes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class _Kind(IntEnum):
    """Numbers this release does not know become the member with number 0."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        return cls(0)


class Outcome(_Kind):
    """What was decided."""

    UNSPECIFIED = 0
    #: Granted, or done, as asked.
    GRANTED = 1
    #: Less than asked was held, because a `minimum` allowed it.
    GRANTED_PARTIAL = 2
    #: Granted only because of shadow mode; the decision's reason says why enforcement would deny.
    GRANTED_SHADOW = 3
    #: Not evaluated: enforcement is off, the kill switch is on, or nobody could be reached.
    BYPASSED = 4
    #: Denied. Do not do the work.
    DENIED = 5


class Overage(_Kind):
    """What a commit does with an actual amount above the hold. Unspecified charges."""

    UNSPECIFIED = 0
    #: Takes the excess from what is available, then books it as debt.
    CHARGE = 1
    #: Takes the excess from what is available; the rest is booked, and never owed.
    CAP = 2
    #: Refuses an actual amount above the hold and changes nothing.
    REJECT = 3


class Durability(_Kind):
    """What must have happened before an answer is sent: each promises more than the one before.

    Unspecified is the method's default: the ledger for grant and revoke; for commit replicated
    where a replica follows the hot store; memory for all others. A level that the deployment cannot
    give is refused before anything is decided. The answer's `applied.durability` says what was
    reached; `await_durable` waits on.
    """

    UNSPECIFIED = 0
    #: Applied in the hot store.
    MEMORY = 1
    #: On the hot store's disk as well.
    FSYNCED = 2
    #: Received by replicas of the hot store.
    REPLICATED = 3
    #: Committed in the ledger.
    LEDGER = 4


class Mode(_Kind):
    """How enforcement treats a request."""

    UNSPECIFIED = 0
    #: Not evaluated, nothing booked.
    OFF = 1
    #: Evaluated and booked, never denied.
    SHADOW = 2
    #: Evaluated, booked and enforced.
    ENFORCE = 3


class HoldState(_Kind):
    """Where a hold is in its life."""

    UNSPECIFIED = 0
    OPEN = 1
    COMMITTED = 2
    RELEASED = 3
    EXPIRED = 4


class WarningKind(_Kind):
    """What is being warned about."""

    UNSPECIFIED = 0
    #: A limit's use crossed one of its thresholds.
    LIMIT_THRESHOLD = 1
    #: The credits of an account crossed a threshold of what was granted.
    BALANCE_THRESHOLD = 2
    #: A soft limit is exceeded.
    SOFT_LIMIT_EXCEEDED = 3


class AccountStatus(_Kind):
    """What an account may do."""

    UNSPECIFIED = 0
    ACTIVE = 1
    #: Reserve and burn are denied, here and below.
    FROZEN = 2
    #: Reserve, burn and grant are denied, here and below.
    CLOSED = 3


class LimitUnit(_Kind):
    """What a limit counts."""

    UNSPECIFIED = 0
    #: Holds and burns, each counting one.
    REQUESTS = 1
    #: Amounts of the limit's credit type.
    AMOUNT = 2


class LimitWindow(_Kind):
    """Over which time a limit counts."""

    UNSPECIFIED = 0
    CALENDAR_DAY = 1
    CALENDAR_MONTH = 2
    #: The last `window_ms`.
    SLIDING = 3
    #: A bucket that refills evenly over `window_ms`.
    BURST = 4


class LimitEnforcement(_Kind):
    """What happens when a limit is used up."""

    UNSPECIFIED = 0
    #: Denies.
    HARD = 1
    #: Warns.
    SOFT = 2


class GrantSource(_Kind):
    """Where a grant comes from."""

    UNSPECIFIED = 0
    PURCHASE = 1
    PROMOTION = 2
    PLAN = 3
    SUPPORT = 4
    MIGRATION = 5
    REFUND = 6
    ROLLOVER = 7


class ScopeKind(_Kind):
    """How specific a policy's scope is."""

    UNSPECIFIED = 0
    GLOBAL = 1
    TENANT = 2
    CREDIT_TYPE = 3
    FEATURE = 4
    ACCOUNT = 5


class StoreUnavailable(_Kind):
    """What happens to reserve and burn while the server's hot store is away. Unspecified denies."""

    UNSPECIFIED = 0
    #: An error: no decision is made.
    DENY = 1
    #: Let through up to a bound per account and minute, and booked later.
    ALLOW_BOUNDED = 2
    #: Let through, and booked later.
    ALLOW = 3


class EntryKind(_Kind):
    """What kind of state change a ledger entry is."""

    UNSPECIFIED = 0
    ACCOUNT = 1
    GRANT = 2
    HOLD = 3
    COMMIT = 4
    RELEASE = 5
    HOLD_EXPIRED = 6
    EXTEND = 7
    BURN = 8
    OVERAGE = 9
    LATE_COMMIT = 10
    REFUND = 11
    GRANT_EXPIRED = 12
    REVOKE = 13
    GRANT_EFFECTIVE = 14
    UNENFORCED = 15
    RECOVERED_COMMIT = 16
