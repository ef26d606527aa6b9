"""What a refund may give back: the ledger's burns, newest first, less what was refunded before."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.operation import GrantTerms, Refund
from holdfast_server.domain.twin.grants import RefundPart, RefundPlan
from holdfast_server.domain.twin.state import DEBT, UNENFORCED
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import BurnedTransaction

#: What is given back before anything goes back to grants.
_RANKS = {UNENFORCED: 0, DEBT: 1}


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
    given_back = Counter(burned.refunded)
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


def _parts(burned: BurnedTransaction) -> Iterable[RefundPart]:
    """The reverse of the order in which the credits were drawn: what no grant had on the whole path
    came last.
    """
    return sorted(_parts_of_entries(burned), key=lambda part: _RANKS.get(part.source, len(_RANKS)))


def _parts_of_entries(burned: BurnedTransaction) -> Iterator[RefundPart]:
    new_ids: dict[tuple[str, str, bool], str] = {}
    for found in reversed(burned.burns):
        for part in _entry_parts(found.entry, burned):
            place = (part.account, part.credit_type, part.source in (DEBT, UNENFORCED))
            new_id = new_ids.setdefault(place, uuid.uuid4().hex)
            yield replace(part, new_grant_id=new_id)


def _entry_parts(entry: Entry, burned: BurnedTransaction) -> Iterator[RefundPart]:
    """What no grant paid was drawn last: debt, then unenforced."""
    from_grants = sum(posting.burned for posting in entry.grants)
    for source, amount in _ungranted(entry, entry.delta.burned - from_grants, burned):
        if amount:
            yield RefundPart(entry.account, entry.credit_type, source, amount)
    for posting in reversed(entry.grants):
        if posting.burned:
            part = RefundPart(entry.account, entry.credit_type, posting.grant_id, posting.burned)
            revoked = posting.grant_id in burned.revoked
            yield _with_terms(part, burned.grants.get(posting.grant_id), revoked)


def _ungranted(entry: Entry, amount: int, burned: BurnedTransaction) -> Iterator[tuple[str, int]]:
    """What no grant paid, last drawn first. A COMMIT burns what its hold had booked."""
    if entry.kind is not EntryKind.COMMIT:
        yield UNENFORCED, entry.delta.unenforced
        yield DEBT, entry.delta.debt
        return
    debt = min(amount, max(0, burned.debts.get((entry.account, entry.credit_type), 0)))
    yield UNENFORCED, amount - debt
    yield DEBT, debt


def _with_terms(part: RefundPart, terms: GrantTerms | None, revoked: bool) -> RefundPart:
    """What the grant needs to come back, should the hot store have forgotten it."""
    if terms is None:
        return replace(part, revoked=revoked)
    return replace(
        part,
        priority=terms.priority,
        expires_ms=terms.expires_at_ms,
        paid=int(terms.cost_amount > 0),
        effective_ms=terms.effective_at_ms,
        revoked=revoked,
    )
