"""The operations of the hot path, as values: what `Client.batch` takes.

Each function says what is to be done and makes its idempotency key, so an operation that is sent
again carries the same key and is applied once. The clients' methods of the same names send one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from google.protobuf.message import Message

from holdfast import results
from holdfast._calls import BALANCE, Amounts, Bypass, Defaults, M, Operation, T, decoder, lines_of
from holdfast._keys import new_key
from holdfast._wire import (
    milliseconds,
    read_applied,
    read_buckets,
    read_decision,
    read_held,
    read_hold_state,
    read_limit_use,
    read_settled,
    read_shares,
    read_warnings,
)
from holdfast.kinds import Durability, Outcome, Overage
from holdfast.v1 import balance_service_pb2 as pb
from holdfast.v1 import types_pb2

__all__ = [
    "TTL_MS_DEFAULT",
    "Operation",
    "balance",
    "burn",
    "commit",
    "extend",
    "refund",
    "release",
    "reserve",
]

#: How long a hold lives when nobody says: longer than most requests, short enough to free what a
#: crashed caller left behind.
TTL_MS_DEFAULT = 60_000

_BYPASSED = results.Decision(Outcome.BYPASSED, message="no server could be reached")


def reserve(
    account: str,
    amount: Amounts,
    *,
    credit_type: str | None = None,
    minimum: Amounts | None = None,
    feature: str = "",
    ttl_ms: int = TTL_MS_DEFAULT,
    labels: Mapping[str, str] | None = None,
    key: str | None = None,
    durability: Durability = Durability.UNSPECIFIED,
) -> Operation[results.ReserveResult]:
    """Sets credits aside. With `minimum`, less than `amount` will do, but at least that much."""
    key = key or new_key()

    def build(defaults: Defaults) -> pb.ReserveRequest:
        return pb.ReserveRequest(
            tenant=defaults.tenant,
            account=account,
            lines=_lines(amount, minimum, credit_type, defaults),
            feature=feature,
            ttl_ms=ttl_ms,
            labels=labels,
            idempotency_key=key,
            fit=_fit(minimum),
            durability=_durability(durability),
        )

    bypass = Bypass(results.ReserveResult(_BYPASSED))
    return _operation("Reserve", build, pb.ReserveResponse, _read_reserve, bypass)


def commit(
    hold_id: str,
    amount: Amounts | None = None,
    *,
    credit_type: str | None = None,
    final: bool = True,
    ttl_ms: int = 0,
    overage: Overage = Overage.UNSPECIFIED,
    labels: Mapping[str, str] | None = None,
    key: str | None = None,
    durability: Durability = Durability.UNSPECIFIED,
) -> Operation[results.CommitResult]:
    """Burns what was used of a hold; None means what is held. Not `final`: the rest stays held."""
    key = key or new_key()

    def build(defaults: Defaults) -> pb.CommitRequest:
        amounts = {} if amount is None else lines_of(amount, credit_type, defaults)
        return pb.CommitRequest(
            tenant=defaults.tenant,
            hold_id=hold_id,
            lines=[pb.CommitLine(credit_type=name, amount=used) for name, used in amounts.items()],
            final=final,
            ttl_ms=ttl_ms,
            overage=types_pb2.Overage.ValueType(overage),
            labels=labels,
            idempotency_key=key,
            durability=_durability(durability),
        )

    bypass = _without_hold(hold_id, results.CommitResult(_BYPASSED), unbooked=True)
    return _operation("Commit", build, pb.CommitResponse, _read_commit, bypass)


def release(
    hold_id: str,
    *,
    reason: str = "",
    key: str | None = None,
    durability: Durability = Durability.UNSPECIFIED,
) -> Operation[results.ReleaseResult]:
    """Gives all of a hold back."""
    key = key or new_key()

    def build(defaults: Defaults) -> pb.ReleaseRequest:
        return pb.ReleaseRequest(
            tenant=defaults.tenant,
            hold_id=hold_id,
            reason=reason,
            idempotency_key=key,
            durability=_durability(durability),
        )

    bypass = _without_hold(hold_id, results.ReleaseResult(_BYPASSED))
    return _operation("Release", build, pb.ReleaseResponse, _read_release, bypass)


def extend(hold_id: str, ttl_ms: int, *, key: str | None = None) -> Operation[results.ExtendResult]:
    """Gives a hold more time, measured from now."""
    key = key or new_key()

    def build(defaults: Defaults) -> pb.ExtendRequest:
        return pb.ExtendRequest(
            tenant=defaults.tenant, hold_id=hold_id, ttl_ms=ttl_ms, idempotency_key=key
        )

    bypass = _without_hold(hold_id, results.ExtendResult(_BYPASSED))
    return _operation("Extend", build, pb.ExtendResponse, _read_extend, bypass)


def burn(
    account: str,
    amount: Amounts,
    *,
    credit_type: str | None = None,
    minimum: Amounts | None = None,
    feature: str = "",
    labels: Mapping[str, str] | None = None,
    key: str | None = None,
    durability: Durability = Durability.UNSPECIFIED,
) -> Operation[results.BurnResult]:
    """Reserves and commits in one step."""
    key = key or new_key()

    def build(defaults: Defaults) -> pb.BurnRequest:
        return pb.BurnRequest(
            tenant=defaults.tenant,
            account=account,
            lines=_lines(amount, minimum, credit_type, defaults),
            feature=feature,
            labels=labels,
            idempotency_key=key,
            fit=_fit(minimum),
            durability=_durability(durability),
        )

    bypass = Bypass(results.BurnResult(_BYPASSED), unbooked=True)
    return _operation("Burn", build, pb.BurnResponse, _read_burn, bypass)


def refund(
    transaction_id: str,
    amount: Amounts | None = None,
    *,
    credit_type: str | None = None,
    reason_code: str = "",
    goodwill_ttl_ms: int = 0,
    key: str | None = None,
    durability: Durability = Durability.UNSPECIFIED,
) -> Operation[results.RefundResult]:
    """Gives burned credits back; None means all that is left to refund."""
    key = key or new_key()

    def build(defaults: Defaults) -> pb.RefundRequest:
        amounts = {} if amount is None else lines_of(amount, credit_type, defaults)
        return pb.RefundRequest(
            tenant=defaults.tenant,
            transaction_id=transaction_id,
            lines=[pb.RefundLine(credit_type=name, amount=back) for name, back in amounts.items()],
            reason_code=reason_code,
            goodwill_ttl_ms=goodwill_ttl_ms,
            idempotency_key=key,
            durability=_durability(durability),
        )

    return _operation("Refund", build, pb.RefundResponse, _read_refund)


def balance(account: str) -> Operation[results.BalanceResult]:
    """What an account has, holds and has used."""

    def build(defaults: Defaults) -> pb.BalanceRequest:
        return pb.BalanceRequest(tenant=defaults.tenant, account=account)

    return _operation("Balance", build, pb.BalanceResponse, _read_balance)


def _operation(
    name: str,
    build: Callable[[Defaults], Message],
    response: type[M],
    read: Callable[[M], T],
    bypass: Bypass[T] | None = None,
) -> Operation[T]:
    return Operation(
        BALANCE + name, build, decoder(response, read), bypass, item=name.lower(), read_item=read
    )


def _without_hold(hold_id: str, answer: T, *, unbooked: bool = False) -> Bypass[T] | None:
    """Only a hold that was never placed is settled without a server; a real one must be sent."""
    return None if hold_id else Bypass(answer, always=True, unbooked=unbooked)


def _lines(
    amounts: Amounts, minimum: Amounts | None, credit_type: str | None, defaults: Defaults
) -> list[types_pb2.Line]:
    least = {} if minimum is None else lines_of(minimum, credit_type, defaults)
    return [
        types_pb2.Line(credit_type=name, amount=asked, minimum_amount=least.get(name))
        for name, asked in lines_of(amounts, credit_type, defaults).items()
    ]


def _fit(minimum: Amounts | None) -> types_pb2.Fit.ValueType:
    return types_pb2.FIT_UNSPECIFIED if minimum is None else types_pb2.FIT_UP_TO


def _durability(durability: Durability) -> types_pb2.Durability.ValueType:
    return types_pb2.Durability.ValueType(durability)


def _read_reserve(message: pb.ReserveResponse) -> results.ReserveResult:
    return results.ReserveResult(
        read_decision(message.decision),
        message.hold_id,
        read_held(message.lines),
        milliseconds(message.expires_at),
        read_warnings(message.warnings),
        read_applied(message.applied),
    )


def _read_commit(message: pb.CommitResponse) -> results.CommitResult:
    return results.CommitResult(
        read_decision(message.decision),
        read_settled(message.lines),
        message.late,
        read_hold_state(message.state),
        milliseconds(message.expires_at),
        read_warnings(message.warnings),
        read_applied(message.applied),
    )


def _read_release(message: pb.ReleaseResponse) -> results.ReleaseResult:
    return results.ReleaseResult(
        read_decision(message.decision), read_settled(message.lines), read_applied(message.applied)
    )


def _read_extend(message: pb.ExtendResponse) -> results.ExtendResult:
    return results.ExtendResult(
        read_decision(message.decision),
        milliseconds(message.expires_at),
        read_applied(message.applied),
    )


def _read_burn(message: pb.BurnResponse) -> results.BurnResult:
    return results.BurnResult(
        read_decision(message.decision),
        read_settled(message.lines),
        read_warnings(message.warnings),
        read_applied(message.applied),
    )


def _read_refund(message: pb.RefundResponse) -> results.RefundResult:
    return results.RefundResult(
        tuple(_refunded_line(line) for line in message.lines), read_applied(message.applied)
    )


def _refunded_line(line: pb.RefundedLine) -> results.RefundedLine:
    return results.RefundedLine(
        line.credit_type,
        line.refunded,
        line.debt,
        line.unenforced,
        read_shares(line.grants),
        line.available_after,
    )


def _read_balance(message: pb.BalanceResponse) -> results.BalanceResult:
    return results.BalanceResult(
        message.account,
        tuple(_credit_balance(credit) for credit in message.credits),
        tuple(read_limit_use(limit) for limit in message.limits),
        message.open_holds,
        milliseconds(message.as_of),
        message.stale,
    )


def _credit_balance(message: pb.CreditBalance) -> results.CreditBalance:
    return results.CreditBalance(
        message.credit_type,
        read_buckets(message.buckets),
        message.spendable,
        tuple(_grant_balance(grant) for grant in message.grants),
        message.version,
    )


def _grant_balance(message: pb.GrantBalance) -> results.GrantBalance:
    return results.GrantBalance(
        message.grant_id,
        message.remaining,
        message.held,
        message.priority,
        milliseconds(message.effective_at),
        milliseconds(message.expires_at),
    )
