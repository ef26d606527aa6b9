"""How the answers of the hot path are read: one kind of operation for each method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from holdfast import results
from holdfast._calls import Kind
from holdfast._lazy import Reader, Readers
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
from holdfast.v1 import balance_service_pb2 as pb

#: Results with a decision.
D = TypeVar(
    "D",
    results.ReserveResult,
    results.CommitResult,
    results.ReleaseResult,
    results.ExtendResult,
    results.BurnResult,
)

#: How fields are read that several answers have.
_COMMON: Readers = {
    "decision": lambda answer: read_decision(answer.decision),
    "expires_at_ms": lambda answer: milliseconds(answer.expires_at),
    "warnings": lambda answer: read_warnings(answer.warnings),
    "applied": lambda answer: read_applied(answer.applied),
}
_HELD: Readers = {**_COMMON, "lines": lambda answer: read_held(answer.lines)}
_SETTLED: Readers = {**_COMMON, "lines": lambda answer: read_settled(answer.lines)}


def _decided(read: Callable[[Any], D]) -> Callable[[Any], D]:
    """Reads an answer, and its decision at once: one that is none is an error."""

    def with_decision(answer: Any) -> D:
        result = read(answer)
        _ = result.decision
        return result

    return with_decision


def _refunded_line(line: pb.RefundedLine) -> results.RefundedLine:
    return results.RefundedLine(
        line.credit_type,
        line.refunded,
        line.debt,
        line.unenforced,
        read_shares(line.grants),
        line.available_after,
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


RESERVE = Kind("Reserve", pb.ReserveResponse, _decided(Reader(results.ReserveResult, **_HELD)))
COMMIT = Kind(
    "Commit",
    pb.CommitResponse,
    _decided(
        Reader(results.CommitResult, **_SETTLED, state=lambda answer: read_hold_state(answer.state))
    ),
)
RELEASE = Kind("Release", pb.ReleaseResponse, _decided(Reader(results.ReleaseResult, **_SETTLED)))
EXTEND = Kind("Extend", pb.ExtendResponse, _decided(Reader(results.ExtendResult, **_COMMON)))
BURN = Kind("Burn", pb.BurnResponse, _decided(Reader(results.BurnResult, **_SETTLED)))
REFUND = Kind(
    "Refund",
    pb.RefundResponse,
    Reader(
        results.RefundResult,
        lines=lambda answer: tuple(map(_refunded_line, answer.lines)),
        applied=lambda answer: read_applied(answer.applied),
    ),
)
BALANCE = Kind(
    "Balance",
    pb.BalanceResponse,
    Reader(
        results.BalanceResult,
        credits=lambda answer: tuple(map(_credit_balance, answer.credits)),
        limits=lambda answer: tuple(map(read_limit_use, answer.limits)),
        as_of_ms=lambda answer: milliseconds(answer.as_of),
    ),
)
