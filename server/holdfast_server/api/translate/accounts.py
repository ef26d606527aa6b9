"""Accounts and credit types."""

from __future__ import annotations

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.translate.common import put_applied, timestamp
from holdfast_server.domain import reply
from holdfast_server.domain.operation import Limit
from holdfast_server.ledger.records import CreditType


def account(value: reply.Account) -> accounts.Account:
    """An account as it is."""
    terms = value.terms
    return accounts.Account(
        account=value.account,
        parent=terms.parent,
        root=value.root,
        display_name=terms.display_name,
        status=accounts.AccountStatus.ValueType(terms.status),
        overdraft_limits=terms.overdraft_limits,
        limits=map(_limit, terms.limits),
        zone=terms.zone,
        labels=terms.labels,
        version=value.version,
        created_at=timestamp(value.created_at_ms),
    )


def created(value: reply.AccountReply) -> accounts.CreateAccountResponse:
    """The answer to CreateAccount."""
    said = accounts.CreateAccountResponse(account=account(value.account))
    put_applied(said.applied, value.applied)
    return said


def updated(value: reply.AccountReply) -> accounts.UpdateAccountResponse:
    """The answer to UpdateAccount."""
    said = accounts.UpdateAccountResponse(account=account(value.account))
    put_applied(said.applied, value.applied)
    return said


def credit_type(value: CreditType) -> types.CreditType:
    """A unit of account."""
    return types.CreditType(
        credit_type=value.code, display_name=value.display_name, scale=value.scale
    )


def _limit(limit: Limit) -> types.Limit:
    return types.Limit(
        limit_id=limit.limit_id,
        unit=types.Limit.Unit.ValueType(limit.unit),
        credit_type=limit.credit_type,
        feature=limit.feature,
        window=types.Limit.Window.ValueType(limit.window),
        window_ms=limit.window_ms,
        maximum=limit.maximum,
        enforcement=types.Limit.Enforcement.ValueType(limit.enforcement),
        warn_percents=limit.warn_percents,
    )
