"""Every way in which Holdfast refuses or fails: one closed list of reasons, one exception.

The list, its numbers and its order of precedence are those of `holdfast/v1/reason.proto`, which
documents each reason and its metadata; a test compares the two. Denials (ACCOUNT_FROZEN,
LIMIT_EXCEEDED, INSUFFICIENT_CREDITS, OVERAGE_REJECTED, ACCOUNT_CLOSED) are answers and travel in a
`Decision`; all other reasons travel in a `HoldfastError`, whose status the table below fixes.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from enum import Enum, IntEnum

#: Random bytes of the reference that joins an INTERNAL answer to its log line.
_REFERENCE_BYTES = 8

#: The domain of every `google.rpc.ErrorInfo` that Holdfast sends.
ERROR_DOMAIN = "holdfast"


class Reason(IntEnum):
    """Why a request was refused or could not be decided, in order of precedence."""

    UNSPECIFIED = 0
    TOKEN_MISSING = 1
    TOKEN_INVALID = 2
    TOKEN_EXPIRED = 3
    TOKEN_NOT_YET_VALID = 4
    TOKEN_AUDIENCE = 5
    TOKEN_ISSUER = 6
    ROLE_REQUIRED = 7
    RATE_LIMITED = 8
    OVERLOADED = 9
    MALFORMED_REQUEST = 20
    TENANT_MISMATCH = 21
    BATCH_EMPTY = 22
    BATCH_TOO_LARGE = 23
    BATCH_DUPLICATE = 24
    BATCH_MIXED_SCOPE = 25
    ID_INVALID = 26
    ENUM_UNKNOWN = 27
    IDEMPOTENCY_KEY_REQUIRED = 28
    IDEMPOTENCY_KEY_INVALID = 29
    AMOUNT_NOT_POSITIVE = 30
    AMOUNT_TOO_LARGE = 31
    AMOUNT_MALFORMED = 32
    LINES_INVALID = 33
    TTL_OUT_OF_RANGE = 34
    METADATA_LIMIT = 35
    FIELD_INVALID = 36
    PAGE_TOKEN_INVALID = 37
    ROLLOUT_OUT_OF_RANGE = 38
    SHUTTING_DOWN = 50
    STORE_UNAVAILABLE = 51
    STORE_WRITE_BLOCKED = 52
    STORE_OUT_OF_MEMORY = 53
    RESULT_UNKNOWN = 54
    LEDGER_UNAVAILABLE = 55
    LEDGER_BACKLOG = 56
    FENCED = 57
    DEADLINE_EXCEEDED = 58
    DURABILITY_UNAVAILABLE = 59
    IDEMPOTENCY_KEY_REUSED = 70
    IDEMPOTENCY_KEY_EXPIRED = 71
    CREDIT_TYPE_NOT_FOUND = 72
    ACCOUNT_NOT_FOUND = 73
    HOLD_NOT_FOUND = 74
    GRANT_NOT_FOUND = 75
    TRANSACTION_NOT_FOUND = 76
    POLICY_NOT_FOUND = 77
    ACCOUNT_ALREADY_EXISTS = 78
    CREDIT_TYPE_ALREADY_EXISTS = 79
    ACCOUNT_TREE_INVALID = 80
    HOLD_ALREADY_COMMITTED = 81
    HOLD_ALREADY_SETTLED = 82
    HOLD_EXPIRED = 83
    HOLD_MAXIMUM_AGE = 84
    LINE_UNKNOWN = 85
    REFUND_EXCEEDS_BURNED = 86
    BALANCE_LIMIT_EXCEEDED = 87
    ACCOUNT_FULL = 88
    VERSION_CONFLICT = 89
    CONFIG_VERSION_CONFLICT = 90
    ACCOUNT_CLOSED = 110
    ACCOUNT_FROZEN = 111
    LIMIT_EXCEEDED = 112
    INSUFFICIENT_CREDITS = 113
    OVERAGE_REJECTED = 114
    INTERNAL = 130


class Status(Enum):
    """The gRPC status codes that Holdfast uses, by their gRPC number."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


