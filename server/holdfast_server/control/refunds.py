"""What a refund may give back: the ledger's burns, newest first, less what was refunded before."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.operation import Mode, Refund
from holdfast_server.domain.twin.grants import RefundPart, RefundPlan
from holdfast_server.domain.twin.state import DEBT, UNENFORCED
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import BurnedTransaction, RecordedGrant


def plan_refund(operation: Refund, burned: BurnedTransaction) -> RefundPlan:
    """The parts to give back. Raises LINE_UNKNOWN and REFUND_EXCEEDS_BURNED."""
    left = _left(burned)
    refundable = Counter[str]()
    for part in left:
        refundable[part.credit_type] += part.amount
    known = {found.entry.credit_type for found in burned.burns}
    wanted = _wanted(operation, known, refundable)
    parts = tuple(_taken(left, wanted))
    return RefundPlan(
        burned.account, parts, burned.as_of_seq, operation.transaction_id, operation.goodwill_ttl_ms
    )


def _wanted(operation: Refund, known: set[str], refundable: Counter[str]) -> dict[str, int]:
    if not operation.lines:
        if not refundable.total():
            raise _exceeds(0)
        return dict(refundable)
    for line in operation.lines:
        if line.credit_type not in known:
            message = (
                f"the transaction has no credit type {line.credit_type}; name only those it burned"
            )
            raise HoldfastError(Reason.LINE_UNKNOWN, message, credit_type=line.credit_type)
        if line.amount > refundable[line.credit_type]:
            raise _exceeds(refundable[line.credit_type])
    return {line.credit_type: line.amount for line in operation.lines}


def _exceeds(refundable: int) -> HoldfastError:
    message = f"of this transaction {refundable} can still be refunded; ask for no more than that"
    return HoldfastError(Reason.REFUND_EXCEEDS_BURNED, message, refundable=refundable)


def _left(burned: BurnedTransaction) -> list[RefundPart]:
    """All parts, newest burn first, without those that earlier refunds gave back."""
    given_back = Counter[str]()
    for found in burned.refunds:
        given_back[found.entry.credit_type] -= found.entry.delta.burned
    left = []
    for part in _parts(burned):
        gone = min(part.amount, given_back[part.credit_type])
        given_back[part.credit_type] -= gone
        if part.amount > gone:
            left.append(replace(part, amount=part.amount - gone))
    return left


def _taken(left: Iterable[RefundPart], wanted: dict[str, int]) -> Iterator[RefundPart]:
    for part in left:
        amount = min(part.amount, wanted.get(part.credit_type, 0))
        if amount:
            wanted[part.credit_type] -= amount
            yield replace(part, amount=amount)


def _parts(burned: BurnedTransaction) -> Iterator[RefundPart]:
    """The reverse of the order in which the credits were drawn."""
    new_ids: dict[tuple[str, str, bool], str] = {}
    for found in reversed(burned.burns):
        for part in _entry_parts(found.entry, burned):
            place = (part.account, part.credit_type, part.source in (DEBT, UNENFORCED))
            new_id = new_ids.setdefault(place, uuid.uuid4().hex)
            yield replace(part, new_grant_id=new_id)


def _entry_parts(entry: Entry, burned: BurnedTransaction) -> Iterator[RefundPart]:
    """What no grant paid was drawn last: debt, then unenforced."""
    from_grants = sum(posting.burned for posting in entry.grants)
    for source, amount in _ungranted(entry, entry.delta.burned - from_grants):
        if amount:
            yield RefundPart(entry.account, entry.credit_type, source, amount)
    for posting in reversed(entry.grants):
        if posting.burned:
            yield _grant_part(
                entry, posting.grant_id, posting.burned, burned.grants.get(posting.grant_id)
            )


def _ungranted(entry: Entry, amount: int) -> Iterator[tuple[str, int]]:
    """A COMMIT burns what its hold had booked: unenforced in shadow, else debt. Others book it
    themselves.
    """
    if entry.kind is EntryKind.COMMIT:
        yield (UNENFORCED if entry.mode is Mode.SHADOW else DEBT), amount
    else:
        yield UNENFORCED, entry.delta.unenforced
        yield DEBT, entry.delta.debt


def _grant_part(
    entry: Entry, grant_id: str, amount: int, grant: RecordedGrant | None
) -> RefundPart:
    part = RefundPart(entry.account, entry.credit_type, grant_id, amount)
    if grant is None:
        return part
    terms = grant.terms
    return replace(
        part,
        priority=terms.priority,
        expires_ms=terms.expires_at_ms,
        paid=int(terms.cost_amount > 0),
        effective_ms=terms.effective_at_ms,
        revoked=grant.revoked > 0,
    )
