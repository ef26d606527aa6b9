"""The hot path's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import reason_pb2 as reasons
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.translate.common import (
    buckets,
    limit_use,
    put_applied,
    put_grant_shares,
    put_held_lines,
    put_instant,
    put_settled_lines,
    timestamp,
    warnings,
)
from holdfast_server.api.translate.decisions import put_decision
from holdfast_server.domain import reply
from holdfast_server.errors import HoldfastError


def put_reserve(into: balance.ReserveResponse, value: reply.ReserveReply) -> None:
    """The answer to Reserve."""
    put_decision(into.decision, value.decision)
    into.hold_id = value.hold
    put_held_lines(into.lines, value.lines)
    put_instant(into.expires_at, value.expires_at_ms)
    put_applied(into.applied, value.applied)
    if value.warnings:
        into.warnings.extend(warnings(value.warnings))


def put_commit(into: balance.CommitResponse, value: reply.CommitReply) -> None:
    """The receipt of a Commit."""
    put_decision(into.decision, value.decision)
    put_settled_lines(into.lines, value.lines)
    into.late = value.late
    into.state = types.HoldState.ValueType(value.state)
    put_instant(into.expires_at, value.expires_at_ms)
    put_applied(into.applied, value.applied)
    if value.warnings:
        into.warnings.extend(warnings(value.warnings))


def put_release(into: balance.ReleaseResponse, value: reply.ReleaseReply) -> None:
    """What a Release gave back."""
    put_decision(into.decision, value.decision)
    put_settled_lines(into.lines, value.lines)
    put_applied(into.applied, value.applied)


def put_extend(into: balance.ExtendResponse, value: reply.ExtendReply) -> None:
    """When the hold expires now."""
    put_decision(into.decision, value.decision)
    put_instant(into.expires_at, value.expires_at_ms)
    put_applied(into.applied, value.applied)


def put_burn(into: balance.BurnResponse, value: reply.BurnReply) -> None:
    """The receipt of a Burn."""
    put_decision(into.decision, value.decision)
    put_settled_lines(into.lines, value.lines)
    put_applied(into.applied, value.applied)
    if value.warnings:
        into.warnings.extend(warnings(value.warnings))


def put_refund(into: balance.RefundResponse, value: reply.RefundReply) -> None:
    """What was given back."""
    for line in value.lines:
        row = into.lines.add(
            credit_type=line.credit_type,
            refunded=line.refunded,
            debt=line.debt,
            unenforced=line.unenforced,
            available_after=line.available_after,
        )
        put_grant_shares(row.grants, line.grants)
    put_applied(into.applied, value.applied)


def put_balance(into: balance.BalanceResponse, value: reply.BalanceReply) -> None:
    """What an account has, holds and has used."""
    into.account = value.account
    into.credits.extend(map(_credit, value.credits))
    into.limits.extend(map(limit_use, value.limits))
    into.open_holds = value.open_holds
    put_instant(into.as_of, value.as_of_ms)
    into.stale = value.stale


def hold(value: reply.OpenHold) -> types.Hold:
    """A hold as it stands."""
    said = types.Hold(
        hold_id=value.hold,
        account=value.account,
        feature=value.feature,
        placed_at=timestamp(value.placed_at_ms),
        expires_at=timestamp(value.expires_at_ms),
        mode=types.Mode.ValueType(value.mode),
    )
    put_held_lines(said.lines, value.lines)
    return said


def put_reply(into: Any, value: reply.Reply) -> None:
    """An answer, into the message of its kind."""
    _, put = _RESULTS[type(value)]
    put(into, value)


def put_result(into: balance.BatchResult, value: reply.Reply | HoldfastError) -> None:
    """One item's answer, of the item's own kind."""
    if isinstance(value, HoldfastError):
        into.error.CopyFrom(item_error(value))
    else:
        field, put = _RESULTS[type(value)]
        put(getattr(into, field), value)


def item_error(error: HoldfastError) -> balance.ItemError:
    """An error in place of an item's answer: what a single call would have got as a status."""
    return balance.ItemError(
        code=error.status.value,
        reason=reasons.Reason.ValueType(error.reason),
        message=error.message,
        metadata=error.metadata,
    )


def _credit(credit: reply.CreditBalance) -> balance.CreditBalance:
    return balance.CreditBalance(
        credit_type=credit.credit_type,
        buckets=buckets(credit.buckets),
        spendable=credit.spendable,
        grants=[
            balance.GrantBalance(
                grant_id=grant.grant_id,
                remaining=grant.remaining,
                held=grant.held,
                priority=grant.priority,
                effective_at=timestamp(grant.effective_at_ms),
                expires_at=timestamp(grant.expires_at_ms),
            )
            for grant in credit.grants
        ],
        version=credit.version,
    )


#: How each kind of reply is said in a batch: the field of the result, and what fills it.
_RESULTS: Final[Mapping[type[reply.Reply], tuple[str, Callable[[Any, Any], None]]]] = {
    reply.ReserveReply: ("reserve", put_reserve),
    reply.CommitReply: ("commit", put_commit),
    reply.ReleaseReply: ("release", put_release),
    reply.ExtendReply: ("extend", put_extend),
    reply.BurnReply: ("burn", put_burn),
    reply.RefundReply: ("refund", put_refund),
    reply.BalanceReply: ("balance", put_balance),
}