#: The status of each reason that can be an error.
STATUS_OF_REASON: Mapping[Reason, Status] = {
    Reason.TOKEN_MISSING: Status.UNAUTHENTICATED,
    Reason.TOKEN_INVALID: Status.UNAUTHENTICATED,
    Reason.TOKEN_EXPIRED: Status.UNAUTHENTICATED,
    Reason.TOKEN_NOT_YET_VALID: Status.UNAUTHENTICATED,
    Reason.TOKEN_AUDIENCE: Status.UNAUTHENTICATED,
    Reason.TOKEN_ISSUER: Status.UNAUTHENTICATED,
    Reason.ROLE_REQUIRED: Status.PERMISSION_DENIED,
    Reason.RATE_LIMITED: Status.RESOURCE_EXHAUSTED,
    Reason.OVERLOADED: Status.RESOURCE_EXHAUSTED,
    Reason.MALFORMED_REQUEST: Status.INVALID_ARGUMENT,
    Reason.TENANT_MISMATCH: Status.PERMISSION_DENIED,
    Reason.BATCH_EMPTY: Status.INVALID_ARGUMENT,
    Reason.BATCH_TOO_LARGE: Status.INVALID_ARGUMENT,
    Reason.BATCH_DUPLICATE: Status.INVALID_ARGUMENT,
    Reason.BATCH_MIXED_SCOPE: Status.INVALID_ARGUMENT,
    Reason.ID_INVALID: Status.INVALID_ARGUMENT,
    Reason.ENUM_UNKNOWN: Status.INVALID_ARGUMENT,
    Reason.IDEMPOTENCY_KEY_REQUIRED: Status.INVALID_ARGUMENT,
    Reason.IDEMPOTENCY_KEY_INVALID: Status.INVALID_ARGUMENT,
    Reason.AMOUNT_NOT_POSITIVE: Status.INVALID_ARGUMENT,
    Reason.AMOUNT_TOO_LARGE: Status.INVALID_ARGUMENT,
    Reason.AMOUNT_MALFORMED: Status.INVALID_ARGUMENT,
    Reason.LINES_INVALID: Status.INVALID_ARGUMENT,
    Reason.TTL_OUT_OF_RANGE: Status.INVALID_ARGUMENT,
    Reason.METADATA_LIMIT: Status.INVALID_ARGUMENT,
    Reason.FIELD_INVALID: Status.INVALID_ARGUMENT,
    Reason.PAGE_TOKEN_INVALID: Status.INVALID_ARGUMENT,
    Reason.ROLLOUT_OUT_OF_RANGE: Status.INVALID_ARGUMENT,
    Reason.SHUTTING_DOWN: Status.UNAVAILABLE,
    Reason.STORE_UNAVAILABLE: Status.UNAVAILABLE,
    Reason.STORE_WRITE_BLOCKED: Status.UNAVAILABLE,
    Reason.STORE_OUT_OF_MEMORY: Status.UNAVAILABLE,
    Reason.RESULT_UNKNOWN: Status.UNAVAILABLE,
    Reason.LEDGER_UNAVAILABLE: Status.UNAVAILABLE,
    Reason.LEDGER_BACKLOG: Status.UNAVAILABLE,
    Reason.FENCED: Status.UNAVAILABLE,
    Reason.DEADLINE_EXCEEDED: Status.DEADLINE_EXCEEDED,
    Reason.DURABILITY_UNAVAILABLE: Status.FAILED_PRECONDITION,
    Reason.IDEMPOTENCY_KEY_REUSED: Status.ALREADY_EXISTS,
    Reason.IDEMPOTENCY_KEY_EXPIRED: Status.FAILED_PRECONDITION,
    Reason.CREDIT_TYPE_NOT_FOUND: Status.NOT_FOUND,
    Reason.ACCOUNT_NOT_FOUND: Status.NOT_FOUND,
    Reason.HOLD_NOT_FOUND: Status.NOT_FOUND,
    Reason.GRANT_NOT_FOUND: Status.NOT_FOUND,
    Reason.TRANSACTION_NOT_FOUND: Status.NOT_FOUND,
    Reason.POLICY_NOT_FOUND: Status.NOT_FOUND,
    Reason.ACCOUNT_ALREADY_EXISTS: Status.ALREADY_EXISTS,
    Reason.CREDIT_TYPE_ALREADY_EXISTS: Status.ALREADY_EXISTS,
    Reason.ACCOUNT_TREE_INVALID: Status.FAILED_PRECONDITION,
    Reason.HOLD_ALREADY_COMMITTED: Status.FAILED_PRECONDITION,
    Reason.HOLD_ALREADY_SETTLED: Status.FAILED_PRECONDITION,
    Reason.HOLD_EXPIRED: Status.FAILED_PRECONDITION,
    Reason.HOLD_MAXIMUM_AGE: Status.FAILED_PRECONDITION,
    Reason.LINE_UNKNOWN: Status.INVALID_ARGUMENT,
    Reason.REFUND_EXCEEDS_BURNED: Status.FAILED_PRECONDITION,
    Reason.BALANCE_LIMIT_EXCEEDED: Status.FAILED_PRECONDITION,
    Reason.ACCOUNT_FULL: Status.FAILED_PRECONDITION,
    Reason.VERSION_CONFLICT: Status.ABORTED,
    Reason.CONFIG_VERSION_CONFLICT: Status.ABORTED,
    Reason.ACCOUNT_CLOSED: Status.FAILED_PRECONDITION,
    Reason.INTERNAL: Status.INTERNAL,
}

#: After these the request may have been applied; retrying with the same key is the only safe step.
UNKNOWN_RESULT_REASONS = frozenset({Reason.RESULT_UNKNOWN, Reason.DEADLINE_EXCEEDED})

#: These pass by themselves, so whoever is refused is told when to come back: by who refuses, or
#: after the usual time, in which a store that was away for a moment may be back.
PASSING_REASONS = frozenset(
    {
        Reason.RATE_LIMITED,
        Reason.OVERLOADED,
        Reason.SHUTTING_DOWN,
        Reason.STORE_UNAVAILABLE,
        Reason.STORE_WRITE_BLOCKED,
        Reason.STORE_OUT_OF_MEMORY,
        Reason.LEDGER_UNAVAILABLE,
        Reason.LEDGER_BACKLOG,
        Reason.FENCED,
    }
)
#: That usual time.
RETRY_AFTER_MS = 500


class HoldfastError(Exception):
    """No decision was made (or, for `UNKNOWN_RESULT_REASONS`, none is known).

    `message` is one sentence for the caller that says what to do; `metadata` holds every variable
    part of it, as the reason's comment in the proto lists. Neither ever contains a driver's text.
    """

    def __init__(self, reason: Reason, message: str, **metadata: object) -> None:
        super().__init__(f"{reason.name}: {message}")
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = {name: str(value) for name, value in metadata.items()}
        if reason in PASSING_REASONS:
            self.metadata.setdefault("retry_after_ms", str(RETRY_AFTER_MS))

    @property
    def status(self) -> Status:
        """The gRPC status that this error has on the wire."""
        return STATUS_OF_REASON[self.reason]


def new_reference() -> str:
    """What an INTERNAL answer is found by in the log; whoever answers so MUST log it."""
    return secrets.token_hex(_REFERENCE_BYTES)
