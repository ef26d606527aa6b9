"""Calls of AccountService and GrantService. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast import records
from holdfast._calls import ACCOUNT, GRANT, PAGE_SIZE, Call, Defaults, Page, decoder
from holdfast._wire import (
    milliseconds,
    read_applied,
    read_buckets,
    read_limit,
    timestamp,
    write_limit,
)
from holdfast.kinds import AccountStatus, Durability, GrantSource
from holdfast.v1 import account_service_pb2 as pb
from holdfast.v1 import grant_service_pb2 as grant_pb
from holdfast.v1 import types_pb2


def create_account(
    account: str,
    *,
    parent: str,
    display_name: str,
    overdraft_limits: Mapping[str, int] | None,
    limits: Sequence[records.Limit],
    zone: str,
    labels: Mapping[str, str] | None,
    key: str,
) -> Call[records.AccountResult]:
    """Creates an account, alone or below a parent."""

    def build(defaults: Defaults) -> pb.CreateAccountRequest:
        message = pb.Account(
            account=account,
            parent=parent,
            display_name=display_name,
            overdraft_limits=overdraft_limits,
            limits=map(write_limit, limits),
            zone=zone,
            labels=labels,
        )
        return pb.CreateAccountRequest(tenant=defaults.tenant, account=message, idempotency_key=key)

    def read(answer: pb.CreateAccountResponse) -> records.AccountResult:
        return records.AccountResult(_account(answer.account), read_applied(answer.applied))

    return Call(ACCOUNT + "CreateAccount", build, decoder(pb.CreateAccountResponse, read))


def update_account(
    account: str,
    *,
    parent: str | None,
    display_name: str | None,
    status: AccountStatus | None,
    overdraft_limits: Mapping[str, int] | None,
    limits: Sequence[records.Limit] | None,
    zone: str | None,
    labels: Mapping[str, str] | None,
    expected_version: int,
    key: str,
) -> Call[records.AccountResult]:
    """Replaces those fields of an account that are not None."""
    fields = {
        "parent": parent,
        "display_name": display_name,
        "status": None if status is None else pb.AccountStatus.ValueType(status),
        "overdraft_limits": overdraft_limits,
        "limits": limits,
        "zone": zone,
        "labels": labels,
    }
    changed = {name: value for name, value in fields.items() if value is not None}

    def build(defaults: Defaults) -> pb.UpdateAccountRequest:
        written = {**changed, "limits": map(write_limit, limits or ())}
        request = pb.UpdateAccountRequest(
            tenant=defaults.tenant,
            account=pb.Account(account=account, **written),  # type: ignore[arg-type]
            expected_version=expected_version,
            idempotency_key=key,
        )
        request.update_mask.paths.extend(changed)
        return request

    def read(answer: pb.UpdateAccountResponse) -> records.AccountResult:
        return records.AccountResult(_account(answer.account), read_applied(answer.applied))

    return Call(ACCOUNT + "UpdateAccount", build, decoder(pb.UpdateAccountResponse, read))


def get_account(account: str) -> Call[records.Account]:
    """One account."""

    def build(defaults: Defaults) -> pb.GetAccountRequest:
        return pb.GetAccountRequest(tenant=defaults.tenant, account=account)

    def read(answer: pb.GetAccountResponse) -> records.Account:
        return _account(answer.account)

    return Call(ACCOUNT + "GetAccount", build, decoder(pb.GetAccountResponse, read))


def list_accounts(parent: str, page_token: str) -> Call[Page[records.Account]]:
    """One page of the tenant's accounts, or of those directly below `parent`."""

    def build(defaults: Defaults) -> pb.ListAccountsRequest:
        return pb.ListAccountsRequest(
            tenant=defaults.tenant, parent=parent, page_size=PAGE_SIZE, page_token=page_token
        )

    def read(answer: pb.ListAccountsResponse) -> Page[records.Account]:
        return Page(tuple(map(_account, answer.accounts)), answer.next_page_token)

    return Call(ACCOUNT + "ListAccounts", build, decoder(pb.ListAccountsResponse, read))


def create_credit_type(credit_type: str, display_name: str, scale: int) -> Call[records.CreditType]:
    """Defines a credit type; the same one again is answered as before."""

    def build(defaults: Defaults) -> pb.CreateCreditTypeRequest:
        message = types_pb2.CreditType(
            credit_type=credit_type, display_name=display_name, scale=scale
        )
        return pb.CreateCreditTypeRequest(tenant=defaults.tenant, credit_type=message)

    def read(answer: pb.CreateCreditTypeResponse) -> records.CreditType:
        return _credit_type(answer.credit_type)

    return Call(ACCOUNT + "CreateCreditType", build, decoder(pb.CreateCreditTypeResponse, read))


