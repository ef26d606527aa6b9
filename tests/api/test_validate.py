"""Forms of requests that the abuse matrix has no row for: accounts, limits, grants, policies."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from holdfast.v1 import account_service_pb2 as account_messages
from holdfast.v1 import balance_service_pb2 as balance_messages
from holdfast.v1 import control_service_pb2 as control_messages
from holdfast.v1 import grant_service_pb2 as grant_messages
from holdfast.v1 import ledger_service_pb2 as ledger_messages
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.form import Form
from holdfast_server.api.validate import accounts, batches, grants, policies, reads, spending
from holdfast_server.domain import entry, operation, policy, reply
from holdfast_server.domain.bounds import AMOUNT_MAX, WINDOW_MS_MAX
from holdfast_server.errors import HoldfastError, Reason

#: Every enum that the domain shares with the proto, and the prefix of its names there.
ENUMS: list[tuple[type[IntEnum], Any, str]] = [
    (operation.Fit, types.Fit, "FIT_"),
    (operation.Overage, types.Overage, "OVERAGE_"),
    (operation.Durability, types.Durability, "DURABILITY_"),
    (operation.Mode, types.Mode, "MODE_"),
    (operation.GrantSource, types.GrantSource, "GRANT_SOURCE_"),
    (operation.AccountStatus, account_messages.AccountStatus, "ACCOUNT_STATUS_"),
    (operation.LimitUnit, types.Limit.Unit, "UNIT_"),
    (operation.LimitWindow, types.Limit.Window, "WINDOW_"),
    (operation.LimitEnforcement, types.Limit.Enforcement, "ENFORCEMENT_"),
    (reply.Outcome, types.Outcome, "OUTCOME_"),
    (reply.HoldState, types.HoldState, "HOLD_STATE_"),
    (reply.WarningKind, types.Warning.Kind, "KIND_"),
    (entry.EntryKind, ledger_messages.EntryKind, "ENTRY_KIND_"),
    (policy.ScopeKind, control_messages.Scope.Kind, "KIND_"),
    (policy.StoreUnavailableKind, control_messages.StoreUnavailablePolicy.Kind, "KIND_"),
]


@pytest.mark.parametrize(("ours", "of_proto", "prefix"), ENUMS)
def test_enums_have_the_names_and_numbers_of_the_proto(
    ours: type[IntEnum], of_proto: Any, prefix: str
) -> None:
    named = {name.removeprefix(prefix): number for name, number in of_proto.items() if number}
    assert named == {member.name: member.value for member in ours}


def limit(**changes: Any) -> types.Limit:
    """A limit that is right, but for the changes."""
    fields = {
        "limit_id": "daily",
        "unit": types.Limit.UNIT_REQUESTS,
        "window": types.Limit.WINDOW_CALENDAR_DAY,
        "maximum": 100,
        "enforcement": types.Limit.ENFORCEMENT_HARD,
        **changes,
    }
    return types.Limit(**fields)


def sliding(window_ms: int) -> types.Limit:
    return limit(window=types.Limit.WINDOW_SLIDING, window_ms=window_ms)


def creation(**terms: Any) -> account_messages.CreateAccountRequest:
    """A CreateAccount that is right, but for the terms."""
    account = account_messages.Account(**{"account": "a", **terms})
    return account_messages.CreateAccountRequest(account=account, idempotency_key="k")


def grant_of(**terms: Any) -> grant_messages.GrantRequest:
    """A Grant that is right, but for the terms."""
    right = {"credit_type": "ai", "amount": 1, "source": types.GRANT_SOURCE_PLAN}
    return grant_messages.GrantRequest(
        account="a", terms=grant_messages.GrantTerms(**{**right, **terms}), idempotency_key="k"
    )


def policy_of(**fields: Any) -> control_messages.SetPolicyRequest:
    """A SetPolicy that is right, but for the fields."""
    scope = control_messages.Scope(kind=control_messages.Scope.KIND_TENANT)
    right = {"scope": scope, "mode": types.MODE_SHADOW}
    return control_messages.SetPolicyRequest(
        policy=control_messages.Policy(**{**right, **fields}), reason="why", idempotency_key="k"
    )


def at(seconds: int, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=seconds, nanos=nanos)


AMOUNT_LIMIT = {"unit": types.Limit.UNIT_AMOUNT, "credit_type": "ai"}
BURST = {"window": types.Limit.WINDOW_BURST, "window_ms": 1_000}
BOUNDED = control_messages.StoreUnavailablePolicy.KIND_ALLOW_BOUNDED

WRONG_ACCOUNTS: list[tuple[dict[str, Any], Reason, str]] = [
    ({"display_name": "x" * 129}, Reason.FIELD_INVALID, "account.display_name"),
    ({"display_name": "\u00e9" * 65}, Reason.FIELD_INVALID, "account.display_name"),
    ({"display_name": "\0"}, Reason.FIELD_INVALID, "account.display_name"),
    ({"status": 9}, Reason.ENUM_UNKNOWN, "account.status"),
    ({"zone": "Mars/Base"}, Reason.FIELD_INVALID, "account.zone"),
    ({"zone": "../../etc/passwd"}, Reason.FIELD_INVALID, "account.zone"),
    ({"overdraft_limits": {"ai": -1}}, Reason.AMOUNT_NOT_POSITIVE, "account.overdraft_limits"),
    ({"overdraft_limits": {"a:i": 1}}, Reason.ID_INVALID, "account.overdraft_limits"),
    ({"overdraft_limits": {"ai": 2**53}}, Reason.AMOUNT_TOO_LARGE, "account.overdraft_limits"),
    (
        {"overdraft_limits": {f"c{n}": 1 for n in range(65)}},
        Reason.FIELD_INVALID,
        "account.overdraft_limits",
    ),
    (
        {"limits": [limit(limit_id=f"l{n}") for n in range(17)]},
        Reason.ACCOUNT_FULL,
        "account.limits",
    ),
    ({"limits": [limit(), limit()]}, Reason.FIELD_INVALID, "account.limits"),
    ({"limits": [limit(limit_id="")]}, Reason.ID_INVALID, "account.limits[0].limit_id"),
    ({"limits": [limit(unit=0)]}, Reason.ENUM_UNKNOWN, "account.limits[0].unit"),
    ({"limits": [limit(window=0)]}, Reason.ENUM_UNKNOWN, "account.limits[0].window"),
    ({"limits": [limit(enforcement=0)]}, Reason.ENUM_UNKNOWN, "account.limits[0].enforcement"),
    ({"limits": [limit(maximum=0)]}, Reason.AMOUNT_NOT_POSITIVE, "account.limits[0].maximum"),
    ({"limits": [limit(credit_type="ai")]}, Reason.FIELD_INVALID, "account.limits[0].credit_type"),
    (
        {"limits": [limit(unit=types.Limit.UNIT_AMOUNT)]},
        Reason.ID_INVALID,
        "account.limits[0].credit_type",
    ),
    ({"limits": [limit(window_ms=5)]}, Reason.FIELD_INVALID, "account.limits[0].window_ms"),
    ({"limits": [sliding(999)]}, Reason.FIELD_INVALID, "account.limits[0].window_ms"),
    ({"limits": [sliding(WINDOW_MS_MAX + 1)]}, Reason.FIELD_INVALID, "account.limits[0].window_ms"),
    (
        {"limits": [limit(**BURST, maximum=AMOUNT_MAX // 1_000 + 1)]},
        Reason.AMOUNT_TOO_LARGE,
        "account.limits[0].maximum",
    ),
    *(
        (
            {"limits": [limit(warn_percents=percents)]},
            Reason.FIELD_INVALID,
            "account.limits[0].warn_percents",
        )
        for percents in ([0], [101], [80, 80], [95, 80], [1, 2, 3, 4, 5], [-1])
    ),
]
WRONG_GRANTS: list[tuple[dict[str, Any], Reason, str]] = [
    ({"priority": 1_001}, Reason.FIELD_INVALID, "terms.priority"),
    ({"priority": -1_001}, Reason.FIELD_INVALID, "terms.priority"),
    ({"expires_at": at(0)}, Reason.FIELD_INVALID, "terms.expires_at"),
    ({"expires_at": at(-1)}, Reason.FIELD_INVALID, "terms.expires_at"),
    ({"expires_at": at(2**62)}, Reason.FIELD_INVALID, "terms.expires_at"),
    ({"expires_at": at(5, -1)}, Reason.FIELD_INVALID, "terms.expires_at"),
    ({"expires_at": at(5, 10**9)}, Reason.FIELD_INVALID, "terms.expires_at"),
    ({"effective_at": at(-(2**62))}, Reason.FIELD_INVALID, "terms.effective_at"),
    ({"effective_at": at(9), "expires_at": at(9)}, Reason.FIELD_INVALID, "terms.expires_at"),
    ({"reason_code": "a b"}, Reason.ID_INVALID, "terms.reason_code"),
    (
        {"cost_basis": types.CostBasis(amount=-1)},
        Reason.AMOUNT_NOT_POSITIVE,
        "terms.cost_basis.amount",
    ),
    *(
        (
            {"cost_basis": types.CostBasis(amount=amount, currency=currency)},
            Reason.FIELD_INVALID,
            "terms.cost_basis.currency",
        )
        for amount, currency in ((1, ""), (1, "eur"), (1, "EURO"), (1, "EU\n"), (0, "EUR"))
    ),
]
WRONG_POLICIES: list[tuple[dict[str, Any], Reason, str]] = [
    ({"idempotency_window_ms": 59_999}, Reason.FIELD_INVALID, "policy.idempotency_window_ms"),
    ({"idempotency_window_ms": 86_400_001}, Reason.FIELD_INVALID, "policy.idempotency_window_ms"),
    ({"idempotency_window_ms": -1}, Reason.FIELD_INVALID, "policy.idempotency_window_ms"),
    (
        {"store_unavailable": control_messages.StoreUnavailablePolicy(kind=BOUNDED)},
        Reason.AMOUNT_NOT_POSITIVE,
        "policy.store_unavailable.bound_amount",
    ),
    (
        {"store_unavailable": control_messages.StoreUnavailablePolicy(bound_amount=5)},
        Reason.FIELD_INVALID,
        "policy.store_unavailable.bound_amount",
    ),
    ({"mode": 4}, Reason.ENUM_UNKNOWN, "policy.mode"),
]


def check_refused(read: Callable[[], object], reason: Reason, field: str) -> None:
    with pytest.raises(HoldfastError) as caught:
        read()
    assert caught.value.reason is reason
    assert caught.value.metadata["field"] == field


@pytest.mark.parametrize(("terms", "reason", "field"), WRONG_ACCOUNTS)
def test_wrong_accounts(terms: dict[str, Any], reason: Reason, field: str) -> None:
    check_refused(lambda: accounts.create_account("t", creation(**terms)), reason, field)


@pytest.mark.parametrize(("terms", "reason", "field"), WRONG_ACCOUNTS)
def test_an_update_is_judged_by_what_it_changes(
    terms: dict[str, Any], reason: Reason, field: str
) -> None:
    """Whoever sends back a whole account must not be refused for what is not theirs to repair."""
    request = account_messages.UpdateAccountRequest(
        account=creation(labels={"plan": "pro"}, **terms).account, idempotency_key="k"
    )
    request.update_mask.paths.append("labels")
    update = accounts.update_account("t", request)
    assert update.terms == operation.AccountTerms(labels={"plan": "pro"})
    request.update_mask.paths.append(field.removeprefix("account.").partition("[")[0])
    check_refused(lambda: accounts.update_account("t", request), reason, field)


@pytest.mark.parametrize(("terms", "reason", "field"), WRONG_GRANTS)
def test_wrong_grants(terms: dict[str, Any], reason: Reason, field: str) -> None:
    check_refused(lambda: grants.grant("t", grant_of(**terms)), reason, field)


@pytest.mark.parametrize(("fields", "reason", "field"), WRONG_POLICIES)
def test_wrong_policies(fields: dict[str, Any], reason: Reason, field: str) -> None:
    check_refused(lambda: policies.set_policy("t", policy_of(**fields)), reason, field)


def reserve(**changes: Any) -> operation.Reserve:
    """What a Reserve means that is right, but for the changes."""
    right = {"account": "a", "lines": lines(1), "ttl_ms": 60_000, "idempotency_key": "k"}
    return spending.reserve("t", balance_messages.ReserveRequest(**{**right, **changes}))


def lines(count: int, amount: int = 1) -> list[types.Line]:
    return [types.Line(credit_type=f"c{number}", amount=amount) for number in range(count)]


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (lambda: reserve(lines=lines(1, AMOUNT_MAX + 1)), {"maximum": AMOUNT_MAX}),
        (lambda: reserve(lines=lines(9)), {"maximum": 8}),
        (lambda: reserve(ttl_ms=999), {"minimum_ms": 1_000, "maximum_ms": 86_400_000}),
        (lambda: reserve(labels={str(number): "" for number in range(17)}), {"maximum": 16}),
        (lambda: reserve(labels={"k" * 65: ""}), {"maximum": 64}),
        (lambda: reserve(labels={"k": "v" * 257}), {"maximum": 256}),
        (lambda: grants.grant("t", grant_of(priority=1_001)), {"maximum": 1_000}),
        *(
            (lambda terms=terms: accounts.create_account("t", creation(**terms)), told)
            for terms, told in (
                ({"display_name": "x" * 129}, {"maximum": 128}),
                ({"limits": [limit(limit_id=f"l{n}") for n in range(17)]}, {"maximum": 16}),
                ({"limits": [limit(**BURST, maximum=2**50)]}, {"maximum": AMOUNT_MAX // 1_000}),
                ({"overdraft_limits": {f"c{n}": 1 for n in range(65)}}, {"maximum": 64}),
            )
        ),
        (
            lambda: batches.check_size([balance_messages.BatchItem()] * 1_001),
            {"maximum": 1_000, "items": 1_001},
        ),
    ],
)
def test_a_refusal_tells_the_bound(read: Callable[[], object], told: dict[str, int]) -> None:
    with pytest.raises(HoldfastError) as caught:
        read()
    found = {name: caught.value.metadata.get(name) for name in told}
    assert found == {name: str(bound) for name, bound in told.items()}


@pytest.mark.parametrize("paths", [[], ["root"], ["zone", "version"], ["account"], [""]])
def test_wrong_update_masks(paths: list[str]) -> None:
    request = account_messages.UpdateAccountRequest(
        account=account_messages.Account(account="a"), idempotency_key="k"
    )
    request.update_mask.paths.extend(paths)
    check_refused(
        lambda: accounts.update_account("t", request), Reason.FIELD_INVALID, "update_mask"
    )


def test_an_update_of_the_status_says_which() -> None:
    request = account_messages.UpdateAccountRequest(
        account=account_messages.Account(account="a"), idempotency_key="k"
    )
    request.update_mask.paths.append("status")
    check_refused(
        lambda: accounts.update_account("t", request), Reason.ENUM_UNKNOWN, "account.status"
    )


def test_the_update_mask_names_exactly_the_terms_of_an_account() -> None:
    terms = operation.AccountTerms.__dataclass_fields__.keys()
    assert terms == accounts.UPDATABLE_FIELDS


def test_a_right_account_is_read_as_it_is() -> None:
    read = accounts.create_account(
        "t",
        creation(
            parent="p",
            zone="Europe/Berlin",
            overdraft_limits={"b": 2, "a": 0},
            limits=[limit(**AMOUNT_LIMIT, warn_percents=[50, 100]), limit(limit_id="x", **BURST)],
            labels={"z": "1", "a": "2"},
        ),
    )
    terms = read.terms
    assert terms.status is operation.AccountStatus.ACTIVE
    assert list(terms.overdraft_limits.items()) == [("a", 0), ("b", 2)]
    assert list(terms.labels) == ["a", "z"]
    assert [each.warn_percents for each in terms.limits] == [(50, 100), (80, 95)]
    assert [each.window_ms for each in terms.limits] == [0, 1_000]


def test_a_right_grant_is_read_as_it_is() -> None:
    read = grants.grant(
        "t",
        grant_of(
            expires_at=at(1_800_000_000, 999_999),
            cost_basis=types.CostBasis(amount=5, currency="EUR"),
        ),
    )
    assert read.durability is None
    assert read.terms.expires_at_ms == 1_800_000_000_000
    assert read.terms.effective_at_ms == 0
    assert read.terms.repay_debt
    assert (read.terms.cost_amount, read.terms.cost_currency) == (5, "EUR")


def test_a_commit_is_final_unless_it_says_otherwise() -> None:
    request = balance_messages.CommitRequest(hold_id="h", idempotency_key="k")
    assert spending.commit("t", request).final
    request.final = False
    request.ttl_ms = 5_000
    assert not spending.commit("t", request).final
    request.final = True
    check_refused(lambda: spending.commit("t", request), Reason.FIELD_INVALID, "ttl_ms")


def test_a_goodwill_grant_lives_up_to_ten_years() -> None:
    request = balance_messages.RefundRequest(transaction_id="1-1-1", idempotency_key="k")
    assert spending.refund("t", request).goodwill_ttl_ms == 0
    for ttl_ms in (999, -1, 11 * 366 * 86_400_000):
        request.goodwill_ttl_ms = ttl_ms
        check_refused(
            lambda: spending.refund("t", request), Reason.TTL_OUT_OF_RANGE, "goodwill_ttl_ms"
        )


def test_an_explanation_needs_a_subject() -> None:
    check_refused(
        lambda: reads.explained(ledger_messages.ExplainRequest()),
        Reason.FIELD_INVALID,
        "subject",
    )


@given(st.lists(st.sampled_from([reason for reason in Reason if reason.value > 20]), min_size=1))
def test_a_form_names_the_fault_of_highest_precedence(reasons: list[Reason]) -> None:
    form = Form()
    for reason in reasons:
        form.refuse(reason, "wrong")
    with pytest.raises(HoldfastError) as caught:
        form.settle()
    assert caught.value.reason is min(reasons)
