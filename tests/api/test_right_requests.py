"""What a request says is what is done: each field of each mutation reaches its operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1 import account_service_pb2 as account_messages
from holdfast.v1 import balance_service_pb2 as messages
from holdfast.v1 import control_service_pb2 as control_messages
from holdfast.v1 import grant_service_pb2 as grant_messages
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.validate import accounts, grants, policies, spending
from holdfast_server.control.policies import SetPolicy
from holdfast_server.domain import operation as op
from holdfast_server.domain import policy

GRANT_ID = "0a" * 16
LABELS = {"k": "v"}
LEDGER: dict[str, Any] = {"idempotency_key": "k", "durability": types.DURABILITY_LEDGER}
ASKED: dict[str, Any] = {
    "account": "a",
    "lines": [
        types.Line(credit_type="ai", amount=5, minimum_amount=2),
        types.Line(credit_type="video", amount=7),
    ],
    "feature": "chat",
    "labels": LABELS,
    "fit": types.FIT_UP_TO,
    **LEDGER,
}
LINES = (op.Line("ai", 5, 2), op.Line("video", 7))
LIMIT = types.Limit(
    limit_id="l",
    unit=types.Limit.UNIT_AMOUNT,
    window=types.Limit.WINDOW_SLIDING,
    maximum=9,
    enforcement=types.Limit.ENFORCEMENT_SOFT,
    window_ms=60_000,
    credit_type="ai",
    feature="chat",
    warn_percents=[50],
)
ACCOUNT = account_messages.Account(
    account="a",
    parent="p",
    display_name="A",
    status=account_messages.ACCOUNT_STATUS_FROZEN,
    overdraft_limits={"ai": 3},
    limits=[LIMIT],
    zone="Asia/Tokyo",
    labels=LABELS,
)
TERMS = op.AccountTerms(
    "p",
    "A",
    op.AccountStatus.FROZEN,
    {"ai": 3},
    (
        op.Limit(
            "l",
            op.LimitUnit.AMOUNT,
            op.LimitWindow.SLIDING,
            9,
            op.LimitEnforcement.SOFT,
            60_000,
            "ai",
            "chat",
            (50,),
        ),
    ),
    "Asia/Tokyo",
    LABELS,
)
GIVEN = grant_messages.GrantTerms(
    credit_type="ai",
    amount=5,
    source=types.GRANT_SOURCE_SUPPORT,
    priority=-3,
    effective_at=Timestamp(seconds=1_800_000_000, nanos=7_900_000),
    expires_at=Timestamp(seconds=1_900_000_000),
    cost_basis=types.CostBasis(amount=4, currency="EUR"),
    reason_code="sorry",
    repay_debt=False,
    labels=LABELS,
)

#: How a request is read, one that says all it can, and what it means.
RIGHT: list[tuple[Callable[..., object], Message, object]] = [
    (
        spending.reserve,
        messages.ReserveRequest(ttl_ms=60_000, **ASKED),
        op.Reserve(
            "t", "a", LINES, 60_000, "k", "chat", LABELS, op.Fit.UP_TO, op.Durability.LEDGER
        ),
    ),
    (
        spending.burn,
        messages.BurnRequest(**ASKED),
        op.Burn("t", "a", LINES, "k", "chat", LABELS, op.Fit.UP_TO, op.Durability.LEDGER),
    ),
    (
        spending.commit,
        messages.CommitRequest(
            hold_id="h",
            lines=[
                messages.CommitLine(credit_type="ai", amount=0),
                messages.CommitLine(credit_type="video"),
            ],
            final=False,
            ttl_ms=5_000,
            overage=types.OVERAGE_REJECT,
            labels=LABELS,
            **LEDGER,
        ),
        op.Commit(
            "t",
            "h",
            "k",
            (op.CommitLine("ai", 0), op.CommitLine("video")),
            False,
            5_000,
            op.Overage.REJECT,
            LABELS,
            op.Durability.LEDGER,
        ),
    ),
    (
        spending.release,
        messages.ReleaseRequest(hold_id="h", reason="no use", **LEDGER),
        op.Release("t", "h", "k", "no use", op.Durability.LEDGER),
    ),
    (
        spending.extend,
        messages.ExtendRequest(hold_id="h", ttl_ms=5_000, idempotency_key="k"),
        op.Extend("t", "h", 5_000, "k"),
    ),
    (
        spending.refund,
        messages.RefundRequest(
            transaction_id="1-1-1",
            lines=[messages.RefundLine(credit_type="ai", amount=5)],
            reason_code="sorry",
            goodwill_ttl_ms=60_000,
            **LEDGER,
        ),
        op.Refund(
            "t", "1-1-1", "k", (op.RefundLine("ai", 5),), "sorry", 60_000, op.Durability.LEDGER
        ),
    ),
    (
        accounts.create_account,
        account_messages.CreateAccountRequest(account=ACCOUNT, idempotency_key="k"),
        op.CreateAccount("t", "a", TERMS, "k"),
    ),
    (
        accounts.update_account,
        account_messages.UpdateAccountRequest(
            account=ACCOUNT,
            update_mask=FieldMask(paths=["zone", "limits"]),
            expected_version=3,
            idempotency_key="k",
        ),
        op.UpdateAccount(
            "t",
            "a",
            op.AccountTerms(limits=TERMS.limits, zone=TERMS.zone),
            frozenset({"zone", "limits"}),
            "k",
            3,
        ),
    ),
    (
        grants.grant,
        grant_messages.GrantRequest(account="a", terms=GIVEN, **LEDGER),
        op.Grant(
            "t",
            "a",
            op.GrantTerms(
                "ai",
                5,
                op.GrantSource.SUPPORT,
                -3,
                1_800_000_000_007,
                1_900_000_000_000,
                4,
                "EUR",
                "sorry",
                False,
                LABELS,
            ),
            "k",
            op.Durability.LEDGER,
        ),
    ),
    (
        grants.revoke,
        grant_messages.RevokeRequest(account="a", grant_id=GRANT_ID, reason_code="fraud", **LEDGER),
        op.Revoke("t", "a", GRANT_ID, "k", "fraud", op.Durability.LEDGER),
    ),
    (
        policies.set_policy,
        control_messages.SetPolicyRequest(
            policy=control_messages.Policy(
                scope=control_messages.Scope(
                    kind=control_messages.Scope.KIND_FEATURE, value="chat"
                ),
                mode=types.MODE_SHADOW,
                evaluate_percent=0,
                enforce_percent=7,
                store_unavailable=control_messages.StoreUnavailablePolicy(
                    kind=control_messages.StoreUnavailablePolicy.KIND_ALLOW_BOUNDED,
                    bound_amount=9,
                ),
                idempotency_window_ms=60_000,
            ),
            expected_version=3,
            reason="why",
            expires_in_ms=5_000,
            force=True,
            idempotency_key="k",
        ),
        SetPolicy(
            policy.Policy(
                scope=policy.Scope(policy.ScopeKind.FEATURE, "t", "chat"),
                mode=op.Mode.SHADOW,
                evaluate_percent=0,
                enforce_percent=7,
                store_unavailable=policy.StoreUnavailable(
                    policy.StoreUnavailableKind.ALLOW_BOUNDED, 9
                ),
                idempotency_window_ms=60_000,
            ),
            3,
            "why",
            "k",
            5_000,
            True,
        ),
    ),
]


@pytest.mark.parametrize(("read", "said", "meant"), RIGHT, ids=lambda each: type(each).__name__)
def test_what_a_request_says_is_what_is_done(
    read: Callable[..., object], said: Message, meant: object
) -> None:
    told = {field.name for field, _ in said.ListFields()}
    assert told | {"tenant"} == {field.name for field in said.DESCRIPTOR.fields}
    assert read("t", said) == meant
