"""Requests that read the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1 import ledger_service_pb2 as ledger
from holdfast_server.api.form import Form
from holdfast_server.domain import bounds
from holdfast_server.ledger.records import EntryFilter


@dataclass(frozen=True, slots=True)
class BalanceSubject:
    """A balance at an instant; None means now."""

    account: str
    credit_type: str
    instant_ms: int | None


def listed(request: ledger.ListEntriesRequest) -> tuple[str, EntryFilter, int]:
    """The account of a ListEntries, which of its entries, and how many."""
    form = Form()
    account = form.identifier(request.account, "account")
    wanted = EntryFilter(
        credit_type=form.optional_credit_type(request.credit_type, "credit_type") or None,
        from_ms=_instant(form, request.HasField("from_time"), request.from_time, "from_time"),
        to_ms=_instant(form, request.HasField("to_time"), request.to_time, "to_time"),
    )
    limit = form.page_size(request.page_size)
    form.settle()
    return account, wanted, limit


def balance_at(request: ledger.GetBalanceAtRequest) -> tuple[str, int | None]:
    """The account and instant of a GetBalanceAt."""
    form = Form()
    account = form.identifier(request.account, "account")
    instant_ms = _instant(form, request.HasField("instant"), request.instant, "instant")
    form.settle()
    return account, instant_ms


def explained(request: ledger.ExplainRequest) -> tuple[str | BalanceSubject, int]:
    """The transaction or balance to explain, and with how many entries."""
    form = Form()
    maximum = form.number(request.maximum_entries, "maximum_entries", 0, bounds.EXPLAIN_ENTRIES_MAX)
    subject: str | BalanceSubject
    if request.WhichOneof("subject") == "transaction_id":
        subject = form.transaction_id(request.transaction_id, "transaction_id")
    else:
        subject = _balance(form, request)
    form.settle()
    return subject, maximum or bounds.EXPLAIN_ENTRIES_DEFAULT


def partitions(request: ledger.VerifyRequest, count: int) -> list[int] | None:
    """The partitions of a Verify, of the `count` there are; None means all."""
    form = Form()
    if len(request.partitions) > count:
        form.invalid("partitions", f"may have at most {count} entries", maximum=count)
    for index, partition in enumerate(request.partitions[:count]):
        form.number(partition, f"partitions[{index}]", 0, count - 1)
    form.settle()
    return sorted(set(request.partitions)) or None


def _balance(form: Form, request: ledger.ExplainRequest) -> BalanceSubject:
    subject, has_instant = request.balance, request.balance.HasField("instant")
    if not request.HasField("balance"):
        form.invalid("subject", "must be a transaction_id or a balance")
        return BalanceSubject("", "", None)
    return BalanceSubject(
        account=form.identifier(subject.account, "balance.account"),
        credit_type=form.credit_type(subject.credit_type, "balance.credit_type"),
        instant_ms=_instant(form, has_instant, subject.instant, "balance.instant"),
    )


def _instant(form: Form, is_set: bool, value: Timestamp, field: str) -> int | None:
    return form.instant_ms(value, field) if is_set else None
