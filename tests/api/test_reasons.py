"""The list of reasons is one list: in the proto, in Python, and in what the proto says of each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.v1 import reason_pb2
from holdfast_server import errors
from holdfast_server.api.status import rpc_status
from holdfast_server.errors import STATUS_OF_REASON, HoldfastError, Reason

PROTO = Path(__file__).parents[2] / "proto" / "holdfast" / "v1" / "reason.proto"

#: Reasons that only ever travel in a Decision.
DENIALS_ONLY = {
    Reason.ACCOUNT_FROZEN,
    Reason.LIMIT_EXCEEDED,
    Reason.INSUFFICIENT_CREDITS,
    Reason.OVERAGE_REJECTED,
}


def documented() -> dict[str, str]:
    """The comment of each reason in the proto."""
    found = re.findall(r"((?:  // .*\n)+)  REASON_(\w+) = \d+;", PROTO.read_text())
    return {name: " ".join(re.findall(r"// (.*)", comment)) for comment, name in found}


def test_proto_and_python_have_the_same_reasons_and_numbers() -> None:
    of_proto = {name.removeprefix("REASON_"): number for name, number in reason_pb2.Reason.items()}
    assert of_proto == {reason.name: reason.value for reason in Reason}


def test_numbers_rise_in_the_order_of_precedence() -> None:
    written = re.findall(r"REASON_\w+ = (\d+);", PROTO.read_text())
    assert [int(number) for number in written] == sorted(reason.value for reason in Reason)


@pytest.mark.parametrize(
    "reason", [reason for reason in Reason if reason is not Reason.UNSPECIFIED]
)
def test_every_reason_is_documented_with_its_status(reason: Reason) -> None:
    comment = documented()[reason.name]
    if reason in DENIALS_ONLY:
        assert reason not in STATUS_OF_REASON
        assert comment.startswith("A denial")
    else:
        assert STATUS_OF_REASON[reason].name in comment


@pytest.mark.parametrize("reason", STATUS_OF_REASON)
def test_every_error_says_its_reason_on_the_wire(reason: Reason) -> None:
    status = rpc_status(HoldfastError(reason, "One sentence.", retry_after_ms=1_500))
    assert status.code == STATUS_OF_REASON[reason].value
    assert [detail.TypeName() for detail in status.details] == [
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
    ]


WAITING = [reason for reason in STATUS_OF_REASON if "`retry_after_ms`" in documented()[reason.name]]


@pytest.mark.parametrize("reason", WAITING)
def test_whoever_is_told_to_wait_is_told_how_long(reason: Reason) -> None:
    """Whatever refuses: not everybody who finds a store away knows better than the usual."""
    assert int(HoldfastError(reason, "One sentence.").metadata["retry_after_ms"]) > 0
    told = HoldfastError(reason, "One sentence.", retry_after_ms=7)
    assert told.metadata["retry_after_ms"] == "7"


def test_unknown_results_are_errors_that_may_have_been_applied() -> None:
    for reason in errors.UNKNOWN_RESULT_REASONS:
        assert "may or may not have been applied" in documented()[reason.name]
