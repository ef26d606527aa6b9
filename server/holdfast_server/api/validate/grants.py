"""Requests that give and take back credits."""

from __future__ import annotations

import re

from holdfast.v1 import grant_service_pb2 as grants
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.form import Form
from holdfast_server.api.validate.spending import durability
from holdfast_server.domain import bounds
from holdfast_server.domain.operation import Grant, GrantSource, GrantTerms, Revoke

_CURRENCY = re.compile(r"[A-Z]{3}\Z")


def grant(tenant: str, request: grants.GrantRequest) -> Grant:
    """A Grant; answered when the ledger has it, unless asked otherwise."""
    form = Form()
    operation = Grant(
        tenant=tenant,
        account=form.identifier(request.account, "account"),
        terms=_terms(form, request.terms),
        key=form.idempotency_key(request.idempotency_key),
        durability=durability(form, request.durability),
    )
    form.settle()
    return operation


def revoke(tenant: str, request: grants.RevokeRequest) -> Revoke:
    """A Revoke; answered when the ledger has it, unless asked otherwise."""
    form = Form()
    operation = Revoke(
        tenant=tenant,
        account=form.identifier(request.account, "account"),
        grant_id=form.grant_id(request.grant_id, "grant_id"),
        key=form.idempotency_key(request.idempotency_key),
        reason_code=form.optional_identifier(request.reason_code, "reason_code"),
        durability=durability(form, request.durability),
    )
    form.settle()
    return operation


def _terms(form: Form, terms: grants.GrantTerms) -> GrantTerms:
    effective_at_ms, expires_at_ms = _lifetime(form, terms)
    cost_amount, cost_currency = _cost(form, terms.cost_basis)
    return GrantTerms(
        credit_type=form.credit_type(terms.credit_type, "terms.credit_type"),
        amount=form.amount(terms.amount, "terms.amount"),
        source=form.choice(GrantSource, terms.source, "terms.source"),
        priority=form.number(
            terms.priority, "terms.priority", bounds.PRIORITY_MIN, bounds.PRIORITY_MAX
        ),
        effective_at_ms=effective_at_ms,
        expires_at_ms=expires_at_ms,
        cost_amount=cost_amount,
        cost_currency=cost_currency,
        reason_code=form.optional_identifier(terms.reason_code, "terms.reason_code"),
        repay_debt=terms.repay_debt if terms.HasField("repay_debt") else True,
        labels=form.labels(terms.labels, "terms.labels"),
    )


def _lifetime(form: Form, terms: grants.GrantTerms) -> tuple[int, int]:
    effective_at_ms = expires_at_ms = 0
    if terms.HasField("effective_at"):
        effective_at_ms = form.instant_ms(terms.effective_at, "terms.effective_at")
    if terms.HasField("expires_at"):
        expires_at_ms = form.instant_ms(terms.expires_at, "terms.expires_at")
    if expires_at_ms and expires_at_ms <= effective_at_ms:
        form.invalid("terms.expires_at", "must be after terms.effective_at")
    return effective_at_ms, expires_at_ms


def _cost(form: Form, cost: types.CostBasis) -> tuple[int, str]:
    amount = form.amount(cost.amount, "terms.cost_basis.amount", minimum=0)
    if amount > 0 and not _CURRENCY.match(cost.currency):
        form.invalid("terms.cost_basis.currency", "must be three capital letters of ISO 4217")
    if amount == 0 and cost.currency:
        form.invalid("terms.cost_basis.currency", "must be empty where nothing was paid")
    return amount, cost.currency
