"""The hot path's requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.form import Form
from holdfast_server.domain import bounds
from holdfast_server.domain.operation import (
    Burn,
    Commit,
    CommitLine,
    Durability,
    Extend,
    Fit,
    GetBalance,
    Line,
    Overage,
    Refund,
    RefundLine,
    Release,
    Reserve,
)
from holdfast_server.errors import Reason

Asked = TypeVar("Asked", types.Line, balance.CommitLine, balance.RefundLine)

#: The fields of each line, as a refusal names them.
_CREDIT_TYPES: Final = [f"lines[{index}].credit_type" for index in range(bounds.LINES_MAX)]
_AMOUNTS: Final = [f"lines[{index}].amount" for index in range(bounds.LINES_MAX)]
_MINIMUMS: Final = [f"lines[{index}].minimum_amount" for index in range(bounds.LINES_MAX)]


def reserve(tenant: str, request: balance.ReserveRequest) -> Reserve:
    """A Reserve of 1 to 8 lines."""
    form = Form()
    operation = Reserve(
        tenant=tenant,
        account=form.identifier(request.account, "account"),
        lines=_asked(form, request.lines),
        ttl_ms=form.ttl(request.ttl_ms, "ttl_ms"),
        key=form.idempotency_key(request.idempotency_key),
        feature=form.optional_identifier(request.feature, "feature"),
        labels=form.labels(request.labels),
        fit=form.choice(Fit, request.fit, "fit", Fit.EXACT),
        durability=durability(form, request.durability),
    )
    form.settle()
    return operation


def commit(tenant: str, request: balance.CommitRequest) -> Commit:
    """A Commit. A hold id of a wrong form is not refused here: it names no hold."""
    form = Form()
    operation = Commit(
        tenant=tenant,
        hold=request.hold_id,
        key=form.idempotency_key(request.idempotency_key),
        lines=_actual(form, request.lines),
        final=request.final if request.HasField("final") else True,
        ttl_ms=form.optional_ttl(request.ttl_ms, "ttl_ms"),
        overage=form.choice(Overage, request.overage, "overage", Overage.CHARGE),
        labels=form.labels(request.labels),
        durability=durability(form, request.durability),
    )
    if operation.final and operation.ttl_ms:
        form.invalid("ttl_ms", "needs final = false: a final commit ends the hold")
    form.settle()
    return operation


def release(tenant: str, request: balance.ReleaseRequest) -> Release:
    """A Release."""
    form = Form()
    operation = Release(
        tenant=tenant,
        hold=request.hold_id,
        key=form.idempotency_key(request.idempotency_key),
        reason=form.text(request.reason, "reason", bounds.REASON_BYTES_MAX),
        durability=durability(form, request.durability),
    )
    form.settle()
    return operation


def extend(tenant: str, request: balance.ExtendRequest) -> Extend:
    """An Extend."""
    form = Form()
    operation = Extend(
        tenant=tenant,
        hold=request.hold_id,
        ttl_ms=form.ttl(request.ttl_ms, "ttl_ms"),
        key=form.idempotency_key(request.idempotency_key),
    )
    form.settle()
    return operation


def burn(tenant: str, request: balance.BurnRequest) -> Burn:
    """A Burn of 1 to 8 lines."""
    form = Form()
    operation = Burn(
        tenant=tenant,
        account=form.identifier(request.account, "account"),
        lines=_asked(form, request.lines),
        key=form.idempotency_key(request.idempotency_key),
        feature=form.optional_identifier(request.feature, "feature"),
        labels=form.labels(request.labels),
        fit=form.choice(Fit, request.fit, "fit", Fit.EXACT),
        durability=durability(form, request.durability),
    )
    form.settle()
    return operation


def refund(tenant: str, request: balance.RefundRequest) -> Refund:
    """A Refund of all that is left, or of 1 to 8 lines."""
    form = Form()
    operation = Refund(
        tenant=tenant,
        transaction_id=form.transaction_id(request.transaction_id, "transaction_id"),
        key=form.idempotency_key(request.idempotency_key),
        lines=_given_back(form, request.lines),
        reason_code=form.optional_identifier(request.reason_code, "reason_code"),
        goodwill_ttl_ms=form.optional_ttl(
            request.goodwill_ttl_ms, "goodwill_ttl_ms", maximum_ms=bounds.GOODWILL_TTL_MS_MAX
        ),
        durability=durability(form, request.durability),
    )
    form.settle()
    return operation


def get_balance(tenant: str, request: balance.BalanceRequest) -> GetBalance:
    """A Balance."""
    form = Form()
    operation = GetBalance(tenant, form.identifier(request.account, "account"))
    form.settle()
    return operation


def awaited(request: balance.AwaitDurableRequest) -> tuple[str, int, Durability]:
    """What is waited for: a transaction, its last entry or 0, and the level."""
    form = Form()
    transaction_id = form.transaction_id(request.transaction_id, "transaction_id")
    seq = form.number(request.seq, "seq", 0, bounds.AMOUNT_MAX)
    level = form.choice(Durability, request.durability, "durability", Durability.LEDGER)
    form.settle()
    return transaction_id, seq, level


def durability(form: Form, number: int) -> Durability | None:
    """What must have happened before the answer; None where that is not said."""
    return form.choice(Durability, number, "durability") if number else None


def _asked(form: Form, lines: Sequence[types.Line]) -> tuple[Line, ...]:
    if not lines:
        _refuse_lines(form, f"lines must have 1 to {bounds.LINES_MAX} entries.")
    _check_distinct(form, lines)
    return tuple([_asked_line(form, i, line) for i, line in _numbered(lines)])


def _asked_line(form: Form, index: int, line: types.Line) -> Line:
    credit_type = form.credit_type(line.credit_type, _CREDIT_TYPES[index])
    amount = form.amount(line.amount, _AMOUNTS[index])
    if not line.HasField("minimum_amount"):
        return Line(credit_type, amount)
    minimum = form.amount(line.minimum_amount, _MINIMUMS[index])
    if minimum > amount:
        form.invalid(_MINIMUMS[index], "must not be above the amount")
    return Line(credit_type, amount, minimum)


def _actual(form: Form, lines: Sequence[balance.CommitLine]) -> tuple[CommitLine, ...]:
    _check_distinct(form, lines)
    return tuple([_actual_line(form, i, line) for i, line in _numbered(lines)])


def _actual_line(form: Form, index: int, line: balance.CommitLine) -> CommitLine:
    credit_type = form.credit_type(line.credit_type, _CREDIT_TYPES[index])
    if not line.HasField("amount"):
        return CommitLine(credit_type)
    return CommitLine(credit_type, form.amount(line.amount, _AMOUNTS[index], minimum=0))


def _given_back(form: Form, lines: Sequence[balance.RefundLine]) -> tuple[RefundLine, ...]:
    _check_distinct(form, lines)
    return tuple(
        RefundLine(
            form.credit_type(line.credit_type, _CREDIT_TYPES[index]),
            form.amount(line.amount, _AMOUNTS[index]),
        )
        for index, line in _numbered(lines)
    )


def _numbered(lines: Sequence[Asked]) -> Iterable[tuple[int, Asked]]:
    """As many lines as are looked at, with their places. There is seldom more than one, and to go
    through a message's list takes longer than to read what is in it.
    """
    return ((0, lines[0]),) if len(lines) == 1 else enumerate(lines[: bounds.LINES_MAX])


def _check_distinct(
    form: Form, lines: Sequence[types.Line | balance.CommitLine | balance.RefundLine]
) -> None:
    if len(lines) > bounds.LINES_MAX:
        _refuse_lines(form, f"lines may have at most {bounds.LINES_MAX} entries.")
    elif len(lines) > 1 and _repeats(line.credit_type for line in lines):
        _refuse_lines(form, "lines must not name a credit type twice.")


def _repeats(names: Iterable[str]) -> bool:
    listed = list(names)
    return len(set(listed)) < len(listed)


def _refuse_lines(form: Form, message: str) -> None:
    form.refuse(Reason.LINES_INVALID, message, field="lines", maximum=bounds.LINES_MAX)
