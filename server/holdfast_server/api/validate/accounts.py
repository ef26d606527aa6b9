"""Requests about accounts and credit types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from google.protobuf.field_mask_pb2 import FieldMask

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.form import Form
from holdfast_server.domain import bounds
from holdfast_server.domain.operation import (
    AccountStatus,
    AccountTerms,
    CreateAccount,
    Limit,
    LimitEnforcement,
    LimitUnit,
    LimitWindow,
    UpdateAccount,
)
from holdfast_server.errors import Reason

#: What an update mask may name: the fields that the owner of an account sets.
UPDATABLE_FIELDS = frozenset(
    {"parent", "display_name", "status", "overdraft_limits", "limits", "zone", "labels"}
)
#: The highest warn threshold: a limit that is used up.
PERCENT_MAX = 100

_MEASURED_WINDOWS = (LimitWindow.SLIDING, LimitWindow.BURST)


def create_account(tenant: str, request: accounts.CreateAccountRequest) -> CreateAccount:
    """A CreateAccount. What the server sets is ignored."""
    form = Form()
    operation = CreateAccount(
        tenant=tenant,
        account=form.identifier(request.account.account, "account.account"),
        terms=_terms(form, request.account),
        key=form.idempotency_key(request.idempotency_key),
    )
    form.settle()
    return operation


def update_account(tenant: str, request: accounts.UpdateAccountRequest) -> UpdateAccount:
    """An UpdateAccount of at least one field."""
    form = Form()
    fields = _mask(form, request.update_mask.paths)
    if "status" in fields:
        form.choice(AccountStatus, request.account.status, "account.status")
    operation = UpdateAccount(
        tenant=tenant,
        account=form.identifier(request.account.account, "account.account"),
        terms=_terms(form, _only(request.account, fields)),
        fields=fields,
        key=form.idempotency_key(request.idempotency_key),
        expected_version=form.number(
            request.expected_version, "expected_version", 0, bounds.AMOUNT_MAX
        ),
    )
    form.settle()
    return operation


def credit_type(request: accounts.CreateCreditTypeRequest) -> tuple[str, str, int]:
    """Code, display name and scale of a new credit type."""
    form = Form()
    asked = request.credit_type
    checked = (
        form.credit_type(asked.credit_type, "credit_type.credit_type"),
        form.text(asked.display_name, "credit_type.display_name", bounds.DISPLAY_NAME_BYTES_MAX),
        form.number(asked.scale, "credit_type.scale", 0, bounds.SCALE_MAX),
    )
    form.settle()
    return checked


def _mask(form: Form, paths: Sequence[str]) -> frozenset[str]:
    named = frozenset(paths)
    if not named or not named <= UPDATABLE_FIELDS:
        allowed = ", ".join(sorted(UPDATABLE_FIELDS))
        form.invalid("update_mask", f"must name at least one of {allowed}, and nothing else")
    return named & UPDATABLE_FIELDS


def _only(account: accounts.Account, fields: frozenset[str]) -> accounts.Account:
    """What an update takes of an account. Of the rest nothing counts, not even whether it is right:
    an account that was read may be sent back whole."""
    taken = accounts.Account()
    FieldMask(paths=fields).MergeMessage(account, taken)
    return taken


def _terms(form: Form, account: accounts.Account) -> AccountTerms:
    return AccountTerms(
        parent=form.optional_identifier(account.parent, "account.parent"),
        display_name=form.text(
            account.display_name, "account.display_name", bounds.DISPLAY_NAME_BYTES_MAX
        ),
        status=form.choice(AccountStatus, account.status, "account.status", AccountStatus.ACTIVE),
        overdraft_limits=_overdrafts(form, account.overdraft_limits),
        limits=_limits(form, account.limits),
        zone=form.zone(account.zone, "account.zone"),
        labels=form.labels(account.labels, "account.labels"),
    )


def _overdrafts(form: Form, amounts: Mapping[str, int]) -> dict[str, int]:
    field = "account.overdraft_limits"
    if len(amounts) > bounds.CREDIT_TYPES_MAX:
        maximum = bounds.CREDIT_TYPES_MAX
        form.invalid(field, f"may have at most {maximum} entries", maximum=maximum)
        return {}
    return {
        form.credit_type(code, field): form.amount(amount, field, minimum=0)
        for code, amount in sorted(amounts.items())
    }


def _limits(form: Form, limits: Sequence[types.Limit]) -> tuple[Limit, ...]:
    maximum = bounds.LIMITS_MAX
    if len(limits) > maximum:
        message = f"An account may have at most {maximum} limits."
        form.refuse(Reason.ACCOUNT_FULL, message, field="account.limits", maximum=maximum)
    elif len({limit.limit_id for limit in limits}) < len(limits):
        form.invalid("account.limits", "must not use a limit_id twice")
    return tuple(_limit(form, index, limit) for index, limit in enumerate(limits[:maximum]))


def _limit(form: Form, index: int, limit: types.Limit) -> Limit:
    field = f"account.limits[{index}]"
    unit = form.choice(LimitUnit, limit.unit, f"{field}.unit")
    window = form.choice(LimitWindow, limit.window, f"{field}.window")
    return Limit(
        limit_id=form.identifier(limit.limit_id, f"{field}.limit_id"),
        unit=unit,
        window=window,
        maximum=_maximum(form, limit, window, f"{field}.maximum"),
        enforcement=form.choice(LimitEnforcement, limit.enforcement, f"{field}.enforcement"),
        window_ms=_window_ms(form, limit.window_ms, window, f"{field}.window_ms"),
        credit_type=_counted(form, limit.credit_type, unit, f"{field}.credit_type"),
        feature=form.optional_identifier(limit.feature, f"{field}.feature"),
        warn_percents=_warn_percents(form, limit.warn_percents, f"{field}.warn_percents"),
    )


def _maximum(form: Form, limit: types.Limit, window: LimitWindow, field: str) -> int:
    maximum = form.amount(limit.maximum, field)
    if window is LimitWindow.BURST and maximum * max(limit.window_ms, 1) > bounds.AMOUNT_MAX:
        form.too_large(field, bounds.AMOUNT_MAX // max(limit.window_ms, 1))
    return maximum


def _window_ms(form: Form, value_ms: int, window: LimitWindow, field: str) -> int:
    if window in _MEASURED_WINDOWS:
        return form.number(value_ms, field, bounds.WINDOW_MS_MIN, bounds.WINDOW_MS_MAX)
    if value_ms:
        form.invalid(field, "must be 0 for a calendar window")
    return 0


def _counted(form: Form, code: str, unit: LimitUnit, field: str) -> str:
    if unit is LimitUnit.AMOUNT:
        return form.credit_type(code, field)
    if code:
        form.invalid(field, "must be empty where requests are counted")
    return ""


def _warn_percents(form: Form, percents: Sequence[int], field: str) -> tuple[int, ...]:
    if not percents:
        return bounds.WARN_PERCENTS_DEFAULT
    checked = tuple(percents[: bounds.WARN_PERCENTS_MAX])
    rising = all(low < high for low, high in pairwise(checked))
    if (
        len(percents) > len(checked)
        or not rising
        or not 1 <= checked[0] <= checked[-1] <= PERCENT_MAX
    ):
        maximum = bounds.WARN_PERCENTS_MAX
        form.invalid(field, f"must be at most {maximum} rising figures from 1 to 100")
    return checked
