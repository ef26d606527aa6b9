"""What the ledger says of what a transaction burned, told from entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from holdfast_server.domain.entry import Entry, EntryKind, parse_transaction_id
from holdfast_server.domain.operation import GrantSource, GrantTerms
from holdfast_server.ledger.operations import BURNING_KINDS
from holdfast_server.ledger.records import BurnedTransaction, RecordedEntry

#: Behind every entry that there will be.
LATEST_SEQ = 10**9


def burned_by(entries: Sequence[Entry], transaction_id: str) -> BurnedTransaction | None:
    """What can be refunded of it; None where it burned nothing."""
    place = parse_transaction_id(transaction_id)
    burns = [
        entry
        for entry in entries
        if (entry.partition, entry.epoch, entry.first_seq) == place and entry.kind in BURNING_KINDS
    ]
    if not burns:
        return None
    first = burns[0]
    refunded = Counter[str]()
    for entry in entries:
        if entry.refund_of == transaction_id:
            refunded[entry.credit_type] -= entry.delta.burned
    grant_ids = {posting.grant_id for entry in burns for posting in entry.grants}
    return BurnedTransaction(
        account=first.actor,
        burns=tuple(RecordedEntry(entry, 0, b"") for entry in burns),
        refunded=refunded,
        grants={name: terms for name, terms in _terms(entries).items() if name in grant_ids},
        revoked=frozenset(
            posting.grant_id
            for entry in entries
            if entry.kind is EntryKind.REVOKE
            for posting in entry.grants
        ),
        debts=_debts([entry for entry in entries if entry.hold == first.hold], first)
        if first.hold
        else {},
        partition=first.partition,
        epoch=first.epoch,
        as_of_seq=LATEST_SEQ,
    )


def _terms(entries: Iterable[Entry]) -> dict[str, GrantTerms]:
    """Of every grant that was given, or made by a refund."""
    found: dict[str, GrantTerms] = {}
    for entry in entries:
        detail: dict[str, Any] = dict(entry.context.detail)
        if entry.kind is EntryKind.GRANT:
            found[detail["grant_id"]] = _given(detail, entry.event_ms)
        for made in detail.get("goodwill", ()):
            found[made["grant_id"]] = _made(made, entry.event_ms)
    return found


def _given(detail: dict[str, Any], now_ms: int) -> GrantTerms:
    return GrantTerms(
        detail["credit_type"],
        detail["amount"],
        GrantSource.PURCHASE,
        detail["priority"],
        detail["effective_at_ms"] or now_ms,
        detail["expires_at_ms"],
        detail["cost_amount"],
    )


def _made(made: dict[str, Any], now_ms: int) -> GrantTerms:
    expires_ms = now_ms + made["ttl_ms"] if made["ttl_ms"] else 0
    return GrantTerms(made["credit_type"], 0, GrantSource.REFUND, 0, now_ms, expires_ms)


def _debts(of_hold: Iterable[Entry], commit: Entry) -> Counter[tuple[str, str]]:
    """What the hold had booked as debt, less what its earlier captures burned of that."""
    debts = Counter[tuple[str, str]]()
    for entry in of_hold:
        place = entry.account, entry.credit_type
        if entry.kind is EntryKind.HOLD:
            debts[place] += entry.delta.debt
        elif entry.kind is EntryKind.COMMIT and entry.seq < commit.first_seq:
            debts[place] -= entry.delta.burned - sum(each.burned for each in entry.grants)
    return debts
