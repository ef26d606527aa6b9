"""Requests about policies. The rules that tie fields to each other are in `domain.policy`."""

from __future__ import annotations

from holdfast.v1 import control_service_pb2 as control
from holdfast_server.api.form import Form
from holdfast_server.control.policies import SetPolicy
from holdfast_server.domain import bounds
from holdfast_server.domain.operation import Mode
from holdfast_server.domain.policy import (
    PERCENT_MAX,
    Policy,
    Scope,
    ScopeKind,
    StoreUnavailable,
    StoreUnavailableKind,
)
from holdfast_server.errors import Reason

#: The shortest life of a policy that reverts by itself.
_EXPIRY_MS_MIN = 1_000


def set_policy(tenant: str, request: control.SetPolicyRequest) -> SetPolicy:
    """A SetPolicy. `tenant` is empty for the global scope."""
    form = Form()
    asked = SetPolicy(
        policy=_policy(form, tenant, request.policy),
        expected_version=form.number(
            request.expected_version, "expected_version", 0, bounds.AMOUNT_MAX
        ),
        reason=form.text(request.reason, "reason", bounds.REASON_BYTES_MAX),
        key=form.idempotency_key(request.idempotency_key),
        expires_in_ms=form.optional_ttl(
            request.expires_in_ms, "expires_in_ms", _EXPIRY_MS_MIN, bounds.POLICY_EXPIRY_MS_MAX
        ),
        force=request.force,
    )
    if not asked.reason:
        form.invalid("reason", "must say why")
    form.settle()
    return asked


def scope(tenant: str, asked: control.Scope) -> Scope:
    """The scope of a GetPolicy."""
    form = Form()
    found = _scope(form, tenant, asked, "scope")
    form.settle()
    return found


def changes(request: control.ListPolicyChangesRequest) -> int:
    """How many changes to list."""
    form = Form()
    limit = form.page_size(request.page_size)
    form.settle()
    return limit


def is_global(asked: control.Scope) -> bool:
    """Whether a scope is every tenant's."""
    return asked.kind == control.Scope.KIND_GLOBAL


def _policy(form: Form, tenant: str, policy: control.Policy) -> Policy:
    evaluate = policy.evaluate_percent if policy.HasField("evaluate_percent") else PERCENT_MAX
    enforce = policy.enforce_percent if policy.HasField("enforce_percent") else PERCENT_MAX
    return Policy(
        scope=_scope(form, tenant, policy.scope, "policy.scope"),
        mode=form.choice(Mode, policy.mode, "policy.mode"),
        evaluate_percent=_percent(form, evaluate, "policy.evaluate_percent"),
        enforce_percent=_percent(form, enforce, "policy.enforce_percent"),
        store_unavailable=_store_unavailable(form, policy.store_unavailable),
        idempotency_window_ms=_window_ms(form, policy.idempotency_window_ms),
    )


def _scope(form: Form, tenant: str, asked: control.Scope, field: str) -> Scope:
    kind = form.choice(ScopeKind, asked.kind, f"{field}.kind")
    if kind is ScopeKind.CREDIT_TYPE:
        form.credit_type(asked.value, f"{field}.value")
    elif kind > ScopeKind.TENANT:
        form.identifier(asked.value, f"{field}.value")
    elif asked.value:
        form.invalid(f"{field}.value", "must be empty at global and tenant scope")
    return Scope(kind, "" if kind is ScopeKind.GLOBAL else tenant, asked.value)


def _percent(form: Form, value: int, field: str) -> int:
    if not 0 <= value <= PERCENT_MAX:
        message = f"{field} must be 0 to {PERCENT_MAX}."
        form.refuse(Reason.ROLLOUT_OUT_OF_RANGE, message, field=field)
    return value


def _store_unavailable(form: Form, rule: control.StoreUnavailablePolicy) -> StoreUnavailable:
    field = "policy.store_unavailable"
    kind = form.choice(StoreUnavailableKind, rule.kind, f"{field}.kind", StoreUnavailableKind.DENY)
    if kind is StoreUnavailableKind.ALLOW_BOUNDED:
        return StoreUnavailable(kind, form.amount(rule.bound_amount, f"{field}.bound_amount"))
    if rule.bound_amount:
        form.invalid(f"{field}.bound_amount", "is for KIND_ALLOW_BOUNDED")
    return StoreUnavailable(kind)


def _window_ms(form: Form, value_ms: int) -> int:
    if value_ms == 0:
        return 0
    return form.number(
        value_ms,
        "policy.idempotency_window_ms",
        bounds.IDEMPOTENCY_WINDOW_MS_MIN,
        bounds.IDEMPOTENCY_WINDOW_MS_MAX,
    )
