"""Numbers and fields of the client are those of the protocol."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from google.protobuf.descriptor import EnumDescriptor

import holdfast
from holdfast import InternalError, _channel, kinds
from holdfast._wire import milliseconds, read_decision, reason_name, timestamp
from holdfast.v1 import (
    account_service_pb2,
    balance_service_pb2,
    control_service_pb2,
    grant_service_pb2,
    ledger_service_pb2,
    types_pb2,
)
from holdfast_server.api import transport

ENUMS: list[tuple[type[kinds._Kind], Any, str]] = [
    (holdfast.Outcome, types_pb2.Outcome, "OUTCOME_"),
    (holdfast.Overage, types_pb2.Overage, "OVERAGE_"),
    (holdfast.Durability, types_pb2.Durability, "DURABILITY_"),
    (holdfast.Mode, types_pb2.Mode, "MODE_"),
    (holdfast.HoldState, types_pb2.HoldState, "HOLD_STATE_"),
    (holdfast.WarningKind, types_pb2.Warning.Kind, "KIND_"),
    (holdfast.AccountStatus, account_service_pb2.AccountStatus, "ACCOUNT_STATUS_"),
    (holdfast.LimitUnit, types_pb2.Limit.Unit, "UNIT_"),
    (holdfast.LimitWindow, types_pb2.Limit.Window, "WINDOW_"),
    (holdfast.LimitEnforcement, types_pb2.Limit.Enforcement, "ENFORCEMENT_"),
    (holdfast.GrantSource, types_pb2.GrantSource, "GRANT_SOURCE_"),
    (holdfast.ScopeKind, control_service_pb2.Scope.Kind, "KIND_"),
    (holdfast.StoreUnavailable, control_service_pb2.StoreUnavailablePolicy.Kind, "KIND_"),
    (holdfast.EntryKind, ledger_service_pb2.EntryKind, "ENTRY_KIND_"),
]

#: Results that carry a message field by field. What differs in name is listed beside it.
MESSAGES: list[tuple[Any, Any, dict[str, str]]] = [
    (holdfast.Decision, types_pb2.Decision, {}),
    (holdfast.Shortfall, types_pb2.Shortfall, {}),
    (holdfast.Applied, types_pb2.Applied, {}),
    (holdfast.CreditWarning, types_pb2.Warning, {}),
    (holdfast.HeldLine, types_pb2.HeldLine, {}),
    (holdfast.SettledLine, types_pb2.SettledLine, {}),
    (holdfast.GrantShare, types_pb2.GrantShare, {}),
    (holdfast.OpenHold, types_pb2.Hold, {}),
    (holdfast.Limit, types_pb2.Limit, {}),
    (holdfast.LimitUse, types_pb2.LimitUse, {}),
    (holdfast.Buckets, types_pb2.Buckets, {}),
    (holdfast.CreditType, types_pb2.CreditType, {}),
    (holdfast.ReserveResult, balance_service_pb2.ReserveResponse, {}),
    (holdfast.CommitResult, balance_service_pb2.CommitResponse, {}),
    (holdfast.ReleaseResult, balance_service_pb2.ReleaseResponse, {}),
    (holdfast.ExtendResult, balance_service_pb2.ExtendResponse, {}),
    (holdfast.BurnResult, balance_service_pb2.BurnResponse, {}),
    (holdfast.RefundResult, balance_service_pb2.RefundResponse, {}),
    (holdfast.RefundedLine, balance_service_pb2.RefundedLine, {}),
    (holdfast.BalanceResult, balance_service_pb2.BalanceResponse, {}),
    (holdfast.CreditBalance, balance_service_pb2.CreditBalance, {}),
    (holdfast.GrantBalance, balance_service_pb2.GrantBalance, {}),
    (holdfast.Account, account_service_pb2.Account, {}),
    (holdfast.AccountResult, account_service_pb2.CreateAccountResponse, {}),
    (
        holdfast.GrantTerms,
        grant_service_pb2.GrantTerms,
        {"cost_basis": "cost_amount cost_currency"},
    ),
    (holdfast.GrantResult, grant_service_pb2.GrantResponse, {}),
    (holdfast.RevokeResult, grant_service_pb2.RevokeResponse, {}),
    (holdfast.Grant, grant_service_pb2.Grant, {}),
    (holdfast.Scope, control_service_pb2.Scope, {}),
    (
        holdfast.Policy,
        control_service_pb2.Policy,
        {"store_unavailable": "store_unavailable bound_amount"},
    ),
    (holdfast.Process, control_service_pb2.Process, {}),
    (holdfast.Fleet, control_service_pb2.GetFleetResponse, {}),
    (holdfast.Entry, ledger_service_pb2.Entry, {}),
    (holdfast.GrantPosting, ledger_service_pb2.GrantPosting, {}),
    (holdfast.CreditBalanceAt, ledger_service_pb2.CreditBalanceAt, {}),
    (holdfast.BalanceAt, ledger_service_pb2.GetBalanceAtResponse, {}),
    (holdfast.Explanation, ledger_service_pb2.ExplainResponse, {}),
    (holdfast.Verification, ledger_service_pb2.VerifyResponse, {}),
    (holdfast.Violation, ledger_service_pb2.Violation, {}),
]


@pytest.mark.parametrize(
    ("kind", "enum", "prefix"), ENUMS, ids=lambda value: getattr(value, "__name__", "")
)
def test_kinds_are_those_of_the_protocol(kind: Any, enum: Any, prefix: str) -> None:
    descriptor: EnumDescriptor = enum.DESCRIPTOR
    expected = {value.name.removeprefix(prefix): value.number for value in descriptor.values}
    assert {member.name: member.value for member in kind} == expected


@pytest.mark.parametrize(
    ("result", "message", "renamed"), MESSAGES, ids=lambda value: getattr(value, "__name__", "")
)
def test_results_carry_every_field_of_their_message(
    result: Any, message: Any, renamed: dict[str, str]
) -> None:
    expected = set()
    for field in message.DESCRIPTOR.fields:
        is_time = field.message_type is not None and field.message_type.name == "Timestamp"
        expected.update(renamed.get(field.name, field.name + ("_ms" if is_time else "")).split())
    assert {one.name for one in fields(result)} == expected


def test_a_number_that_this_release_does_not_know_is_never_a_yes() -> None:
    assert kinds.Mode(99) is kinds.Mode.UNSPECIFIED
    unknown = types_pb2.Decision(outcome=types_pb2.Outcome.ValueType(99))
    with pytest.raises(InternalError):
        read_decision(unknown)
    with pytest.raises(InternalError):
        read_decision(types_pb2.Decision())
    assert not holdfast.Decision(kinds.Outcome.UNSPECIFIED).allowed


def test_reasons_have_names() -> None:
    assert reason_name(113) == "INSUFFICIENT_CREDITS"
    assert reason_name(0) == ""
    assert reason_name(9_999) == "9999"


@pytest.mark.parametrize("instant_ms", [1, 999, 1_000, 1_700_000_000_123])
def test_times_survive(instant_ms: int) -> None:
    written = timestamp(instant_ms)
    assert written is not None
    assert milliseconds(written) == instant_ms
    assert timestamp(0) is None


def test_the_longest_answer_of_a_server_is_read() -> None:
    assert _channel.ANSWER_BYTES_MAX == transport.ANSWER_BYTES_MAX
