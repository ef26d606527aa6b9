"""Decisions, with one sentence that says what is wrong and what would help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from holdfast.v1 import reason_pb2 as reasons
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.translate.common import limit_use
from holdfast_server.domain import reply
from holdfast_server.errors import Reason

_SENTENCES: Final[Mapping[Reason, str]] = {
    Reason.ACCOUNT_FROZEN: (
        "The account or one above it is frozen; an administrator can make it active."
    ),
    Reason.ACCOUNT_CLOSED: "The account or one above it is closed; use another account.",
    Reason.OVERAGE_REJECTED: (
        "The actual amount is above the hold, which is as it was; commit at most the hold."
    ),
}


def put_decision(into: types.Decision, value: reply.Decision) -> None:
    """Outcome and mode; where there is a reason, also why, and what would help."""
    into.outcome = types.Outcome.ValueType(value.outcome)
    into.mode = types.Mode.ValueType(value.mode)
    if not value.reason:
        return
    into.reason = reasons.Reason.ValueType(value.reason)
    into.message = explanation(value)
    into.retry_after_ms = value.retry_after_ms
    for missing in value.shortfalls:
        into.shortfalls.add(
            credit_type=missing.credit_type,
            available=missing.available,
            shortfall=missing.shortfall,
        )
    if value.limit is not None:
        into.limit.CopyFrom(limit_use(value.limit))


def explanation(value: reply.Decision) -> str:
    """What is wrong, and what would help."""
    if value.reason is Reason.INSUFFICIENT_CREDITS:
        return _missing(value)
    if value.reason is Reason.LIMIT_EXCEEDED:
        return _limited(value)
    return _SENTENCES[value.reason]


def _missing(value: reply.Decision) -> str:
    parts = [
        f"{missing.shortfall} {missing.credit_type} more ({missing.available} available)"
        for missing in value.shortfalls
    ]
    if not parts:
        return "The credits do not suffice; grant more or ask for less."
    return f"The request needs {', '.join(parts)}; grant more or ask for less."


def _limited(value: reply.Decision) -> str:
    if value.limit is None:
        return "A limit has no room for the request."
    figures = f"{value.limit.used} of {value.limit.maximum} used"
    use = f"Limit {value.limit.limit_id} of account {value.limit.account} has {figures}"
    if value.retry_after_ms > 0:
        return f"{use}; the request could fit in {value.retry_after_ms} ms."
    return f"{use}; the request does not fit, raise the limit or ask for less."
