"""Grants given, taken back and listed."""

from __future__ import annotations

from holdfast.v1 import grant_service_pb2 as grants
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.translate.common import buckets, put_applied, timestamp
from holdfast_server.domain import reply
from holdfast_server.domain.operation import GrantTerms
from holdfast_server.ledger.records import RecordedGrant


def granted(value: reply.GrantReply) -> grants.GrantResponse:
    """The answer to Grant."""
    said = grants.GrantResponse(
        grant_id=value.grant_id,
        debt_repaid=value.debt_repaid,
        buckets=buckets(value.buckets),
    )
    put_applied(said.applied, value.applied)
    return said


def revoked(value: reply.RevokeReply) -> grants.RevokeResponse:
    """The answer to Revoke."""
    said = grants.RevokeResponse(
        revoked=value.revoked,
        still_held=value.still_held,
        buckets=buckets(value.buckets),
    )
    put_applied(said.applied, value.applied)
    return said


def recorded(value: RecordedGrant) -> grants.Grant:
    """A grant with its terms and what became of it."""
    return grants.Grant(
        grant_id=value.grant_id,
        account=value.account,
        terms=_terms(value.terms),
        remaining=value.remaining,
        held=value.held,
        burned=value.burned,
        expired=value.expired,
        revoked=value.revoked,
        issuer=value.issuer,
        granted_at=timestamp(value.granted_at_ms),
        transaction_id=value.transaction_id,
    )


def _terms(terms: GrantTerms) -> grants.GrantTerms:
    return grants.GrantTerms(
        credit_type=terms.credit_type,
        amount=terms.amount,
        source=types.GrantSource.ValueType(terms.source),
        priority=terms.priority,
        effective_at=timestamp(terms.effective_at_ms),
        expires_at=timestamp(terms.expires_at_ms),
        cost_basis=types.CostBasis(amount=terms.cost_amount, currency=terms.cost_currency),
        reason_code=terms.reason_code,
        repay_debt=terms.repay_debt,
        labels=terms.labels,
    )
