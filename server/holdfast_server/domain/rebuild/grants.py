"""Grants: given, effective, expired, taken back, given back; and use that was only booked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast_server.domain.entry import Entry, GrantPosting
from holdfast_server.domain.rebuild.state import Rebuilt, detail_of, post
from holdfast_server.domain.twin.state import Credit, Grant


def grant(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Grant: effective at once, which its entry shows by what it granted, or pending."""
    (entry,) = transaction
    given = _given(detail_of(transaction), entry.event_ms)
    credit = post(rebuilt.tree, entry)
    if entry.delta.granted:
        _start(credit, given, entry)
    else:
        credit.pending.append(given)


def _given(terms: Mapping[str, Any], now_ms: int) -> Grant:
    return Grant(
        terms["grant_id"],
        terms["amount"],
        terms["priority"],
        terms["expires_at_ms"],
        int(terms["cost_amount"] > 0),
        terms["effective_at_ms"] or now_ms,
        terms["repay_debt"],
    )


def _start(credit: Credit, given: Grant, entry: Entry) -> None:
    """What did not repay debt is there to be spent."""
    given.remaining = sum(posting.remaining for posting in entry.grants)
    if given.remaining:
        credit.insert(given)
    credit.topped = entry.after.available


def effective(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """A pending grant whose time has come; its id is the key of the entry."""
    (entry,) = transaction
    credit = post(rebuilt.tree, entry)
    _start(credit, _take_pending(credit, entry.context.key), entry)


def _take_pending(credit: Credit, grant_id: str) -> Grant:
    found = next(each for each in credit.pending if each.grant_id == grant_id)
    credit.pending.remove(found)
    return found


def expired(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """The unheld rest of a grant was lost."""
    (entry,) = transaction
    credit = post(rebuilt.tree, entry)
    credit.topped = max(0, credit.topped - entry.delta.expired)


def revoke(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Revoke of a grant that is effective, of one that is pending, or of one that is spent."""
    (entry,) = transaction
    (posting,) = entry.grants
    state = rebuilt.tree.accounts[entry.account]
    state.last_refund_seq = entry.seq
    credit = state.credit(entry.credit_type)
    found = credit.find(posting.grant_id)
    if found is not None:
        found.revoked = True
        credit.topped = max(0, credit.topped - entry.delta.revoked)
    elif entry.delta.granted:
        _take_pending(credit, posting.grant_id)
    post(rebuilt.tree, entry)


def refund(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Credits back to grants, of which some had been spent and forgotten, and some are new."""
    detail = detail_of(transaction)
    for entry in transaction:
        credit = rebuilt.tree.accounts[entry.account].credit(entry.credit_type)
        for posting in entry.grants:
            if posting.remaining > 0 and credit.find(posting.grant_id) is None:
                credit.insert(_returned(posting, detail, entry.event_ms))
        post(rebuilt.tree, entry)
    rebuilt.tree.accounts[transaction[0].actor].last_refund_seq = transaction[-1].seq


def _returned(posting: GrantPosting, detail: Mapping[str, Any], now_ms: int) -> Grant:
    """A grant that comes back with its terms, or a new one; `post` says what it has."""
    terms = detail["grants"].get(posting.grant_id)
    if terms is not None:
        priority, expires_ms, paid, effective_ms = terms
        return Grant(posting.grant_id, 0, priority, expires_ms, paid, effective_ms)
    made = next(each for each in detail["goodwill"] if each["grant_id"] == posting.grant_id)
    expires_ms = now_ms + made["ttl_ms"] if made["ttl_ms"] else 0
    return Grant(posting.grant_id, 0, 0, expires_ms, 0, now_ms)


def unenforced(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """Use that was booked without being enforced."""
    for entry in transaction:
        post(rebuilt.tree, entry)
