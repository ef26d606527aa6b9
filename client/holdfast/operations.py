"""The operations of the hot path, as values: what `Client.batch` takes.

Each function says what is to be done and makes its idempotency key, so an operation that is sent
again carries the same key, with the same content, and is applied once. The clients' methods of the
same names send one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast import _answers, results
from holdfast._calls import Amounts, Bypass, Defaults, Operation, T, as_now, lines_of
from holdfast._keys import new_key
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
_RESERVE_BYPASSED = Bypass(results.ReserveResult(_BYPASSED))
_COMMIT_BYPASSED = Bypass(results.CommitResult(_BYPASSED), always=True, unbooked=True)
_RELEASE_BYPASSED = Bypass(results.ReleaseResult(_BYPASSED), always=True)
_EXTEND_BYPASSED = Bypass(results.ExtendResult(_BYPASSED), always=True)
_BURN_BYPASSED = Bypass(results.BurnResult(_BYPASSED), unbooked=True)


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
    key, amount, labels = key or new_key(), as_now(amount), labels and dict(labels)
    minimum = None if minimum is None else as_now(minimum)

    def fill(request: pb.ReserveRequest, defaults: Defaults) -> None:
        request.account = account
        request.feature = feature
        request.ttl_ms = ttl_ms
        request.idempotency_key = key
        _add_lines(request, amount, minimum, credit_type, defaults)
        if labels:
            request.labels.update(labels)

    return Operation(_answers.RESERVE, fill, _RESERVE_BYPASSED, durability)


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
    key, labels = key or new_key(), labels and dict(labels)
    amount = None if amount is None else as_now(amount)

    def fill(request: pb.CommitRequest, defaults: Defaults) -> None:
        request.hold_id = hold_id
        request.final = final
        request.idempotency_key = key
        if amount is not None:
            _add_lines(request, amount, None, credit_type, defaults)
        if ttl_ms:
            request.ttl_ms = ttl_ms
        if overage:
            request.overage = types_pb2.Overage.ValueType(overage)
        if labels:
            request.labels.update(labels)

    bypass = _without_hold(hold_id, _COMMIT_BYPASSED)
    return Operation(_answers.COMMIT, fill, bypass, durability)


def release(
    hold_id: str,
    *,
    reason: str = "",
    key: str | None = None,
    durability: Durability = Durability.UNSPECIFIED,
) -> Operation[results.ReleaseResult]:
    """Gives all of a hold back."""
    key = key or new_key()

    def fill(request: pb.ReleaseRequest, defaults: Defaults) -> None:
        request.hold_id = hold_id
        request.reason = reason
        request.idempotency_key = key

    bypass = _without_hold(hold_id, _RELEASE_BYPASSED)
    return Operation(_answers.RELEASE, fill, bypass, durability)


def extend(hold_id: str, ttl_ms: int, *, key: str | None = None) -> Operation[results.ExtendResult]:
    """Gives a hold more time, measured from now."""
    key = key or new_key()

    def fill(request: pb.ExtendRequest, defaults: Defaults) -> None:
        request.hold_id = hold_id
        request.ttl_ms = ttl_ms
        request.idempotency_key = key

    bypass = _without_hold(hold_id, _EXTEND_BYPASSED)
    return Operation(_answers.EXTEND, fill, bypass)


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
    key, amount, labels = key or new_key(), as_now(amount), labels and dict(labels)
    minimum = None if minimum is None else as_now(minimum)

    def fill(request: pb.BurnRequest, defaults: Defaults) -> None:
        request.account = account
        request.feature = feature
        request.idempotency_key = key
        _add_lines(request, amount, minimum, credit_type, defaults)
        if labels:
            request.labels.update(labels)

    return Operation(_answers.BURN, fill, _BURN_BYPASSED, durability)


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
    key, amount = key or new_key(), None if amount is None else as_now(amount)

    def fill(request: pb.RefundRequest, defaults: Defaults) -> None:
        request.transaction_id = transaction_id
        request.reason_code = reason_code
        request.goodwill_ttl_ms = goodwill_ttl_ms
        request.idempotency_key = key
        if amount is not None:
            _add_lines(request, amount, None, credit_type, defaults)

    return Operation(_answers.REFUND, fill, durability=durability)


def balance(account: str) -> Operation[results.BalanceResult]:
    """What an account has, holds and has used."""

    def fill(request: pb.BalanceRequest, defaults: Defaults) -> None:
        request.account = account

    return Operation(_answers.BALANCE, fill)


def _without_hold(hold_id: str, bypass: Bypass[T]) -> Bypass[T] | None:
    """Only a hold that was never placed is settled without a server; a real one must be sent."""
    return None if hold_id else bypass


def _add_lines(
    request: Any,
    amounts: Amounts,
    minimum: Amounts | None,
    credit_type: str | None,
    defaults: Defaults,
) -> None:
    for name, amount in lines_of(amounts, credit_type, defaults).items():
        line = request.lines.add()
        line.credit_type = name
        line.amount = amount
    if minimum is not None:
        request.fit = types_pb2.FIT_UP_TO
        least = lines_of(minimum, credit_type, defaults)
        for line in request.lines:
            if line.credit_type in least:
                line.minimum_amount = least[line.credit_type]
