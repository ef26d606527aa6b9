"""Ledger entries and what is derived from them."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.v1 import ledger_service_pb2 as ledger
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.translate.common import buckets, timestamp
from holdfast_server.domain.entry import GrantPosting
from holdfast_server.ledger.records import BalanceAt, RecordedEntry, VerifyReport


def recorded(value: RecordedEntry) -> ledger.Entry:
    """One immutable row."""
    entry, context = value.entry, value.entry.context
    return ledger.Entry(
        partition=entry.partition,
        epoch=entry.epoch,
        seq=entry.seq,
        transaction_id=entry.transaction_id,
        kind=ledger.EntryKind.ValueType(entry.kind),
        account=entry.account,
        credit_type=entry.credit_type,
        version=entry.version,
        delta=buckets(entry.delta),
        after=buckets(entry.after),
        grants=map(_posting, entry.grants),
        hold_id=entry.hold,
        actor=entry.actor,
        mode=types.Mode.ValueType(entry.mode or 0),
        feature=context.feature,
        labels=context.labels,
        caller=context.caller,
        trace_id=context.trace_id,
        idempotency_key=context.key,
        reason=context.reason,
        event_time=timestamp(entry.event_ms),
        recorded_time=timestamp(value.recorded_ms),
        hash=value.hash,
    )


def balance_at(value: BalanceAt) -> ledger.GetBalanceAtResponse:
    """The buckets of an account at an instant, per credit type, by code."""
    return ledger.GetBalanceAtResponse(
        credits=[
            ledger.CreditBalanceAt(credit_type=code, buckets=buckets(state), version=version)
            for code, (state, version) in sorted(value.credits.items())
            if code
        ],
        as_of=timestamp(value.as_of_ms),
    )


def grants_of(entries: Iterable[RecordedEntry]) -> list[str]:
    """The grants that the entries touch, in the order of their first touch."""
    touched = (posting.grant_id for each in entries for posting in each.entry.grants)
    return list(dict.fromkeys(touched))


def verified(value: VerifyReport) -> ledger.VerifyResponse:
    """The result of a verification."""
    return ledger.VerifyResponse(
        ok=value.ok,
        entries=value.entries,
        violations=[
            ledger.Violation(
                check=each.check, partition=each.partition, seq=each.seq, message=each.message
            )
            for each in value.violations
        ],
    )


def _posting(posting: GrantPosting) -> ledger.GrantPosting:
    return ledger.GrantPosting(
        grant_id=posting.grant_id,
        remaining=posting.remaining,
        held=posting.held,
        burned=posting.burned,
        expired=posting.expired,
        revoked=posting.revoked,
    )
