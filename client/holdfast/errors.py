"""The exceptions of the client.

    Denied                      an answer: do not do the work
    HoldfastError               no decision was made, or none is known
    ├── InvalidRequest          the request breaks a rule; fix it
    ├── Unauthenticated         the token is missing, wrong or expired
    ├── PermissionDenied        the token lacks the role, or serves another tenant
    ├── NotFound                no such account, hold, grant, credit type, transaction or policy
    ├── AlreadyExists           it exists with other content, or the key was used for other content
    ├── FailedPrecondition      the hold is settled, the account is closed, …
    ├── Conflict                it changed since the version you named; read it again
    ├── ResourceExhausted       too much at once; wait `retry_after_ms`
    ├── Unavailable             the service cannot decide at the moment
    │   └── Unreachable         no decision could be got from any server in time
    └── InternalError           Holdfast is at fault

`Denied` is not a `HoldfastError` on purpose: code that lets work pass when Holdfast fails must not
let it pass when Holdfast says no.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import grpc

from holdfast.results import Decision, Shortfall

#: After these a request may have been applied although it failed.
_UNKNOWN_RESULT_REASONS = frozenset({"RESULT_UNKNOWN", "DEADLINE_EXCEEDED"})
#: A server that says this decides nothing any more; another one may.
_GOING_AWAY_REASONS = frozenset({"SHUTTING_DOWN"})


class Denied(Exception):
    """The work must not be done. `decision` says why, and what would help."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(
            f"{decision.reason}: {decision.message}" if decision.message else decision.reason
        )
        self.decision = decision

    def __reduce__(self) -> tuple[type[Self], tuple[Decision]]:
        """Copied and pickled by its decision, of which the message is made."""
        return type(self), (self.decision,)

    @property
    def reason(self) -> str:
        """The reason's name, such as "INSUFFICIENT_CREDITS" or "LIMIT_EXCEEDED"."""
        return self.decision.reason

    @property
    def shortfalls(self) -> tuple[Shortfall, ...]:
        """What is missing, per credit type, for "INSUFFICIENT_CREDITS"."""
        return self.decision.shortfalls

    @property
    def retry_after_ms(self) -> int:
        """When the same request could fit, for "LIMIT_EXCEEDED"; 0 when waiting does not help."""
        return self.decision.retry_after_ms


class HoldfastError(Exception):
    """No decision was made, or, where `result_unknown`, none is known.

    `reason` is a name of the list in `holdfast/v1/reason.proto`, or empty when no server answered;
    `metadata` holds what that list says. Where `result_unknown`, the request may have been applied:
    send it again with the same idempotency key, which is always safe.
    """

    #: The gRPC status code of this class.
    code: ClassVar[int] = grpc.StatusCode.UNKNOWN.value[0]

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int | None = None,
        result_unknown: bool | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}" if reason else message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        #: How long to wait before the next attempt, where the server said so.
        self.retry_after_ms = retry_after_ms
        if result_unknown is None:
            result_unknown = not reason or reason in _UNKNOWN_RESULT_REASONS
        self.result_unknown = result_unknown


class InvalidRequest(HoldfastError):
    """The request breaks a rule; `metadata["field"]` names the field."""

    code = grpc.StatusCode.INVALID_ARGUMENT.value[0]


class Unauthenticated(HoldfastError):
    """The token is missing, unknown, badly signed or expired."""

    code = grpc.StatusCode.UNAUTHENTICATED.value[0]


class PermissionDenied(HoldfastError):
    """The token lacks the role for this method, or serves another tenant."""

    code = grpc.StatusCode.PERMISSION_DENIED.value[0]


class NotFound(HoldfastError):
    """There is no such account, hold, grant, credit type, transaction or policy."""

    code = grpc.StatusCode.NOT_FOUND.value[0]


class AlreadyExists(HoldfastError):
    """It exists with other content, or the idempotency key was used for other content."""

    code = grpc.StatusCode.ALREADY_EXISTS.value[0]


class FailedPrecondition(HoldfastError):
    """The state does not allow it: the hold is settled or expired, the account is closed, …"""

    code = grpc.StatusCode.FAILED_PRECONDITION.value[0]


class Conflict(HoldfastError):
    """It changed since the version you named; read it again."""

    code = grpc.StatusCode.ABORTED.value[0]


class ResourceExhausted(HoldfastError):
    """The server has more to do than it may hold, or the tenant sends more than its allowance."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


class Unavailable(HoldfastError):
    """The service cannot decide at the moment; `reason` says what is away."""

    code = grpc.StatusCode.UNAVAILABLE.value[0]


class Unreachable(Unavailable):
    """No decision could be got from any server in time."""


class InternalError(HoldfastError):
    """Holdfast is at fault; `metadata["reference"]` finds the cause in the server's log."""

    code = grpc.StatusCode.INTERNAL.value[0]


_CLASSES: Mapping[int, type[HoldfastError]] = {
    one.code: one
    for one in (
        InvalidRequest,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Conflict,
        ResourceExhausted,
        Unavailable,
    )
}


def from_status(
    code: int,
    message: str,
    *,
    reason: str = "",
    metadata: Mapping[str, str] | None = None,
    retry_after_ms: int | None = None,
) -> HoldfastError:
    """The exception for a gRPC status code and what the server said beside it."""
    error = _class_of(code, reason)
    return error(message, reason=reason, metadata=metadata, retry_after_ms=retry_after_ms)


def _class_of(code: int, reason: str) -> type[HoldfastError]:
    if code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]:
        return Unreachable
    if code == Unavailable.code and (not reason or reason in _GOING_AWAY_REASONS):
        # Without a reason it comes from the transport: no server has answered.
        return Unreachable
    return _CLASSES.get(code, InternalError)
