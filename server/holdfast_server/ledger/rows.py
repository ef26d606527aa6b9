"""Rows of the ledger as domain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from holdfast_server.domain.entry import Context, Entry, EntryKind, GrantPosting, transaction_id
from holdfast_server.domain.operation import GrantSource, GrantTerms, Mode
from holdfast_server.domain.reply import Account, Buckets, HoldState
from holdfast_server.domain.terms import account_terms
from holdfast_server.ledger.records import RecordedEntry, RecordedGrant

Row = Mapping[str, Any]

#: What an entry changes of each grant.
CHANGES = 5

_KINDS: Final = {int(kind): kind for kind in EntryKind}
_MODES: Final = {0: None} | {int(mode): mode for mode in Mode}
_HOLD_STATES: Final = {0: None} | {int(state): state for state in HoldState}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def milliseconds(instant: datetime | None) -> int:
    """Milliseconds since the Unix epoch; 0 for none."""
    return (instant - _EPOCH) // _MILLISECOND if instant else 0


def instant(milliseconds_: int) -> datetime | None:
    """The instant so many milliseconds after the Unix epoch; None for 0."""
    return _EPOCH + milliseconds_ * _MILLISECOND if milliseconds_ else None


def recorded_entry(row: Row) -> RecordedEntry:
    """A row of `holdfast.entry`, which hash and entry must stand for."""
    return RecordedEntry(entry(row), milliseconds(row["recorded_at"]), row["hash"])


def entry(row: Row) -> Entry:
    """The entry in a row of `holdfast.entry`."""
    return Entry(
        partition=row["partition"],
        epoch=row["epoch"],
        seq=row["seq"],
        kind=EntryKind(row["kind"]),
        tenant=row["tenant"],
        account=row["account"],
        credit_type=row["credit_type"],
        version=row["version"],
        event_ms=milliseconds(row["event_time"]),
        delta=_buckets(row, "delta_"),
        after=_buckets(row, ""),
        grants=tuple(_postings(row["grant_ids"] or (), row["grant_changes"] or ())),
        first_seq=row["first_seq"],
        mode=Mode(row["mode"]) if row["mode"] else None,
        hold=row["hold"].hex if row["hold"] else "",
        actor=row["actor"],
        ends_hold=HoldState(row["ends_hold"]) if row["ends_hold"] else None,
        context=_context(row),
        answer=b"",
        refund_of=row["refund_of"] or "",
    )


def told_entry(row: Sequence[Any]) -> Entry:
    """What a tree is rebuilt from, of a row of `entries_of_trees` behind the root.

    Rebuilding a store reads millions of them, so nothing is looked up by name.
    """
    tenant, account, credit_type, actor, partition, epoch, seq, first_seq, kind, *rest = row
    version, event_time, mode, ends_hold, hold, grant_ids, changes, key, feature, *rest = rest
    detail, *figures = rest
    return Entry(
        partition,
        epoch,
        seq,
        _KINDS[kind],
        tenant,
        account,
        credit_type,
        version,
        milliseconds(event_time),
        Buckets(*figures[:8]),
        Buckets(*figures[8:]),
        tuple(_postings(grant_ids, changes)) if grant_ids else (),
        first_seq,
        _MODES[mode],
        hold.hex if hold else "",
        actor,
        _HOLD_STATES[ends_hold],
        Context(key=key, feature=feature or "", detail=detail or {}),
        b"",
        "",
    )


def _postings(grant_ids: Sequence[UUID], changes: Sequence[int]) -> Iterator[GrantPosting]:
    # The same iterator five times: each grant takes the next five changes.
    for grant_id, *parts in zip(grant_ids, *[iter(changes)] * CHANGES, strict=True):
        yield GrantPosting(grant_id.hex, *parts)


def _buckets(row: Row, prefix: str) -> Buckets:
    return Buckets(
        row[prefix + "granted"],
        row[prefix + "debt"],
        row[prefix + "unenforced"],
        row[prefix + "available"],
        row[prefix + "held"],
        row[prefix + "burned"],
        row[prefix + "expired"],
        row[prefix + "revoked"],
    )


def _context(row: Row) -> Context:
    return Context(
        method=row["method"],
        key=row["idempotency_key"],
        fingerprint=row["fingerprint"],
        feature=row["feature"] or "",
        labels=row["labels"] or {},
        caller=row["caller"] or "",
        trace_id=row["trace_id"] or "",
        span_id=row["span_id"] or "",
        reason=row["reason"] or "",
        detail=row["detail"] or {},
    )


def account(row: Row) -> Account:
    """A row of `holdfast.account`."""
    terms = row["terms"]
    return Account(
        account=row["account"],
        root=row["root"],
        terms=account_terms(terms),
        version=row["version"],
        created_at_ms=terms["created_at_ms"],
    )


def recorded_grant(row: Row) -> RecordedGrant:
    """A row of `holdfast.grant_terms` with its five figures."""
    grant_id: UUID = row["grant_id"]
    return RecordedGrant(
        grant_id=grant_id.hex,
        account=row["account"],
        terms=grant_terms(row),
        issuer=row["issuer"],
        granted_at_ms=milliseconds(row["granted_at"]),
        transaction_id=transaction_id(row["partition"], row["epoch"], row["first_seq"]),
        remaining=row["remaining"],
        held=row["held"],
        burned=row["burned"],
        expired=row["expired"],
        revoked=row["revoked"],
    )


def grant_terms(row: Row) -> GrantTerms:
    """The terms in a row of `holdfast.grant_terms`."""
    return GrantTerms(
        credit_type=row["credit_type"],
        amount=row["amount"],
        source=GrantSource(row["source"]),
        priority=row["priority"],
        effective_at_ms=milliseconds(row["effective_at"]),
        expires_at_ms=milliseconds(row["expires_at"]),
        cost_amount=row["cost_amount"],
        cost_currency=row["cost_currency"],
        reason_code=row["reason_code"],
        repay_debt=row["repay_debt"],
        labels=row["labels"],
    )
