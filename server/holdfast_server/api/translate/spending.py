"""The hot path's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import reason_pb2 as reasons
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.translate.common import (
    applied,
    buckets,
    grant_shares,
    held_lines,
    limit_use,
    settled_lines,
    timestamp,
    warnings,
)
from holdfast_server.api.translate.decisions import decision
from holdfast_server.domain import reply
from holdfast_server.errors import HoldfastError


def reserve(value: reply.ReserveReply) -> balance.ReserveResponse:
    """The answer to Reserve."""
    return balance.ReserveResponse(
        decision=decision(value.decision),
        hold_id=value.hold,
        lines=held_lines(value.lines),
        expires_at=timestamp(value.expires_at_ms),
        warnings=warnings(value.warnings),
        applied=applied(value.applied),
    )


def commit(value: reply.CommitReply) -> balance.CommitResponse:
    """The receipt of a Commit."""
    return balance.CommitResponse(
        decision=decision(value.decision),
        lines=settled_lines(value.lines),
        late=value.late,
        state=types.HoldState.ValueType(value.state),
        expires_at=timestamp(value.expires_at_ms),
        warnings=warnings(value.warnings),
        applied=applied(value.applied),
    )


def release(value: reply.ReleaseReply) -> balance.ReleaseResponse:
    """What a Release gave back."""
    return balance.ReleaseResponse(
        decision=decision(value.decision),
        lines=settled_lines(value.lines),
        applied=applied(value.applied),
    )


def extend(value: reply.ExtendReply) -> balance.ExtendResponse:
    """When the hold expires now."""
    return balance.ExtendResponse(
        decision=decision(value.decision),
        expires_at=timestamp(value.expires_at_ms),
        applied=applied(value.applied),
    )


def burn(value: reply.BurnReply) -> balance.BurnResponse:
    """The receipt of a Burn."""
    return balance.BurnResponse(
        decision=decision(value.decision),
        lines=settled_lines(value.lines),
        warnings=warnings(value.warnings),
        applied=applied(value.applied),
    )


def refund(value: reply.RefundReply) -> balance.RefundResponse:
    """What was given back."""
    lines = [
        balance.RefundedLine(
            credit_type=line.credit_type,
            refunded=line.refunded,
            debt=line.debt,
            unenforced=line.unenforced,
            grants=grant_shares(line.grants),
            available_after=line.available_after,
        )
        for line in value.lines
    ]
    return balance.RefundResponse(lines=lines, applied=applied(value.applied))


def balance_of(value: reply.BalanceReply) -> balance.BalanceResponse:
    """What an account has, holds and has used."""
    return balance.BalanceResponse(
        account=value.account,
        credits=[_credit(credit) for credit in value.credits],
        limits=[limit_use(limit) for limit in value.limits],
        open_holds=value.open_holds,
        as_of=timestamp(value.as_of_ms),
        stale=value.stale,
    )


def hold(value: reply.OpenHold) -> types.Hold:
    """A hold as it stands."""
    return types.Hold(
        hold_id=value.hold,
        account=value.account,
        lines=held_lines(value.lines),
        feature=value.feature,
        placed_at=timestamp(value.placed_at_ms),
        expires_at=timestamp(value.expires_at_ms),
        mode=types.Mode.ValueType(value.mode),
    )


def batch_result(value: reply.Reply | HoldfastError) -> balance.BatchResult:
    """One item's answer, of the item's own kind."""
    if isinstance(value, HoldfastError):
        return balance.BatchResult(error=item_error(value))
    return _RESULTS[type(value)](value)


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


#: How each kind of reply is said in a batch.
_RESULTS: Final[Mapping[type[reply.Reply], Callable[[Any], balance.BatchResult]]] = {
    reply.ReserveReply: lambda value: balance.BatchResult(reserve=reserve(value)),
    reply.CommitReply: lambda value: balance.BatchResult(commit=commit(value)),
    reply.ReleaseReply: lambda value: balance.BatchResult(release=release(value)),
    reply.ExtendReply: lambda value: balance.BatchResult(extend=extend(value)),
    reply.BurnReply: lambda value: balance.BatchResult(burn=burn(value)),
    reply.RefundReply: lambda value: balance.BatchResult(refund=refund(value)),
    reply.BalanceReply: lambda value: balance.BatchResult(balance=balance_of(value)),
}