def list_credit_types() -> Call[tuple[records.CreditType, ...]]:
    """The tenant's credit types."""

    def build(defaults: Defaults) -> pb.ListCreditTypesRequest:
        return pb.ListCreditTypesRequest(tenant=defaults.tenant)

    def read(answer: pb.ListCreditTypesResponse) -> tuple[records.CreditType, ...]:
        return tuple(map(_credit_type, answer.credit_types))

    return Call(ACCOUNT + "ListCreditTypes", build, decoder(pb.ListCreditTypesResponse, read))


def grant(
    account: str,
    amount: int,
    *,
    source: GrantSource,
    credit_type: str | None,
    priority: int,
    effective_at_ms: int,
    expires_at_ms: int,
    cost_amount: int,
    cost_currency: str,
    reason_code: str,
    repay_debt: bool,
    labels: Mapping[str, str] | None,
    key: str,
    durability: Durability,
) -> Call[records.GrantResult]:
    """Gives credits."""

    def terms(defaults: Defaults) -> grant_pb.GrantTerms:
        return grant_pb.GrantTerms(
            credit_type=credit_type or defaults.credit_type,
            amount=amount,
            source=types_pb2.GrantSource.ValueType(source),
            priority=priority,
            effective_at=timestamp(effective_at_ms),
            expires_at=timestamp(expires_at_ms),
            cost_basis=types_pb2.CostBasis(amount=cost_amount, currency=cost_currency),
            reason_code=reason_code,
            repay_debt=repay_debt,
            labels=labels,
        )

    def build(defaults: Defaults) -> grant_pb.GrantRequest:
        return grant_pb.GrantRequest(
            tenant=defaults.tenant,
            account=account,
            terms=terms(defaults),
            idempotency_key=key,
            durability=types_pb2.Durability.ValueType(durability),
        )

    return Call(GRANT + "Grant", build, decoder(grant_pb.GrantResponse, _grant_result))


def revoke(
    account: str, grant_id: str, reason_code: str, key: str, durability: Durability
) -> Call[records.RevokeResult]:
    """Takes back what a grant has left."""

    def build(defaults: Defaults) -> grant_pb.RevokeRequest:
        return grant_pb.RevokeRequest(
            tenant=defaults.tenant,
            account=account,
            grant_id=grant_id,
            reason_code=reason_code,
            idempotency_key=key,
            durability=types_pb2.Durability.ValueType(durability),
        )

    def read(answer: grant_pb.RevokeResponse) -> records.RevokeResult:
        buckets, applied = read_buckets(answer.buckets), read_applied(answer.applied)
        return records.RevokeResult(answer.revoked, answer.still_held, buckets, applied)

    return Call(GRANT + "Revoke", build, decoder(grant_pb.RevokeResponse, read))


def list_grants(account: str, credit_type: str, page_token: str) -> Call[Page[records.Grant]]:
    """One page of the grants of an account."""

    def build(defaults: Defaults) -> grant_pb.ListGrantsRequest:
        return grant_pb.ListGrantsRequest(
            tenant=defaults.tenant,
            account=account,
            credit_type=credit_type,
            page_size=PAGE_SIZE,
            page_token=page_token,
        )

    def read(answer: grant_pb.ListGrantsResponse) -> Page[records.Grant]:
        return Page(tuple(map(_grant, answer.grants)), answer.next_page_token)

    return Call(GRANT + "ListGrants", build, decoder(grant_pb.ListGrantsResponse, read))


def _account(message: pb.Account) -> records.Account:
    return records.Account(
        message.account,
        message.parent,
        message.root,
        message.display_name,
        AccountStatus(message.status),
        dict(message.overdraft_limits),
        tuple(map(read_limit, message.limits)),
        message.zone,
        dict(message.labels),
        message.version,
        milliseconds(message.created_at),
    )


def _credit_type(message: types_pb2.CreditType) -> records.CreditType:
    return records.CreditType(message.credit_type, message.display_name, message.scale)


def _grant_result(answer: grant_pb.GrantResponse) -> records.GrantResult:
    buckets, applied = read_buckets(answer.buckets), read_applied(answer.applied)
    return records.GrantResult(answer.grant_id, answer.debt_repaid, buckets, applied)


def _grant(message: grant_pb.Grant) -> records.Grant:
    return records.Grant(
        message.grant_id,
        message.account,
        _terms(message.terms),
        message.remaining,
        message.held,
        message.burned,
        message.expired,
        message.revoked,
        message.issuer,
        milliseconds(message.granted_at),
        message.transaction_id,
    )


def _terms(message: grant_pb.GrantTerms) -> records.GrantTerms:
    return records.GrantTerms(
        message.credit_type,
        message.amount,
        GrantSource(message.source),
        message.priority,
        milliseconds(message.effective_at),
        milliseconds(message.expires_at),
        message.cost_basis.amount,
        message.cost_basis.currency,
        message.reason_code,
        message.repay_debt or not message.HasField("repay_debt"),
        dict(message.labels),
    )
