"""What the ledger keeps of a request: who asked for what, and the detail that a rebuild needs.

The scripts carry it unread into the entries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import msgpack

from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Operation
from holdfast_server.domain.twin.grants import RefundPlan
from holdfast_server.engine.facts import Facts, method_of

#: How the scripts name what pays in place of a grant.
SOURCES: Final = {"debt": "D", "unenforced": "U"}

#: Requests that have feature and labels.
_REQUESTS = (op.Reserve, op.Burn, op.BookUnenforced)

#: One for all: making one takes longer than packing a context. For one thread only.
_PACKER = msgpack.Packer()


def pack_context(
    operation: Operation, facts: Facts, key: str, print_of: bytes, own: list[Any]
) -> bytes:
    """What an entry keeps of its request, see `domain.entry.Context`. `own` are the fields of the
    operation's row that are its kind's own.
    """
    caller = facts.caller
    feature, labels, reason = _said(operation, facts)
    describe = _DETAILS.get(type(operation))
    detail = describe(operation, facts, own) if describe else {}
    packed: bytes = _PACKER.pack(
        (
            method_of(operation),
            key,
            print_of,
            feature,
            labels,
            caller.subject,
            caller.trace_id,
            caller.span_id,
            reason,
            detail,
        )
    )
    return packed


def _said(operation: Operation, facts: Facts) -> tuple[str, Mapping[str, str], str]:
    """Feature, labels and reason, as far as an operation has them."""
    if isinstance(operation, _REQUESTS):
        return operation.feature, operation.labels, ""
    if isinstance(operation, op.Commit):
        return _feature(facts), operation.labels, ""
    if isinstance(operation, op.Release):
        return _feature(facts), {}, operation.reason
    if isinstance(operation, (op.Refund, op.Revoke)):
        return "", {}, operation.reason_code
    return "", {}, ""


def _feature(facts: Facts) -> str:
    return facts.token.feature if facts.token else ""


def _hold_detail(operation: op.Reserve, facts: Facts, own: list[Any]) -> dict[str, Any]:
    """Entries say what was held: that is less than was asked for only where that is allowed."""
    if operation.fit is op.Fit.EXACT:
        return {"ttl_ms": operation.ttl_ms}
    asked = {line.credit_type: line.amount for line in operation.lines}
    return {"ttl_ms": operation.ttl_ms, "asked": asked}


def _capture_detail(operation: op.Commit, facts: Facts, own: list[Any]) -> dict[str, Any]:
    detail = {} if operation.final else {"final": False, "ttl_ms": operation.ttl_ms}
    return {**detail, "lost": own[-1]} if facts.is_lost else detail


def _extend_detail(operation: op.Extend, facts: Facts, own: list[Any]) -> dict[str, Any]:
    return {"ttl_ms": operation.ttl_ms}


def _grant_detail(operation: op.Grant, facts: Facts, own: list[Any]) -> dict[str, Any]:
    terms: dict[str, Any] = _plain(operation.terms)
    return {**terms, "grant_id": own[1].hex(), "issuer": facts.caller.subject}


def _account_detail(
    operation: op.CreateAccount | op.UpdateAccount, facts: Facts, own: list[Any]
) -> dict[str, Any]:
    terms: dict[str, Any] = _plain(facts.terms or operation.terms)
    version = facts.version + 1
    placed = {"root": facts.root, "version": version, "created_at_ms": facts.created_ms}
    return terms | placed


def _refund_detail(operation: op.Refund, facts: Facts, own: list[Any]) -> dict[str, Any]:
    assert facts.refund is not None
    new = _new_grants(facts.refund, facts.caller.subject)
    return {"goodwill": new, "grants": _old_grants(facts.refund)}


#: What makes of a request what its kind needs to be rebuilt from the ledger alone (domain/rebuild).
_DETAILS: Mapping[type[Operation], Any] = {
    op.Reserve: _hold_detail,
    op.Commit: _capture_detail,
    op.Extend: _extend_detail,
    op.Grant: _grant_detail,
    op.CreateAccount: _account_detail,
    op.UpdateAccount: _account_detail,
    op.Refund: _refund_detail,
}


def _old_grants(plan: RefundPlan) -> dict[str, list[int]]:
    """Priority, expires_ms, paid and effective_ms of each grant that a refund may bring back."""
    return {
        part.source: [part.priority, part.expires_ms, part.paid, part.effective_ms]
        for part in plan.parts
        if part.source not in SOURCES
    }


def _new_grants(plan: RefundPlan, issuer: str) -> list[dict[str, Any]]:
    """Every grant that a refund may make: what stands for an expired one lives for the goodwill's
    time.
    """
    made = {}
    for part in plan.parts:
        ttl_ms = 0 if part.source in SOURCES else plan.goodwill_ttl_ms
        made[part.new_grant_id] = {
            "grant_id": part.new_grant_id,
            "credit_type": part.credit_type,
            "ttl_ms": ttl_ms,
            "issuer": issuer,
        }
    return list(made.values())


def _plain(value: Any) -> Any:
    """Dataclasses as maps, all the way down."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
