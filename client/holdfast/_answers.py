"""How the answers of the hot path are read: one kind of operation for each method."""

from __future__ import annotations

from operator import attrgetter

from holdfast import results
from holdfast._calls import Kind
from holdfast._lazy import Readers, reader
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

#: How fields are read that several answers have. A decision is read at once: one that is no answer
#: is an error, even to a caller who does not look at it.
_DECISION: Readers = {"decision": lambda answer: read_decision(answer.decision)}
_COMMON: Readers = {
    "expires_at_ms": lambda answer: milliseconds(answer.expires_at),
    "warnings": lambda answer: read_warnings(answer.warnings),
    "applied": lambda answer: read_applied(answer.applied),
}
_HELD: Readers = {**_COMMON, "lines": lambda answer: read_held(answer.lines)}
_SETTLED: Readers = {**_COMMON, "lines": lambda answer: read_settled(answer.lines)}


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


RESERVE = Kind(
    "Reserve",
    pb.ReserveResponse,
    # Whoever settles the hold looks at its id.
    reader(results.ReserveResult, {**_DECISION, "hold_id": attrgetter("hold_id")}, **_HELD),
)
COMMIT = Kind(
    "Commit",
    pb.CommitResponse,
    reader(
        results.CommitResult,
        _DECISION,
        **_SETTLED,
        state=lambda answer: read_hold_state(answer.state),
    ),
)
RELEASE = Kind("Release", pb.ReleaseResponse, reader(results.ReleaseResult, _DECISION, **_SETTLED))
EXTEND = Kind("Extend", pb.ExtendResponse, reader(results.ExtendResult, _DECISION, **_COMMON))
BURN = Kind("Burn", pb.BurnResponse, reader(results.BurnResult, _DECISION, **_SETTLED))
REFUND = Kind(
    "Refund",
    pb.RefundResponse,
    reader(
        results.RefundResult,
        lines=lambda answer: tuple(map(_refunded_line, answer.lines)),
        applied=_COMMON["applied"],
    ),
    lasts=True,
)
BALANCE = Kind(
    "Balance",
    pb.BalanceResponse,
    reader(
        results.BalanceResult,
        credits=lambda answer: tuple(map(_credit_balance, answer.credits)),
        limits=lambda answer: tuple(map(read_limit_use, answer.limits)),
        as_of_ms=lambda answer: milliseconds(answer.as_of),
    ),
)
